"""Other interval methods and tests, to compare those of `leukjax.metrics` with."""

import dataclasses

import numpy as np
from scipy import stats

from leukjax.metrics import clustered, intervals
from leukjax.metrics.intervals import TAIL, ZERO, Estimate, Interval, NoIntervalError
from leukjax.metrics.paired_tests import (
    ChiSquared,
    Discordant,
    auroc_components,
    auroc_covariance,
    chi_squared,
)
from leukjax.metrics.scores import predicted_class


def interval(name, data, positive, method="jackknife", draws=10_000, seed=0) -> Interval:
    """Returns a score with its interval by another method.

    Args:
        name: one of `intervals.NAMES`; two classes for all methods but the bootstraps.
        data: predictions with their groups.
        positive: index of the positive class.
        method: jackknife (leukjax's own), obuchowski (AUROC), percentile and bca (cluster
            bootstraps), group_means and independent_images (accuracy, balanced accuracy, recall,
            specificity), cr1 (accuracy).
        draws, seed: of the bootstraps.
    """
    if method == "jackknife":
        return intervals.interval(name, data, positive)
    score = clustered.statistic(name, data, positive)
    value = float(score(np.ones((1, data.groups)))[0])
    groups = intervals.contributing_groups(name, data, positive)
    try:
        if method in ("percentile", "bca"):
            values = _resampled(score, data, draws, seed)
            if np.ptp(values) < ZERO:
                return intervals.exact(name, data, value, positive)
            tails = np.array([TAIL, 1 - TAIL])
            if method == "bca":
                tails = _bca_tails(score, data, value, values)
            low, high = np.quantile(values, tails)
            return Interval(value, float(low), float(high), method, groups)
        estimate = _ESTIMATES[method](name, data, positive)
        if estimate.error < ZERO:
            return intervals.exact(name, data, value, positive)
    except NoIntervalError as error:
        return Interval(value, None, None, method, groups, str(error))
    low, high = intervals.bounds(estimate, 0.0, 1.0, logit=name == "auroc")
    return Interval(estimate.value, low, high, method, groups)


METHODS = ("jackknife", "obuchowski", "percentile", "bca", "group_means", "cr1")


def _resampled(score, data, draws, seed) -> np.ndarray:
    if np.bincount(data.stratum).max() < 2:
        raise NoIntervalError("no class has two groups")
    values = clustered.evaluate(score, clustered.resamples(data, draws, seed))
    values = values[~np.isnan(values)]
    if len(values) < 0.95 * draws:
        raise NoIntervalError("more than 5 % of the resamples leave the score undefined")
    return values


def _bca_tails(score, data, value, values) -> np.ndarray:
    """Efron (1987, JASA 82:171), its acceleration for several strata by Davison & Hinkley (1997,
    Bootstrap methods, equation 5.23 and section 5.3.2)."""
    without = score(clustered.without_each(data))
    if np.isnan(without).any():
        raise NoIntervalError("the score rests on a single group of a class")
    second, third = 0.0, 0.0
    for stratum in np.unique(data.stratum):
        scores = without[data.stratum == stratum]
        influence = (len(scores) - 1) * (scores.mean() - scores)
        second += (influence**2).sum() / len(scores) ** 2
        third += (influence**3).sum() / len(scores) ** 3
    acceleration = third / (6 * second**1.5) if second else 0.0
    # Ties count half, or a coarse score would look biased.
    less = ((values < value - ZERO).mean() + (values < value + ZERO).mean()) / 2
    bias = stats.norm.ppf(np.clip(less, 0.5 / len(values), 1 - 0.5 / len(values)))
    shifted = bias + stats.norm.ppf([TAIL, 1 - TAIL])
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))


def _shares(name, data, positive) -> list[tuple[np.ndarray, float]]:
    """A score of two classes as a weighted sum of shares of correct images: (images, weight)."""
    by_class = [data.labels == c for c in range(2)]
    if name == "accuracy" and data.single_class:
        sizes = [data.count_groups(images) / data.groups for images in by_class]
        return [(i, size) for i, size in zip(by_class, sizes, strict=True) if size]
    if name == "accuracy":
        return [(np.ones(len(data.labels), bool), 1.0)]
    if name == "balanced_accuracy":
        return [(images, 0.5) for images in by_class]
    return [(by_class[{"recall": positive, "specificity": 1 - positive}[name]], 1.0)]


def _group_means(name, data, positive) -> Estimate:
    """Each group's share of correct images, averaged over groups.

    By class with Welch's degrees of freedom where groups have a single class; else the groups'
    contributions to all classes, with groups - 1.
    """
    right = predicted_class(data.probabilities) == data.labels
    value, variance, weight, total = 0.0, 0.0, 0.0, np.zeros(data.groups)
    for images, share in _shares(name, data, positive):
        counts = data.sums(images.astype(float))
        inside = counts > 0
        means = data.sums((images & right).astype(float))[inside] / counts[inside]
        if len(means) < 2:
            raise NoIntervalError("a class has one group only")
        value += share * means.mean()
        term = share**2 * means.var(ddof=1) / len(means)
        variance, weight = variance + term, weight + term**2 / (len(means) - 1)
        total[inside] += share * (means - means.mean()) / len(means)
    if data.single_class:
        return Estimate(value, np.sqrt(variance), variance**2 / weight if weight else np.nan)
    df = data.groups - 1
    return Estimate(value, np.sqrt((df + 1) / df * float(total @ total)), df)


def _cr1(_, data, __) -> Estimate:
    """Accuracy as the ratio of two sums over groups (Rao & Scott 1992, Biometrics 48:577)."""
    if data.groups < 2:
        raise NoIntervalError("there is one group only")
    right = data.sums((predicted_class(data.probabilities) == data.labels).astype(float))
    images = data.sums(np.ones(len(data.labels)))
    value = right.sum() / images.sum()
    residual = right - value * images
    variance = data.groups / (data.groups - 1) * float(residual @ residual) / images.sum() ** 2
    return Estimate(value, np.sqrt(variance), data.groups - 1)


def _independent_images(name, data, positive) -> Estimate:
    """Wald's interval, which takes every image as an independent trial."""
    right = predicted_class(data.probabilities) == data.labels
    shares = _shares(name, data, positive) if name != "accuracy" else [(right | True, 1.0)]
    value = sum(share * right[images].mean() for images, share in shares)
    variance = sum(share**2 * right[images].var() / images.sum() for images, share in shares)
    return Estimate(float(value), float(np.sqrt(variance)), np.inf)


def _obuchowski(_, data, positive) -> Estimate:
    auroc = clustered_auroc(data.labels == positive, data.probabilities[:, positive], data.member)
    if np.isnan(auroc.variance):
        raise NoIntervalError("a class has one group only")
    return Estimate(auroc.value, np.sqrt(max(auroc.variance, 0)), auroc.df)


_ESTIMATES = {
    "obuchowski": _obuchowski,
    "group_means": _group_means,
    "cr1": _cr1,
    "independent_images": _independent_images,
}


@dataclasses.dataclass(frozen=True)
class ClusteredAuroc:
    """An AUROC with its variance (NaN with fewer than two groups of a kind) and its df."""

    value: float
    variance: float
    df: float


def clustered_auroc(is_class, probability, member) -> ClusteredAuroc:
    """Returns the AUROC with the variance of Obuchowski (1997, Biometrics 53:567, equation 5).

    Where no group holds both kinds of images the variance is a sum of two independent parts with
    Satterthwaite's degrees of freedom; else they are groups - 1.
    """
    c = auroc_components(is_class, probability, member)
    if min(c.class_groups, c.rest_groups) < 2:
        return ClusteredAuroc(c.value, np.nan, np.nan)
    part, rest, shared = auroc_covariance(c, c)
    variance = part + rest + shared
    if c.class_groups + c.rest_groups > c.groups:
        return ClusteredAuroc(c.value, variance, c.groups - 1)
    weight = part**2 / (c.class_groups - 1) + rest**2 / (c.rest_groups - 1)
    return ClusteredAuroc(c.value, variance, variance**2 / weight if weight else np.nan)


def obuchowski_mcnemar(counts: Discordant) -> ChiSquared:
    """Obuchowski (1998, Statistics in Medicine 17:1495): the variance about no difference."""
    d = counts.first_only - counts.second_only
    return chi_squared((len(d) - 1) / len(d) * d.sum() ** 2, (d**2).sum())


def durkalski_mcnemar(counts: Discordant) -> ChiSquared:
    """Durkalski et al. (2003, Statistics in Medicine 22:2417): every group has the same weight."""
    share = (counts.first_only - counts.second_only) / counts.images
    return chi_squared(share.sum() ** 2, (share**2).sum())
