"""Decision thresholds, chosen on validation: when to predict the positive class, when to abstain.

Chosen on test, a threshold would be too good. Thresholds are float64 and are compared in float64:
no float32 is between two neighbouring float32 numbers, so a threshold half-way between them would
be rounded to one of them.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.errors import UserError
from leukjax.metrics.scores import predicted_class

_RULES = {
    "youden": "largest sensitivity + specificity - 1 on validation (Youden 1950, Cancer 3:32)",
    "sensitivity": "largest with a sensitivity of at least {} on validation",
    "specificity": "smallest with a specificity of at least {} on validation",
}


def describe(criterion: str) -> str:
    """Returns a sentence on how the threshold is chosen."""
    name, least = check(criterion)
    return _RULES[name].format(least) if name in _RULES else f"{least:g}, as given"


def check(criterion: str) -> tuple[str, float]:
    """Returns the name and the number of a criterion; ("fixed", t) for the threshold itself.

    Raises:
      UserError: it is not a criterion.
    """
    name, equals, text = criterion.partition("=")
    try:
        value = float(text if equals else name) if name != "youden" else 0.0
    except ValueError:
        value = np.nan
    if name == "youden" and not equals:
        return name, value
    if name in ("sensitivity", "specificity") and 0 < value <= 1:
        return name, value
    if not equals and 0 <= value <= 1:
        return "fixed", value
    raise UserError(
        f"threshold {criterion!r}: must be youden, sensitivity=X, specificity=X (X above 0, up to "
        "1), or a number in 0 to 1"
    )


def choose(
    criterion: str, is_positive: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> float:
    """Returns the threshold t of a criterion; probabilities >= t are predicted positive.

    Candidates are half-way between neighbouring probabilities, so that rounding in another run
    moves no image across; of equally good ones the one nearest to 0.5 is taken.

    Args:
      criterion: "youden", "sensitivity=X", "specificity=X", or a number: the threshold itself.
      is_positive: the true classes.
      probability: of the positive class.

    Raises:
      UserError: not a criterion, or all images have the same class.
    """
    name, least = check(criterion)
    if name == "fixed":
        return least
    if is_positive.all() or not is_positive.any():
        raise UserError(
            f"threshold {criterion!r}: the validation split has only one class; give a number"
        )
    values = np.unique(probability.astype(np.float64))
    # 0: all are positive; half-way between neighbours; just above the largest: none is.
    candidates = np.concatenate(
        [[0.0], (values[:-1] + values[1:]) / 2, [np.nextafter(values[-1], 2)]]
    )
    sensitivity = 1 - _share_below(candidates, probability[is_positive])
    specificity = _share_below(candidates, probability[~is_positive])
    if name == "youden":
        index = sensitivity + specificity
        best = candidates[index >= index.max() - 1e-12]
        return float(best[np.abs(best - 0.5).argmin()])
    # Of those that meet the requirement, the one that is best in the other respect.
    if name == "sensitivity":
        return float(candidates[sensitivity >= least - 1e-12].max())
    return float(candidates[specificity >= least - 1e-12].min())


def reached(probability: Float[np.ndarray, " n"], threshold: float) -> Bool[np.ndarray, " n"]:
    """Returns whether each probability is at least the threshold, compared in float64."""
    return probability.astype(np.float64) >= np.float64(threshold)


def _share_below(
    thresholds: Float[np.ndarray, " m"], probability: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " m"]:
    return np.searchsorted(np.sort(probability.astype(np.float64)), thresholds) / len(probability)


@dataclasses.dataclass(frozen=True)
class ConfidenceThreshold:
    """A confidence below which a classifier abstains, with its result on the validation images.

    Attributes:
        confidence: an image is classified if its largest probability reaches it (`is_confident`).
        answered: share of the images that reach it.
        wrong: share of wrong predictions among these, mean over groups.
        groups: number of groups.
    """

    confidence: float
    answered: float
    wrong: float
    groups: int


def is_confident(
    probabilities: Float[np.ndarray, "*n c"], confidence: float
) -> Bool[np.ndarray, "*n"]:
    """Returns whether the largest probability reaches a confidence, compared in float64."""
    return reached(probabilities.max(axis=-1), confidence)


def choose_confidence(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    max_error: float,
) -> ConfidenceThreshold:
    """Returns the lowest confidence at which at most `max_error` of the predictions are wrong.

    It is half-way between the confidences of two images, so that rounding in another run or on
    another machine moves no image across.

    The share of wrong predictions is the mean over the groups with at least one prediction and one
    imaginary group that is always wrong. Such a threshold is never below that of conformal risk
    control (Angelopoulos, Bates, Fisch, Lei & Schuster 2022, arXiv:2208.02814, theorem 1) for the
    loss "share of a group's images with a wrong prediction". So for a new group, exchangeable with
    these, that share is at most `max_error` in expectation, for any model.

    Args:
        labels: true classes of images that the model was not trained on (validation).
        probabilities: predictions for these images.
        groups: the group of each image; the group is the sampling unit.
        max_error: share, above 0 and below 1.

    Raises:
        UserError: no threshold keeps the error that low.
    """
    names, codes = np.unique(groups, return_inverse=True)
    confidence = probabilities.max(axis=1).astype(np.float64)
    wrong = predicted_class(probabilities) != labels
    order = np.argsort(-confidence, kind="stable")
    answered, errors = np.zeros(len(names)), np.zeros(len(names))
    best = None
    for count, row in enumerate(order.tolist(), start=1):
        answered[codes[row]] += 1
        errors[codes[row]] += wrong[row]
        last = count == len(order)
        if not last and confidence[order[count]] == confidence[row]:
            continue  # images of equal confidence are on the same side
        shares = errors[answered > 0] / answered[answered > 0]
        if (shares.sum() + 1) / (len(shares) + 1) <= max_error:
            # There is no image below the last one: leave room for rounding only.
            lower = confidence[row] * (1 - 2e-6) if last else confidence[order[count]]
            middle = float((confidence[row] + lower) / 2)
            share = count / len(order)
            best = ConfidenceThreshold(middle, share, float(shares.mean()), len(names))
    if best is None:
        raise UserError(
            f"no confidence threshold keeps the share of wrong predictions at {max_error:g} for the"
            f" {len(names)} groups of the validation split (with so few groups the lowest possible "
            f"share is {1 / (len(names) + 1):.3g}); allow more errors, or validate on more subjects"
        )
    return best
