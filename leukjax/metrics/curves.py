"""ROC and precision-recall curves with bands from a cluster bootstrap."""

import dataclasses

import numpy as np
from jaxtyping import Float

from leukjax.metrics import clustered, confusion, rank_scores
from leukjax.metrics.intervals import TAIL

DRAWS = 1000
GRID = np.linspace(0, 1, 101)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve and its band.

    Attributes:
        x, y: of each distinct threshold, from high to low; false positive rate and sensitivity, or
            recall and precision.
        grid: x of the band.
        low, high: pointwise 95 % percentiles of the cluster bootstrap; NaN if a class has
            fewer than two groups.
    """

    x: Float[np.ndarray, " t"]
    y: Float[np.ndarray, " t"]
    grid: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]


def roc(data: clustered.Grouped, positive: int, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Returns sensitivity over 1 - specificity of one class against the rest.

    The curve is linear between thresholds. A percentile band is slightly too narrow with few groups
    (see `intervals`): draw conclusions from the interval of the AUROC.
    """
    counts, is_class = _counts(data, positive)
    true, false = counts(np.ones((1, data.groups)))
    x, y = (np.append(0.0, confusion.ratio(n[0], n[0, -1])) for n in (false, true))

    def at_grid(weights: np.ndarray) -> np.ndarray:
        true, false = counts(weights)
        x, y = (confusion.ratio(n, n[:, -1:]) for n in (false, true))
        rows = zip(x, y, strict=True)
        return np.array([np.interp(GRID, np.append(0, a), np.append(0, b)) for a, b in rows])

    return Curve(x, y, GRID, *_band(data, is_class, at_grid, draws, seed))


def precision_recall(
    data: clustered.Grouped, positive: int, draws: int = DRAWS, seed: int = 0
) -> Curve:
    """Returns precision over recall of one class against the rest.

    At each recall of the grid the band has the precision of the highest threshold that reaches it:
    linear interpolation between thresholds would be too optimistic (Davis & Goadrich 2006, ICML).
    """
    counts, is_class = _counts(data, positive)
    true, false = counts(np.ones((1, data.groups)))
    x = confusion.ratio(true[0], true[0, -1])
    y = confusion.ratio(true[0], true[0] + false[0])

    def at_grid(weights: np.ndarray) -> np.ndarray:
        true, false = counts(weights)
        recall = confusion.ratio(true, true[:, -1:])
        precision = confusion.ratio(true, true + false)
        first = np.array([np.searchsorted(row, GRID - 1e-12) for row in recall])
        first = np.minimum(first, recall.shape[1] - 1)
        return np.take_along_axis(precision, first, axis=1)

    return Curve(x, y, GRID, *_band(data, is_class, at_grid, draws, seed))


def _counts(data: clustered.Grouped, positive: int):
    is_class = data.labels == positive
    return rank_scores.cumulative(is_class, data.probabilities[:, positive], data.member), is_class


def _band(data: clustered.Grouped, is_class, at_grid, draws: int, seed: int):
    if min(data.count_groups(is_class), data.count_groups(~is_class)) < 2:
        return np.full(len(GRID), np.nan), np.full(len(GRID), np.nan)
    with np.errstate(invalid="ignore"):
        values = clustered.evaluate(at_grid, clustered.resamples(data, draws, seed))
    low, high = np.nanquantile(values, [TAIL, 1 - TAIL], axis=0)
    return low, high
