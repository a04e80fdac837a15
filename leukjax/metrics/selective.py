"""From which confidence on a classifier may answer, so that few of its answers are wrong."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.errors import UserError
from leukjax.metrics.scores import predicted_class


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A confidence, and what it did on the images that it was chosen on.

    Attributes:
        confidence: the largest probability of an image must reach it, else no answer is given
            (`answers`).
        answered: share of the images that reach it.
        wrong: share of wrong answers among these, mean over groups.
        groups: number of groups.
    """

    confidence: float
    answered: float
    wrong: float
    groups: int


def answers(probabilities: Float[np.ndarray, "*n c"], confidence: float) -> Bool[np.ndarray, "*n"]:
    """Whether the largest probability reaches a confidence, compared in float64."""
    return probabilities.max(axis=-1).astype(np.float64) >= np.float64(confidence)


def threshold(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    max_error: float,
) -> Threshold:
    """The lowest confidence at which at most `max_error` of the answers are wrong, plus one.

    It lies half-way between the confidences of two images, so that rounding in another run, or on
    another machine, moves no image across; it answers the same images of validation as the higher
    of the two would.

    "Plus one": the share of wrong answers is the mean over the groups that get any, as if there
    were one group more, all of whose answers are wrong. Such a threshold is never below the one of
    conformal risk control (Angelopoulos, Bates, Fisch, Lei & Schuster 2022, arXiv:2208.02814,
    theorem 1) for the loss "share of a group's images that get a wrong answer". So for a new group,
    exchangeable with these, that share is at most `max_error` in expectation, whatever the model.

    Args:
        labels: true classes of images that the model was not trained on (validation).
        probabilities: the model's, for these.
        groups: whose images they are; a group is one draw.
        max_error: share, above 0 and below 1.

    Raises:
        UserError: no threshold will do.
    """
    names, codes = np.unique(groups, return_inverse=True)
    confidence = probabilities.max(axis=1).astype(np.float64)
    wrong = predicted_class(probabilities) != labels
    order = np.argsort(-confidence, kind="stable")
    answers, errors = np.zeros(len(names)), np.zeros(len(names))
    best = None
    for place, row in enumerate(order.tolist()):
        answers[codes[row]] += 1
        errors[codes[row]] += wrong[row]
        last = place + 1 == len(order)
        if not last and confidence[order[place + 1]] == confidence[row]:
            continue  # images of one confidence are answered together
        there = answers > 0
        shares = errors[there] / answers[there]
        if (shares.sum() + 1) / (len(shares) + 1) <= max_error:
            share = (place + 1) / len(order)
            # Below the last image nothing was seen: only rounding is allowed for.
            lower = confidence[row] * (1 - 2e-6) if last else confidence[order[place + 1]]
            middle = float((confidence[row] + lower) / 2)
            best = Threshold(middle, share, float(shares.mean()), len(names))
    if best is None:
        raise UserError(
            f"no confidence keeps wrong answers at {max_error:g} by the {len(names)} groups of "
            f"validation (their number alone forbids less than {1 / (len(names) + 1):.3g}); "
            "allow more errors, or validate on more subjects"
        )
    return best
