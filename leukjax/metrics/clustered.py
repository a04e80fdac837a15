"""Predictions with groups, and scores as functions of the groups' weights.

Cells of a subject resemble each other, so the sampling unit is the group, not the image. Leaving a
group out or drawing it twice changes its weight; every score here takes a matrix of such weights,
one row per resample, so that ten thousand resamples are a few array operations. Weights that leave
out one group at a time are never stored as a matrix, see `leave_one_out.LeaveOneOut`.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.metrics import confusion, rank_scores
from leukjax.metrics.leave_one_out import CHUNK, LeaveOneOut, Weights
from leukjax.metrics.scores import predicted_class

# weights[r, g] of the groups -> value[r] of the score; NaN where it is undefined.
Statistic = Callable[[Weights], Float[np.ndarray, " r"]]


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Predictions with their groups.

    Attributes:
        labels: class indices.
        probabilities: one row per image.
        member: index of each image's group.
        stratum: of each group: its class if every group has a single class, else 0 for all (groups
            that contain several classes stay whole, so they cannot be drawn by class).
        single_class: whether every group has a single class.
        over: indices of the classes that means over classes are taken of; None = those with images.
    """

    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    member: Int[np.ndarray, " n"]
    stratum: Int[np.ndarray, " g"]
    single_class: bool
    over: tuple[int, ...] | None = None

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.stratum)

    @property
    def classes(self) -> Int[np.ndarray, " k"]:
        """The classes that means over classes are taken of: `over`, else `confusion.averaged`."""
        if self.over is not None:
            return np.array(self.over, np.int64)
        images = np.bincount(self.labels, minlength=self.probabilities.shape[1])
        return confusion.averaged(images)

    def count_groups(self, images: Bool[np.ndarray, " n"]) -> int:
        """Returns the number of groups that contain at least one of these images."""
        return len(np.unique(self.member[images]))

    def sums(self, values: Float[np.ndarray, "n *k"]) -> Float[np.ndarray, "g *k"]:
        """Returns the sum of `values` over the images of each group."""
        result = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(result, self.member, values)
        return result


def group(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    over: tuple[int, ...] | None = None,
) -> Grouped:
    """Returns predictions with their groups, from the name of each image's group."""
    names, member = np.unique(groups, return_inverse=True)
    low = np.full(len(names), probabilities.shape[1])
    high = np.full(len(names), -1)
    np.minimum.at(low, member, labels)
    np.maximum.at(high, member, labels)
    single_class = bool((low == high).all())
    stratum = low if single_class else np.zeros(len(names), int)
    return Grouped(labels, probabilities.astype(np.float64), member, stratum, single_class, over)


def statistic(name: str, data: Grouped, positive: int) -> Statistic:
    """Returns a score as a function of the groups' weights.

    Args:
        name: loss, brier, auroc, average_precision, or one of `confusion.NAMES`.
        data: predictions.
        positive: index of the positive class; ignored above two classes.

    Raises:
        ValueError: the score cannot be computed by groups.
    """
    classes = data.probabilities.shape[1]
    among = data.classes  # fixed here: a resample without a class leaves the mean undefined
    if name in confusion.NAMES:
        matrices = confusion_matrices(data)
        return lambda weights: confusion.score(name, matrices(weights), positive, among)
    if name in rank_scores.NAMES:
        which = [positive] if classes == 2 else among.tolist()
        rank = rank_scores.NAMES[name]
        curves = [rank(data.labels == c, data.probabilities[:, c], data.member) for c in which]
        return lambda weights: np.mean([curve(weights) for curve in curves], axis=0)
    if name in ("loss", "brier"):
        sums = data.sums(_losses(name, data, positive))
        counts = data.sums(np.ones(len(data.labels)))
        return lambda weights: confusion.ratio(weights @ sums, weights @ counts)
    raise ValueError(f"unknown score {name!r}")


def confusion_matrices(data: Grouped) -> Callable[[Weights], Float[np.ndarray, "r c c"]]:
    """Returns the confusion matrix as a function of the groups' weights."""
    classes = data.probabilities.shape[1]
    cell = data.labels * classes + predicted_class(data.probabilities)
    table = np.bincount(data.member * classes**2 + cell, minlength=data.groups * classes**2)
    table = table.reshape(data.groups, classes**2).astype(float)
    return lambda weights: (weights @ table).reshape(-1, classes, classes)


def evaluate(
    score: Statistic, weights: Iterable[Float[np.ndarray, "r g"]]
) -> Float[np.ndarray, " total"]:
    """Returns the score under each row of weights."""
    return np.concatenate([score(chunk) for chunk in weights])


def without_each(data: Grouped) -> LeaveOneOut:
    """Returns weights that leave out one group at a time, by stratum."""
    return LeaveOneOut(data.stratum)


def resamples(data: Grouped, draws: int, seed: int) -> Iterable[Float[np.ndarray, "r g"]]:
    """Returns the weights of `draws` bootstrap samples, in chunks.

    The groups of each stratum are drawn with replacement, as many as it has.
    """
    random = np.random.default_rng(seed)
    strata = [np.flatnonzero(data.stratum == s) for s in np.unique(data.stratum)]
    rows = _rows(data)
    for start in range(0, draws, rows):
        n = min(rows, draws - start)
        # Counts are exact in float32, with half the memory traffic of float64.
        weights = np.zeros((n, data.groups), np.float32)
        for members in strata:
            drawn = random.integers(0, len(members), (n, len(members)))
            drawn += len(members) * np.arange(n)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=n * len(members))
            weights[:, members] = counts.reshape(n, len(members))
        yield weights


def _rows(data: Grouped) -> int:
    return max(1, CHUNK // len(data.labels))


def _losses(name: str, data: Grouped, positive: int) -> Float[np.ndarray, " n"]:
    """Returns the loss or the Brier score of each image, as defined in `scores`."""
    if name == "loss":
        assigned = data.probabilities[np.arange(len(data.labels)), data.labels]
        return -np.log(np.maximum(assigned, np.finfo(np.float64).eps))
    truth = data.labels[:, None] == np.arange(data.probabilities.shape[1])
    errors = (data.probabilities - truth) ** 2
    return errors[:, positive] if errors.shape[1] == 2 else errors.sum(axis=1)
