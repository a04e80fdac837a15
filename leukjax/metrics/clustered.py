"""Predictions that come in groups, and scores as functions of the groups' weights.

Cells of a subject resemble each other, so the group and not the image is what a sample consists of.
Leaving a group out, or drawing it twice, is giving it another weight; every score here takes a
matrix of such weights, a row a resample, so that ten thousand resamples are a few array operations.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.metrics import confusion
from leukjax.metrics.scores import predicted_class

# weights[r, g] of the groups -> value[r] of the score; NaN where it is undefined.
Statistic = Callable[[Float[np.ndarray, "r g"]], Float[np.ndarray, " r"]]
# Elements of the largest intermediate array: it stays within the processor's cache.
CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Predictions with their groups.

    Attributes:
        labels: class indices.
        probabilities: a row an image.
        member: index of each image's group.
        stratum: of each group: its class where every group has one class only, else 0 for all
            (groups that hold several classes stay whole, so they cannot be drawn by class).
        single_class: whether every group has one class only.
    """

    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    member: Int[np.ndarray, " n"]
    stratum: Int[np.ndarray, " g"]
    single_class: bool

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.stratum)

    def count_groups(self, images: Bool[np.ndarray, " n"]) -> int:
        """How many groups hold at least one of these images."""
        return len(np.unique(self.member[images]))

    def sums(self, values: Float[np.ndarray, "n *k"]) -> Float[np.ndarray, "g *k"]:
        """Sum of `values` over the images of each group."""
        result = np.zeros((self.groups, *values.shape[1:]))
        np.add.at(result, self.member, values)
        return result


def group(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
) -> Grouped:
    """Predictions with the name of each image's group."""
    names, member = np.unique(groups, return_inverse=True)
    low = np.full(len(names), probabilities.shape[1])
    high = np.full(len(names), -1)
    np.minimum.at(low, member, labels)
    np.maximum.at(high, member, labels)
    single_class = bool((low == high).all())
    stratum = low if single_class else np.zeros(len(names), int)
    return Grouped(labels, probabilities.astype(np.float64), member, stratum, single_class)


def statistic(name: str, data: Grouped, positive: int) -> Statistic:
    """A score as a function of the groups' weights.

    Args:
        name: loss, brier, auroc, average_precision, or one of `confusion.NAMES`.
        data: predictions.
        positive: index of the positive class; without meaning above two classes.

    Raises:
        ValueError: a score that is not offered by groups.
    """
    classes = data.probabilities.shape[1]
    if name in confusion.NAMES:
        cell = data.labels * classes + predicted_class(data.probabilities)
        table = np.bincount(data.member * classes**2 + cell, minlength=data.groups * classes**2)
        table = table.reshape(data.groups, classes**2).astype(float)
        return lambda weights: confusion.score(
            name, (weights @ table).reshape(-1, classes, classes), positive
        )
    if name in _RANKS:
        which = [positive] if classes == 2 else range(classes)
        rank = _RANKS[name]
        curves = [rank(data.labels == c, data.probabilities[:, c], data.member) for c in which]
        return lambda weights: np.mean([curve(weights) for curve in curves], axis=0)
    if name in ("loss", "brier"):
        sums = data.sums(_losses(name, data, positive))
        counts = data.sums(np.ones(len(data.labels)))
        return lambda weights: confusion.ratio(weights @ sums, weights @ counts)
    raise ValueError(f"{name} has no interval by groups")


def evaluate(
    score: Statistic, weights: Iterable[Float[np.ndarray, "r g"]]
) -> Float[np.ndarray, " total"]:
    """The score under each row of weights, chunk after chunk."""
    return np.concatenate([score(chunk) for chunk in weights])


def without_each(data: Grouped) -> Iterable[Float[np.ndarray, "r g"]]:
    """Weights that leave out one group after the other, in chunks.

    The others of its stratum make up for it, n / (n - 1) each: how many groups there are of each
    class is given and not sampled, so leaving one out must not change the shares of the classes.
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
    """Weights of `draws` bootstrap samples, in chunks.

    Each stratum's groups are drawn with replacement, as many as there are.
    """
    random = np.random.default_rng(seed)
    strata = [np.flatnonzero(data.stratum == s) for s in np.unique(data.stratum)]
    rows = _rows(data)
    for start in range(0, draws, rows):
        n = min(rows, draws - start)
        # Counts are exact in float32, and half the memory traffic of float64.
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
    """Each image's share of the loss or of the Brier score, as defined in `scores`."""
    if name == "loss":
        given = data.probabilities[np.arange(len(data.labels)), data.labels]
        return -np.log(np.maximum(given, np.finfo(np.float64).eps))
    truth = data.labels[:, None] == np.arange(data.probabilities.shape[1])
    errors = (data.probabilities - truth) ** 2
    return errors[:, positive] if errors.shape[1] == 2 else errors.sum(axis=1)


def _auroc(is_class: np.ndarray, probability: np.ndarray, member: np.ndarray) -> Statistic:
    """AUROC under weights: sort once, then one cumulative sum for each row of weights."""
    groups = int(member.max()) + 1
    rest = np.flatnonzero(~is_class)
    rest = rest[np.argsort(probability[rest], kind="stable")]
    mine = np.flatnonzero(is_class)
    mine = mine[np.argsort(probability[mine], kind="stable")]
    # For each image of the class, how many of the rest lie below it, and below or level with it.
    below = np.searchsorted(probability[rest], probability[mine], side="left")
    level = np.searchsorted(probability[rest], probability[mine], side="right")
    tied = bool((below != level).any())
    sizes = np.bincount(member[mine], minlength=groups), np.bincount(member[rest], minlength=groups)

    def score(weights: np.ndarray) -> np.ndarray:
        lower = np.zeros((len(weights), len(rest) + 1), weights.dtype)
        np.cumsum(weights[:, member[rest]], axis=1, out=lower[:, 1:])
        share = (lower[:, below] + lower[:, level]) / 2 if tied else lower[:, below]
        pairs = np.einsum("rn,rn->r", weights[:, member[mine]], share, dtype=np.float64)
        total = (weights @ sizes[0]) * (weights @ sizes[1])
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, pairs / total, np.nan)

    return score


def _average_precision(is_class: np.ndarray, probability: np.ndarray, member: np.ndarray):
    """Average precision under weights: the steps of recall times the precision after each."""
    counts = cumulative(is_class, probability, member)

    def score(weights: np.ndarray) -> np.ndarray:
        true, false = counts(weights)
        precision = confusion.ratio(true, true + false)
        recall = confusion.ratio(true, true[:, -1:])
        steps = np.diff(recall, axis=1, prepend=0.0)
        # Thresholds above every image that has a weight call nothing and add nothing.
        value = (np.where(steps > 0, precision, 0.0) * steps).sum(axis=1)
        # Without an image of the rest there is nothing to be ranked above, as in `scores`.
        return np.where((true[:, -1] > 0) & (false[:, -1] > 0), value, np.nan)

    return score


def cumulative(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> Callable[[np.ndarray], tuple[Float[np.ndarray, "r t"], Float[np.ndarray, "r t"]]]:
    """True and false positives at each distinct threshold, from high to low, under weights."""
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))

    def counts(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = weights[:, member[order]].astype(np.float64)
        true = np.cumsum(each * is_class[order], axis=1)[:, ends]
        return true, np.cumsum(each, axis=1)[:, ends] - true

    return counts


_RANKS = {"auroc": _auroc, "average_precision": _average_precision}
