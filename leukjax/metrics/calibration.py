"""Calibration: reliability diagrams and temperature scaling."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import optimize

from leukjax.metrics import clustered, confusion
from leukjax.metrics.intervals import ZERO, NoIntervalError, all_alike, bounds, jackknife
from leukjax.metrics.scores import predicted_class, softmax

BINS = 10
COLDEST, HOTTEST = 0.05, 20.0  # bounds of the temperature
FLOOR = float(np.finfo(np.float32).smallest_subnormal)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Images of similar probability.

    Attributes:
        predicted: their mean probability.
        observed: share of them for which the event is true.
        low, high: 95 % interval of `observed` over groups; None with a single group.
        images, groups: how many.
    """

    predicted: float
    observed: float
    low: float | None
    high: float | None
    images: int
    groups: int


def reliability(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    positive: int,
    bins: int = BINS,
) -> list[Bin]:
    """Returns the reliability diagram (DeGroot & Fienberg 1983, The Statistician 32:12).

    Two classes: the probability of the positive one against how often it is true. More: the largest
    probability against how often that class is true. Bins have equal numbers of images as far as
    ties allow: images of equal probability are in the same bin.

    The interval of a bin is the delete-one-group jackknife over all groups, stratified by class, on
    the logit scale with t; where all images of a bin have the same outcome it is the binomial one
    with one trial per group (Clopper & Pearson).
    """
    data = clustered.group(labels, probabilities, groups)
    if probabilities.shape[1] == 2:
        predicted, is_true = data.probabilities[:, positive], labels == positive
    else:
        predicted = data.probabilities.max(axis=1)
        is_true = predicted_class(data.probabilities) == labels
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    which = np.searchsorted(edges, predicted, side="left")
    return [_bin(which == b, predicted, is_true, data) for b in np.unique(which)]


def _bin(
    inside: np.ndarray, predicted: np.ndarray, is_true: np.ndarray, data: clustered.Grouped
) -> Bin:
    observed = float(is_true[inside].mean())
    count = data.count_groups(inside)
    low: float | None = None
    high: float | None = None
    if observed in (0.0, 1.0):
        low, high = all_alike(bool(observed), count)
    else:
        hits, images = data.sums(is_true & inside), data.sums(inside)
        try:
            estimate = jackknife(
                lambda weights: confusion.ratio(weights @ hits, weights @ images), data, observed
            )
            if estimate.error > ZERO:
                low, high = bounds(estimate, 0.0, 1.0, logit=True)
        except NoIntervalError:
            pass
    return Bin(float(predicted[inside].mean()), observed, low, high, int(inside.sum()), count)


def temperature(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n c"]) -> float:
    """Returns the temperature that minimises the loss of these images (Guo et al. 2017, ICML, 4.2).

    Above 1 the model was overconfident, below 1 underconfident. Fit it on validation, never on
    test. The loss is convex in 1 / T, so the minimum is unique; it is bounded by 0.05 and 20, which
    matters if every validation image is classified correctly.

    Args:
        labels: true classes.
        probabilities: in float64 as written; in float32 very small ones would be 0.
    """
    log = _logarithm(probabilities)

    def loss(inverse: float) -> float:
        scaled = inverse * log
        scaled -= scaled.max(axis=1, keepdims=True)
        given = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(axis=1)) - given).mean())

    result = optimize.minimize_scalar(
        loss, bounds=(1 / HOTTEST, 1 / COLDEST), method="bounded", options={"xatol": 1e-8}
    )
    return float(1 / result.x)


def rescale(
    probabilities: Float[np.ndarray, "n c"], temperature: float
) -> Float[np.ndarray, "n c"]:
    """Returns softmax(log p / T), the probabilities at another temperature.

    The predicted class stays the same.
    """
    return softmax(_logarithm(probabilities) / temperature)


def _logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Returns logits up to a constant in each row.

    Runs store probabilities in float64, so that none is 0. A 0 comes from an older run or another
    tool and was too small for float32: it is replaced by the smallest float32 number, or by the
    smallest other one of its row. That is the largest possible logit, so the temperature may be too
    low (one wrong image in 200 with a margin of 150: 3.7 instead of 5.2), but not at the bound of
    20, as it would be with the smallest float64 number.
    """
    given = probabilities.astype(np.float64)
    least = np.where(given > 0, given, FLOOR).min(axis=1, keepdims=True)
    return np.log(np.where(given > 0, given, np.minimum(least, FLOOR)))
