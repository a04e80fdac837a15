"""Calibration: reliability by bins, and temperature scaling."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import optimize

from leukjax.metrics import clustered, confusion
from leukjax.metrics.jackknife import TAIL, ZERO, NoIntervalError, bounds, jackknife
from leukjax.metrics.scores import predicted_class, softmax

BINS = 10
COLDEST, HOTTEST = 0.05, 20.0  # temperatures tried
FLOOR = float(np.finfo(np.float32).smallest_subnormal)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Images of similar probability.

    Attributes:
        predicted: their mean probability.
        observed: share of them for which the event came true.
        low, high: 95 % interval of `observed` over groups; None where one group is all there is.
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
    """The reliability diagram (DeGroot & Fienberg 1983, The Statistician 32:12).

    Two classes: the probability of the positive one against how often it is true. More: the largest
    probability against how often that class is true. Bins hold equal numbers of images as far as
    ties allow: images of one probability are never parted.

    The interval of a bin leaves out one group after the other, of all groups and stratified by
    class, on the logit scale with t; where all of a bin came out alike it is the binomial one with
    a trial a group (Clopper & Pearson).
    """
    data = clustered.group(labels, probabilities, groups)
    if probabilities.shape[1] == 2:
        predicted, came_true = data.probabilities[:, positive], labels == positive
    else:
        predicted = data.probabilities.max(axis=1)
        came_true = predicted_class(data.probabilities) == labels
    edges = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    which = np.searchsorted(edges, predicted, side="left")
    return [_bin(which == b, predicted, came_true, data) for b in np.unique(which)]


def _bin(
    inside: np.ndarray, predicted: np.ndarray, came_true: np.ndarray, data: clustered.Grouped
) -> Bin:
    observed = float(came_true[inside].mean())
    count = data.count_groups(inside)
    low: float | None = None
    high: float | None = None
    if observed in (0.0, 1.0):
        bound = TAIL ** (1 / count)
        low, high = (bound, 1.0) if observed else (0.0, 1 - bound)
    else:
        hits, images = data.sums(came_true & inside), data.sums(inside)
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
    """The temperature that makes these images' loss smallest (Guo et al. 2017, ICML, section 4.2).

    Above 1 the model was too sure, below 1 too timid. Fit it on validation, never on test. The
    loss is convex in 1 / T, so there is one answer; it is held between 0.05 and 20, which binds
    where every image of the validation part is called right.

    Args:
        labels: true classes.
        probabilities: in float64 as they are written, or what is very unlikely has become 0.
    """
    log = _logarithm(probabilities)

    def loss(inverse: float) -> float:
        scaled = inverse * log
        scaled -= scaled.max(axis=1, keepdims=True)
        given = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(axis=1)) - given).mean())

    found = optimize.minimize_scalar(
        loss, bounds=(1 / HOTTEST, 1 / COLDEST), method="bounded", options={"xatol": 1e-8}
    )
    return float(1 / found.x)


def rescale(
    probabilities: Float[np.ndarray, "n c"], temperature: float
) -> Float[np.ndarray, "n c"]:
    """Probabilities at another temperature: softmax(log p / T). The largest stays the largest."""
    return softmax(_logarithm(probabilities) / temperature)


def _logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant in each row.

    Runs keep probabilities in float64, so that none is 0. A 0 is of an older run, or of another
    tool, and was too small for float32: it counts as the smallest number that float32 has, or as
    the smallest other one of its row. That is the largest logit it can have had, so the temperature
    may come out too low (one wrong image in 200 with a margin of 150: 3.7 instead of 5.2), but
    never at the bound of 20, where a floor at float64's smallest number put it.
    """
    given = probabilities.astype(np.float64)
    least = np.where(given > 0, given, FLOOR).min(axis=1, keepdims=True)
    return np.log(np.where(given > 0, given, np.minimum(least, FLOOR)))
