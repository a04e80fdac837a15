"""95 % confidence intervals of scores, with the group as the unit of the sample.

The default covers: in the simulation of `tests/metrics/test_coverage.py` the interval that takes
images for independent holds the truth in 35 % of the draws, the jackknife's in 94 %.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from leukjax.metrics import clustered, confusion
from leukjax.metrics.jackknife import (
    TAIL,
    ZERO,
    Estimate,
    NoIntervalError,
    bounds,
    jackknife,
)
from leukjax.metrics.obuchowski import clustered_auroc
from leukjax.metrics.scores import predicted_class, scores

NAMES = ("loss", *confusion.NAMES, "auroc", "average_precision", "brier")
METHODS = {
    "jackknife": "delete-one-group jackknife (CR3), t with Satterthwaite's degrees of freedom",
    "obuchowski": "Obuchowski's clustered variance on the logit scale, t with Satterthwaite's"
    " degrees of freedom",
    "exact": "every group alike: binomial (Clopper-Pearson) with one trial a group",
    "group_means": "means of the groups' shares, Welch's t",
    "cr1": "linearised ratio over groups (CR1), t with groups - 1 degrees of freedom",
    "percentile": "cluster bootstrap, percentiles",
    "bca": "cluster bootstrap, bias-corrected and accelerated",
    "independent_images": "normal approximation that assumes independent images (too narrow)",
}
RANGE = {"mcc": (-1.0, 1.0), "loss": (0.0, np.inf), "brier": (0.0, 2.0)}


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval.

    Attributes:
        value: the score; None if it is undefined.
        low, high: the interval; None where there is none, and `reason` says why.
        method: a key of `METHODS`.
        groups: number of groups that bear on the score (for the recall those of the class).
        reason: why there is no interval, or no score; else empty.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    groups: int
    reason: str = ""


def intervals(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    classes: Sequence[str],
    positive: str,
) -> dict[str, Interval]:
    """Every score of `NAMES` with its default interval.

    Args:
        labels: class indices.
        probabilities: a row an image, or a subject.
        groups: name of each row's group.
        classes: names, in the order of the columns.
        positive: one of `classes`.
    """
    data = clustered.group(labels, probabilities, groups)
    found = {name: interval(name, data, classes.index(positive)) for name in NAMES}
    reasons = scores(labels, probabilities, classes, positive).reasons
    return {
        name: dataclasses.replace(one, reason=reasons[name]) if one.value is None else one
        for name, one in found.items()
    }


def interval(
    name: str,
    data: clustered.Grouped,
    positive: int,
    method: str = "jackknife",
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """One score with its interval.

    The default is `jackknife`: it covers with few groups, where a bootstrap is too narrow, and
    agrees with the others where there are many. The AUROC's and the average precision's are taken
    on the logit scale, as is `obuchowski`; simulated with 13 + 15 subjects and an AUROC of 0.84 the
    jackknife covers 94 %, `obuchowski` 91 %. Where all groups agree that a score is 1 (or 0) no
    spread can be estimated; any method then becomes `exact`, see `_exact`.

    Args:
        name: one of `NAMES`.
        data: see `grouped.group`. Groups of one class each are taken as a sample by class; groups
            that hold several classes as one sample.
        positive: index of the positive class; without meaning above two classes.
        method: a key of `METHODS` but "exact"; `obuchowski` is for the AUROC of two classes,
            `group_means` and `independent_images` are for
            accuracy, balanced_accuracy, recall and specificity, `cr1` is for accuracy.
        draws, seed: of the bootstraps.
    """
    score = clustered.statistic(name, data, positive)
    bears = _bears(name, data, positive)
    groups = data.groups if bears is None else data.count_groups(bears)
    value = float(score(np.ones((1, data.groups)))[0])
    if np.isnan(value):
        return Interval(None, None, None, method, groups, "the score is undefined")
    try:
        if method == "jackknife":
            estimate = jackknife(score, data, value)
        elif method == "obuchowski":
            found = clustered_auroc(
                data.labels == positive, data.probabilities[:, positive], data.member
            )
            if np.isnan(found.variance):
                raise NoIntervalError("a class has one group only")
            estimate = Estimate(value, np.sqrt(max(found.variance, 0)), found.df)
        elif method in ("percentile", "bca"):
            return _bootstrap(name, score, data, value, method, draws, seed, groups, bears)
        else:
            estimate = _SIMPLE[method](name, data, positive)
        if estimate.error < ZERO:
            return _exact(name, data, value, groups, bears)
    except NoIntervalError as none:
        return Interval(value, None, None, method, groups, str(none))
    least, most = RANGE.get(name, (0.0, 1.0))
    low, high = bounds(estimate, least, most, logit=name in ("auroc", "average_precision"))
    return Interval(estimate.value, low, high, method, groups)


def _bears(name: str, data: clustered.Grouped, positive: int) -> np.ndarray | None:
    """Images that bear on a score; None: all, through their classes."""
    called = predicted_class(data.probabilities)
    if name == "accuracy":
        return np.ones(len(data.labels), bool)
    if data.probabilities.shape[1] > 2:
        return None
    return {
        "recall": data.labels == positive,
        "specificity": data.labels != positive,
        "precision": called == positive,
        "f1": (data.labels == positive) | (called == positive),
    }.get(name)


def _exact(name, data: clustered.Grouped, value, groups, bears) -> Interval:
    """The interval of a perfect score: Clopper & Pearson (1934) with n successes in n trials.

    A random image of each of n groups makes n independent trials, all of them successes; that
    bounds the probability of success from below by 0.025 ** (1 / n). For an AUROC, or a mean over
    the classes, a trial takes one group of each class, so n is the number of groups of the class
    that has fewest: an interval that may be too wide and is never too narrow. A score of 0 is the
    mirror image. (F1 is at least TP / (TP + FP + FN), which is such a probability.)
    """
    if name in RANGE or value not in (0.0, 1.0):
        raise NoIntervalError("the score is the same whichever group is left out")
    if np.ptp(data.labels) > 0 and np.ptp(predicted_class(data.probabilities)) == 0:
        raise NoIntervalError("every image was called the same class")
    if bears is None:
        classes = data.probabilities.shape[1]
        trials = min(data.count_groups(data.labels == c) for c in range(classes))
        trials = min(trials, data.groups // classes)
    else:
        trials = groups
    if trials == 0:
        raise NoIntervalError("a class has no group of its own")
    bound = TAIL ** (1 / trials)
    low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    return Interval(value, low, high, "exact", groups)


def _bootstrap(name, score, data, value, method, draws, seed, groups, bears) -> Interval:
    """Cluster bootstrap; BCa by Efron (1987, JASA 82:171), its acceleration for several strata by
    Davison & Hinkley (1997, Bootstrap methods, equation 5.23 and section 5.3.2)."""
    if np.bincount(data.stratum).max() < 2:
        raise NoIntervalError("no class has two groups")
    values = clustered.evaluate(score, clustered.resamples(data, draws, seed))
    values = values[~np.isnan(values)]
    if len(values) < 0.95 * draws:
        raise NoIntervalError("more than 5 % of the resamples leave the score undefined")
    if np.ptp(values) < ZERO:
        return _exact(name, data, value, groups, bears)
    tails = np.array([TAIL, 1 - TAIL])
    if method == "bca":
        without = clustered.evaluate(score, clustered.without_each(data))
        if np.isnan(without).any():
            raise NoIntervalError("the score rests on a single group of a class")
        second, third = 0.0, 0.0
        for stratum in np.unique(data.stratum):
            mine = without[data.stratum == stratum]
            influence = (len(mine) - 1) * (mine.mean() - mine)
            second += (influence**2).sum() / len(mine) ** 2
            third += (influence**3).sum() / len(mine) ** 3
        acceleration = third / (6 * second**1.5) if second else 0.0
        # Ties count half, or a coarse score would look biased.
        less = ((values < value - ZERO).mean() + (values < value + ZERO).mean()) / 2
        bias = stats.norm.ppf(np.clip(less, 0.5 / draws, 1 - 0.5 / draws))
        shifted = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(values, tails)
    return Interval(value, float(low), float(high), method, groups)


def _parts(name: str, data: clustered.Grouped, positive: int) -> list[tuple[np.ndarray, float]]:
    """A score as a weighted sum of shares of right images: (which images, weight)."""
    by_class = [data.labels == c for c in range(data.probabilities.shape[1])]
    two = len(by_class) == 2
    if name == "accuracy" and data.single_class:
        sizes = [data.count_groups(images) / data.groups for images in by_class]
        return [(i, size) for i, size in zip(by_class, sizes, strict=True) if size]
    if name == "accuracy":
        return [(np.ones(len(data.labels), bool), 1.0)]
    if name == "balanced_accuracy" or (name == "recall" and not two):
        return [(images, 1 / len(by_class)) for images in by_class]
    if two and name in ("recall", "specificity"):
        return [(by_class[positive if name == "recall" else 1 - positive], 1.0)]
    raise ValueError(f"{name} is no mean of shares of right images")


def _group_means(name: str, data: clustered.Grouped, positive: int) -> Estimate:
    """Each group's share of right images, averaged over groups.

    By class with Welch's degrees of freedom where groups have one class each; else the groups'
    contributions to all classes together, with groups - 1.
    """
    right = predicted_class(data.probabilities) == data.labels
    value, variance, weight, together = 0.0, 0.0, 0.0, np.zeros(data.groups)
    for images, share in _parts(name, data, positive):
        held = data.sums(images.astype(float))
        mine = held > 0
        means = data.sums((images & right).astype(float))[mine] / held[mine]
        if len(means) < 2:
            raise NoIntervalError("a class has one group only")
        value += share * means.mean()
        part = share**2 * means.var(ddof=1) / len(means)
        variance, weight = variance + part, weight + part**2 / (len(means) - 1)
        together[mine] += share * (means - means.mean()) / len(means)
    if data.single_class:
        df = variance**2 / weight if weight else np.nan
        return Estimate(value, np.sqrt(variance), df)
    df = data.groups - 1
    return Estimate(value, np.sqrt((df + 1) / df * float(together @ together)), df)


def _cr1(name: str, data: clustered.Grouped, positive: int) -> Estimate:
    """Accuracy as the ratio of two sums over groups (Rao & Scott 1992, Biometrics 48:577)."""
    if name != "accuracy":
        raise ValueError("cr1 is for accuracy")
    if data.groups < 2:
        raise NoIntervalError("there is one group only")
    right = data.sums((predicted_class(data.probabilities) == data.labels).astype(float))
    images = data.sums(np.ones(len(data.labels)))
    value = right.sum() / images.sum()
    residual = right - value * images
    variance = data.groups / (data.groups - 1) * float(residual @ residual) / images.sum() ** 2
    return Estimate(value, np.sqrt(variance), data.groups - 1)


def _independent_images(name: str, data: clustered.Grouped, positive: int) -> Estimate:
    """Wald's interval with every image an independent trial: for contrast only."""
    right = predicted_class(data.probabilities) == data.labels
    parts = _parts(name, data, positive) if name != "accuracy" else [(right | True, 1.0)]
    value = sum(share * right[images].mean() for images, share in parts)
    variance = sum(share**2 * right[images].var() / images.sum() for images, share in parts)
    return Estimate(float(value), float(np.sqrt(variance)), np.inf)


_SIMPLE = {
    "group_means": _group_means,
    "cr1": _cr1,
    "independent_images": _independent_images,
}
