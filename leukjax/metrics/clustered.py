"""Predictions with groups, and scores as functions of the groups' weights.

Cells of a subject resemble each other, so the sampling unit is the group, not the image. Leaving a
group out or drawing it twice changes its weight; every score here takes a matrix of such weights,
one row per resample, so that ten thousand resamples are a few array operations.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.metrics import confusion
from leukjax.metrics.scores import predicted_class

# weights[r, g] of the groups -> value[r] of the score; NaN where it is undefined.
Statistic = Callable[[Float[np.ndarray, "r g"]], Float[np.ndarray, " r"]]
# Elements of the largest intermediate array: it fits into the processor's cache.
CHUNK = 1 << 18


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
    if name in _RANKS:
        which = [positive] if classes == 2 else among.tolist()
        rank = _RANKS[name]
        curves = [rank(data.labels == c, data.probabilities[:, c], data.member) for c in which]
        return lambda weights: np.mean([curve(weights) for curve in curves], axis=0)
    if name in ("loss", "brier"):
        sums = data.sums(_losses(name, data, positive))
        counts = data.sums(np.ones(len(data.labels)))
        return lambda weights: confusion.ratio(weights @ sums, weights @ counts)
    raise ValueError(f"unknown score {name!r}")


def confusion_matrices(
    data: Grouped,
) -> Callable[[Float[np.ndarray, "r g"]], Float[np.ndarray, "r c c"]]:
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


def without_each(data: Grouped) -> Iterable[Float[np.ndarray, "r g"]]:
    """Returns weights that leave out one group at a time, in chunks.

    The other groups of its stratum get the weight n / (n - 1): the number of groups of each class
    is fixed and not sampled, so leaving one out must not change the shares of the classes.
    """
    rows = _rows(data)
    size = np.bincount(data.stratum)[data.stratum]
    for start in range(0, data.groups, rows):
        left_out = np.arange(start, min(start + rows, data.groups))
        same = data.stratum[left_out][:, None] == data.stratum
        weights = np.where(same, size / np.maximum(size - 1, 1), 1.0)
        weights[np.arange(len(left_out)), left_out] = 0
        yield weights


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


def _auroc(is_class: np.ndarray, probability: np.ndarray, member: np.ndarray) -> Statistic:
    """AUROC under weights: sorts once, then one cumulative sum per row of weights."""
    groups = int(member.max()) + 1
    rest = np.flatnonzero(~is_class)
    rest = rest[np.argsort(probability[rest], kind="stable")]
    ours = np.flatnonzero(is_class)
    ours = ours[np.argsort(probability[ours], kind="stable")]
    # For each image of the class: how many of the rest are below it, and below or tied with it.
    below = np.searchsorted(probability[rest], probability[ours], side="left")
    not_above = np.searchsorted(probability[rest], probability[ours], side="right")
    tied = bool((below != not_above).any())
    sizes = np.bincount(member[ours], minlength=groups), np.bincount(member[rest], minlength=groups)

    def score(weights: np.ndarray) -> np.ndarray:
        lower = np.zeros((len(weights), len(rest) + 1), weights.dtype)
        np.cumsum(weights[:, member[rest]], axis=1, out=lower[:, 1:])
        share = (lower[:, below] + lower[:, not_above]) / 2 if tied else lower[:, below]
        pairs = np.einsum("rn,rn->r", weights[:, member[ours]], share, dtype=np.float64)
        total = (weights @ sizes[0]) * (weights @ sizes[1])
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, pairs / total, np.nan)

    return score


def _average_precision(is_class: np.ndarray, probability: np.ndarray, member: np.ndarray):
    """Average precision under weights: steps of recall times the precision after each step."""
    counts = cumulative(is_class, probability, member)

    def score(weights: np.ndarray) -> np.ndarray:
        true, false = counts(weights)
        precision = confusion.ratio(true, true + false)
        recall = confusion.ratio(true, true[:, -1:])
        steps = np.diff(recall, axis=1, prepend=0.0)
        # Thresholds above every image with a weight predict no image and add nothing.
        value = (np.where(steps > 0, precision, 0.0) * steps).sum(axis=1)
        # Undefined without an image of the rest, as in `scores`.
        return np.where((true[:, -1] > 0) & (false[:, -1] > 0), value, np.nan)

    return score


def cumulative(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> Callable[[np.ndarray], tuple[Float[np.ndarray, "r t"], Float[np.ndarray, "r t"]]]:
    """Returns true and false positives at each threshold, from high to low, under weights."""
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))

    def counts(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = weights[:, member[order]].astype(np.float64)
        true = np.cumsum(images * is_class[order], axis=1)[:, ends]
        return true, np.cumsum(images, axis=1)[:, ends] - true

    return counts


_RANKS = {"auroc": _auroc, "average_precision": _average_precision}
