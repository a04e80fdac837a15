"""Scores of ranks, AUROC and average precision, as functions of the groups' weights."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from leukjax.metrics import confusion
from leukjax.metrics.leave_one_out import CHUNK, LeaveOneOut, Weights

RankScore = Callable[[Weights], Float[np.ndarray, " r"]]


def auroc(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> RankScore:
    """Returns the AUROC under weights: sorts once, then one cumulative sum per row of weights.

    Args:
        is_class: whether an image is of the class; the others are the rest.
        probability: of the class.
        member: index of each image's group.
    """
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

    def score(weights: Weights) -> np.ndarray:
        if isinstance(weights, LeaveOneOut):
            pairs = _pairs_without_each(weights, is_class, probability, member)
        else:
            lower = np.zeros((len(weights), len(rest) + 1), weights.dtype)
            np.cumsum(weights[:, member[rest]], axis=1, out=lower[:, 1:])
            share = (lower[:, below] + lower[:, not_above]) / 2 if tied else lower[:, below]
            pairs = np.einsum("rn,rn->r", weights[:, member[ours]], share, dtype=np.float64)
        total = (weights @ sizes[0]) * (weights @ sizes[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, pairs / total, np.nan)

    return score


def _pairs_without_each(
    weights: LeaveOneOut, is_class: np.ndarray, probability: np.ndarray, member: np.ndarray
) -> Float[np.ndarray, " g"]:
    """Returns the weighted number of correctly ordered pairs without each group.

    It is a bilinear form B(w, w) of the weights, and w = b - f e: `b` weighs the stratum by `f` and
    the other groups by 1, `e` is the group itself. B(e, 1) is a sum of placements (DeLong et al.
    1988, Biometrics 44:837), so all terms take O(n log n).
    """
    stratum, f = weights.stratum, weights.factor
    _, rank = np.unique(probability, return_inverse=True)

    def placements(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each group: correctly ordered pairs inside a block, from the class and the rest."""
        width = rank.max() + 1
        key = block * width + rank
        first = np.sort(key[is_class]), np.sort(key[~is_class])
        ours, rest = key[is_class], key[~is_class]
        below = _middle(first[1], ours) - np.searchsorted(first[1], block[is_class] * width)
        above = np.searchsorted(first[0], (block[~is_class] + 1) * width) - _middle(first[0], rest)
        return (
            np.bincount(member[is_class], below, len(stratum)),
            np.bincount(member[~is_class], above, len(stratum)),
        )

    ours_all, rest_all = placements(np.zeros_like(member))
    ours_same, rest_same = placements(stratum[member])
    itself, _ = placements(member)
    with_stratum = weights.by_stratum(ours_all + rest_all)
    inside = weights.by_stratum(ours_same)
    base = ours_all.sum() + (f - 1) * with_stratum + (f - 1) ** 2 * inside
    lost = ours_all + rest_all + (f - 1) * (ours_same + rest_same)
    return base - f * lost + f**2 * itself


def _middle(ordered: np.ndarray, values: np.ndarray) -> Float[np.ndarray, " n"]:
    """Returns how many of `ordered` are below each value, ties by half."""
    low, high = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (low + high) / 2


def average_precision(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> RankScore:
    """Returns the average precision under weights: precision times steps of recall, summed."""
    counts = cumulative(is_class, probability, member)
    rest_of_group = np.bincount(member[~is_class], minlength=int(member.max()) + 1)

    def score(weights: Weights) -> np.ndarray:
        if isinstance(weights, LeaveOneOut):
            chunks = _counts_without_each(weights, is_class, probability, member)
            value = np.concatenate([_average(true, images) for true, images in chunks])
            rest = weights @ rest_of_group
        else:
            true, false = counts(weights)
            value, rest = _average(true, true + false), false[:, -1]
        # Undefined without an image of the rest, as in `scores`.
        return np.where(rest > 0, value, np.nan)

    return score


def _average(true: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Average precision of true positives and all images at each threshold, from high to low."""
    if not true.shape[1]:
        return np.full(len(true), np.nan)
    precision = confusion.ratio(true, images)
    recall = confusion.ratio(true, true[:, -1:])
    steps = np.diff(recall, axis=1, prepend=0.0)
    # Thresholds above every image with a weight predict no image and add nothing.
    value = (np.where(steps > 0, precision, 0.0) * steps).sum(axis=1)
    return np.where(true[:, -1] > 0, value, np.nan)


def _counts_without_each(
    weights: LeaveOneOut, is_class: np.ndarray, probability: np.ndarray, member: np.ndarray
) -> Iterator[Float[np.ndarray, "2 r t"]]:
    """Yields true positives and all images without each group, in chunks of groups.

    Only at the thresholds that images of the class have: recall rises at no other.
    """
    thresholds = np.unique(-probability[is_class])
    # An image counts from the first of these thresholds that it reaches; some reach none.
    slot = np.searchsorted(thresholds, -probability)
    order = np.argsort(member, kind="stable")
    order = order[slot[order] < len(thresholds)]
    row, slot, is_class = member[order], slot[order], is_class[order]
    stratum = weights.stratum
    totals = _counts(stratum[row], slot, is_class, (int(stratum.max()) + 1, len(thresholds)))
    size = max(1, CHUNK // max(len(thresholds), 1))
    for start in range(0, len(weights), size):
        stop = min(start + size, len(weights))
        mine = slice(*np.searchsorted(row, [start, stop]))
        shape = (stop - start, len(thresholds))
        counts = _counts(row[mine] - start, slot[mine], is_class[mine], shape)
        same = totals[:, stratum[start:stop]]
        others = totals.sum(axis=1, keepdims=True) - same
        yield others + weights.factor[start:stop, None] * (same - counts)


def _counts(
    row: np.ndarray, slot: np.ndarray, is_class: np.ndarray, shape: tuple[int, int]
) -> Int[np.ndarray, "2 r t"]:
    """Returns the number of images of the class, and of all, up to each slot of each row."""
    cell = row * shape[1] + slot
    cells = [np.bincount(c, minlength=shape[0] * shape[1]) for c in (cell[is_class], cell)]
    return np.cumsum(np.reshape(cells, (2, *shape)), axis=2)


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


NAMES = {"auroc": auroc, "average_precision": average_precision}
