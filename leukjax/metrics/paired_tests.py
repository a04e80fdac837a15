"""Tests that two models on the same images are equal: permutation, McNemar, DeLong, Obuchowski.

Images come in groups. Statistics with one group per image are those of the textbook tests, which
assume independent images.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from scipy.stats import rankdata

from leukjax.metrics import clustered
from leukjax.metrics.intervals import ZERO

EXACT_GROUPS = 16  # with at most this many groups, all swaps are evaluated
DRAWS = 10_000  # random swaps with more groups


def permutation_p(
    name: str,
    first: clustered.Grouped,
    second: clustered.Grouped,
    positive: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Returns the two-sided p of the paired cluster permutation test.

    Under the null hypothesis, swapping the outputs of the two models for a whole group changes the
    difference only by chance. With up to 16 groups all 2^G swaps are evaluated; with more, `draws`
    random ones, and p = (b + 1) / (draws + 1) with b swaps whose difference is at least as large
    (Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39). A swap that leaves the score undefined
    counts as large. NaN if the observed score is undefined.
    """
    groups = first.groups
    # Both models in one table, each group twice: swapping a group swaps two weights.
    both = clustered.Grouped(
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.probabilities, second.probabilities]),
        np.concatenate([first.member, second.member + groups]),
        np.concatenate([first.stratum, second.stratum]),
        first.single_class,
    )
    score = clustered.statistic(name, both, positive)

    def differences(swap: np.ndarray) -> np.ndarray:
        kept = ~swap
        first_weights = np.concatenate([kept, swap], axis=1).astype(np.float64)
        second_weights = np.concatenate([swap, kept], axis=1).astype(np.float64)
        return score(first_weights) - score(second_weights)

    observed = abs(differences(np.zeros((1, groups), bool))[0])
    if np.isnan(observed):
        return np.nan
    exact = groups <= EXACT_GROUPS
    # Swapping all groups only changes the sign, so the first group is never swapped.
    total = 2 ** max(groups - 1, 0) if exact else draws
    rng = np.random.default_rng(seed)
    rows = max(1, clustered.CHUNK // len(both.labels))
    large = 0
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        if exact:
            swap = (np.arange(start, stop)[:, None] >> np.arange(groups)) & 1 == 1
        else:
            swap = rng.random((stop - start, groups)) < 0.5
        # Equal up to rounding counts as equal; NaN as large.
        large += int((~(np.abs(differences(swap)) < observed - ZERO)).sum())
    return large / total if exact else (large + 1) / (draws + 1)


def least_p(groups: int, draws: int = DRAWS) -> float:
    """Returns the smallest p that the paired cluster permutation of `groups` groups can give.

    With all swaps it is 2 / 2^G: the observed difference and its mirror image. With random swaps it
    is 1 / (draws + 1).
    """
    return 2.0 ** (1 - groups) if groups <= EXACT_GROUPS else 1 / (draws + 1)


@dataclasses.dataclass(frozen=True)
class ChiSquared:
    """A chi-squared statistic with one degree of freedom; NaN where the models never differ."""

    statistic: float
    p: float


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Images by group that only one of two models classifies correctly.

    Attributes:
        first_only: correct by the first model only (b).
        second_only: correct by the second model only (c).
        images: all images (n).
    """

    first_only: Int[np.ndarray, " g"]
    second_only: Int[np.ndarray, " g"]
    images: Int[np.ndarray, " g"]


def discordant(
    first_right: Bool[np.ndarray, " n"],
    second_right: Bool[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> Discordant:
    """Counts discordant images by group.

    Args:
        first_right, second_right: whether each model classifies each image correctly.
        member: index of each image's group.
    """
    groups = int(member.max()) + 1
    return Discordant(
        np.bincount(member[first_right & ~second_right], minlength=groups),
        np.bincount(member[second_right & ~first_right], minlength=groups),
        np.bincount(member, minlength=groups),
    )


def clustered_mcnemar(counts: Discordant) -> ChiSquared:
    """Returns the test of Yang, Sun & Hardin (2010, Biom J 52:649, doi 10.1002/bimj.201000035).

    With d = b - c in each of K groups: (K - 1) / K (sum d)^2 / (1/2 sum [(d - n p)^2 + d^2]) with
    p = sum d / sum n: the mean of the variance about the observed difference and of that about 0.
    """
    d, n = counts.first_only - counts.second_only, counts.images
    share = d.sum() / n.sum()
    variance = (((d - n * share) ** 2).sum() + (d**2).sum()) / 2
    return chi_squared((len(d) - 1) / len(d) * d.sum() ** 2, variance)


def mcnemar(counts: Discordant) -> ChiSquared:
    """Returns McNemar's test (1947, Psychometrika 12:153), which assumes independent images."""
    b, c = counts.first_only.sum(), counts.second_only.sum()
    return chi_squared(float(b - c) ** 2, b + c)


def chi_squared(numerator: float, denominator: float) -> ChiSquared:
    """Returns the quotient with its p; NaN where the denominator is 0."""
    if denominator <= 0:
        return ChiSquared(np.nan, np.nan)
    statistic = float(numerator / denominator)
    return ChiSquared(statistic, float(stats.chi2.sf(statistic, 1)))


@dataclasses.dataclass(frozen=True)
class PairedAuroc:
    """Two AUROCs on the same images, and the test that they are equal.

    Attributes:
        difference: the first minus the second.
        covariance: of the two estimates.
        error: standard error of the difference.
        z: difference / error; NaN where the error is 0 or undefined.
        p: two-sided, from the normal distribution.
    """

    difference: float
    covariance: float
    error: float
    z: float
    p: float


def paired_auroc(
    is_class: Bool[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> PairedAuroc:
    """Returns Obuchowski's test (1997, Biometrics 53:567) of two models on the same images.

    With one image per group it is the test of DeLong (1988, Biometrics 44:837).

    Args:
        is_class: whether each image is of the class; both values must occur.
        first, second: probability of the class by each model.
        member: index of each image's group.
    """
    a, b = auroc_components(is_class, first, member), auroc_components(is_class, second, member)
    difference = a.value - b.value
    if min(a.class_groups, a.rest_groups) < 2:
        return PairedAuroc(difference, np.nan, np.nan, np.nan, np.nan)
    covariance = sum(auroc_covariance(a, b))
    variance = sum(auroc_covariance(a, a)) + sum(auroc_covariance(b, b)) - 2 * covariance
    error = float(np.sqrt(max(variance, 0)))
    z = difference / error if error > 1e-12 else np.nan
    return PairedAuroc(difference, covariance, error, z, float(2 * stats.norm.sf(abs(z))))


@dataclasses.dataclass(frozen=True)
class AurocComponents:
    """The DeLong components of an AUROC, summed by group.

    Attributes:
        value: the AUROC.
        deviation: sum over a group's images of the class of (component - value).
        rest_deviation: the same over its images of the rest.
        class_images, rest_images: numbers of images.
        class_groups, rest_groups: numbers of groups with such images.
        groups: number of all groups.
    """

    value: float
    deviation: Float[np.ndarray, " g"]
    rest_deviation: Float[np.ndarray, " g"]
    class_images: int
    rest_images: int
    class_groups: int
    rest_groups: int
    groups: int


def auroc_components(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> AurocComponents:
    """Returns the components: with which share of the other kind an image is ordered correctly.

    Ties count half.
    """
    m, n = int(is_class.sum()), int((~is_class).sum())
    # The rank among all images minus the rank among the same kind counts the other kind below.
    rank = rankdata(probability)
    below = np.empty(len(probability))
    below[is_class] = (rank[is_class] - rankdata(probability[is_class])) / n
    below[~is_class] = 1 - (rank[~is_class] - rankdata(probability[~is_class])) / m
    value = float(below[is_class].mean())
    groups = int(member.max()) + 1
    class_counts = np.bincount(member[is_class], minlength=groups)
    rest_counts = np.bincount(member[~is_class], minlength=groups)
    return AurocComponents(
        value,
        np.bincount(member[is_class], below[is_class], groups) - class_counts * value,
        np.bincount(member[~is_class], below[~is_class], groups) - rest_counts * value,
        m,
        n,
        class_groups=int((class_counts > 0).sum()),
        rest_groups=int((rest_counts > 0).sum()),
        groups=int(((class_counts + rest_counts) > 0).sum()),
    )


def auroc_covariance(x: AurocComponents, y: AurocComponents) -> tuple[float, float, float]:
    """Returns what the class, the rest, and groups with both add to a covariance (equation 5)."""
    part = x.class_groups / (x.class_groups - 1) * (x.deviation @ y.deviation) / x.class_images**2
    rest = x.rest_groups / (x.rest_groups - 1)
    rest = rest * (x.rest_deviation @ y.rest_deviation) / x.rest_images**2
    crossed = x.deviation @ y.rest_deviation + x.rest_deviation @ y.deviation
    shared = x.groups / (x.groups - 1) * crossed / (x.class_images * x.rest_images)
    return float(part), float(rest), float(shared)
