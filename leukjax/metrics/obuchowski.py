"""The variance of an AUROC when images come in groups (Obuchowski 1997, Biometrics 53:567)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata


@dataclasses.dataclass(frozen=True)
class ClusteredAuroc:
    """An AUROC and its uncertainty.

    Attributes:
        value: the AUROC.
        variance: its estimated variance; NaN with fewer than two groups of either kind.
        df: degrees of freedom of the variance. Where no group holds both kinds of images it is a
            sum of two independent parts and they are Satterthwaite's; else groups - 1.
    """

    value: float
    variance: float
    df: float


def clustered_auroc(
    is_class: Bool[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    member: Int[np.ndarray, " n"],
) -> ClusteredAuroc:
    """AUROC with the variance of equation 5 of Obuchowski 1997.

    Each image's component is the share of images of the other kind that it is ordered rightly
    with (ties count half; DeLong 1988); components are summed by group, and the variance is that
    of the sums. With one image a group it is DeLong's.

    Args:
        is_class: of the class or of the rest; both must occur.
        probability: of the class.
        member: index of each image's group.
    """
    own = _components(is_class, probability, member)
    if min(own.held, own.rest_held) < 2:
        return ClusteredAuroc(own.value, np.nan, np.nan)
    part, rest_part, shared = _covariance(own, own)
    variance = part + rest_part + shared
    if own.held + own.rest_held > own.total:
        return ClusteredAuroc(own.value, variance, own.total - 1)
    weight = part**2 / (own.held - 1) + rest_part**2 / (own.rest_held - 1)
    return ClusteredAuroc(own.value, variance, variance**2 / weight if weight else np.nan)


@dataclasses.dataclass(frozen=True)
class PairedAuroc:
    """Two AUROCs on the same images, and the test that they are equal.

    Attributes:
        difference: the first less the second.
        covariance: of the two estimates.
        error: standard error of the difference.
        z: difference / error; NaN where the error is 0 or cannot be had.
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
    """Obuchowski's (1997) test of two models that scored the same images.

    With one image a group it is the test of DeLong (1988, Biometrics 44:837).

    Args:
        is_class: of the class or of the rest; both must occur.
        first, second: probability of the class by each model.
        member: index of each image's group.
    """
    one, two = _components(is_class, first, member), _components(is_class, second, member)
    difference = one.value - two.value
    if min(one.held, one.rest_held) < 2:
        return PairedAuroc(difference, np.nan, np.nan, np.nan, np.nan)
    covariance = sum(_covariance(one, two))
    variance = sum(_covariance(one, one)) + sum(_covariance(two, two)) - 2 * covariance
    error = float(np.sqrt(max(variance, 0)))
    z = difference / error if error > 1e-12 else np.nan
    return PairedAuroc(difference, covariance, error, z, float(2 * norm.sf(abs(z))))


@dataclasses.dataclass(frozen=True)
class _Components:
    value: float
    deviation: Float[np.ndarray, " g"]  # sum of a group's images of the class, about the value
    rest_deviation: Float[np.ndarray, " g"]
    m: int  # images of the class
    n: int  # images of the rest
    held: int  # groups that hold images of the class
    rest_held: int
    total: int


def _components(is_class: np.ndarray, probability: np.ndarray, member: np.ndarray) -> _Components:
    m, n = int(is_class.sum()), int((~is_class).sum())
    # The rank among all less the rank among one's own kind counts the others below.
    everyone = rankdata(probability)
    below = np.empty(len(probability))
    below[is_class] = (everyone[is_class] - rankdata(probability[is_class])) / n
    below[~is_class] = 1 - (everyone[~is_class] - rankdata(probability[~is_class])) / m
    value = float(below[is_class].mean())
    groups = int(member.max()) + 1
    of_class = np.bincount(member[is_class], minlength=groups)
    of_rest = np.bincount(member[~is_class], minlength=groups)
    return _Components(
        value,
        np.bincount(member[is_class], below[is_class], groups) - of_class * value,
        np.bincount(member[~is_class], below[~is_class], groups) - of_rest * value,
        m,
        n,
        held=int((of_class > 0).sum()),
        rest_held=int((of_rest > 0).sum()),
        total=int(((of_class + of_rest) > 0).sum()),
    )


def _covariance(x: _Components, y: _Components) -> tuple[float, float, float]:
    """What images of the class, of the rest, and groups with both, add to a covariance."""
    part = x.held / (x.held - 1) * (x.deviation @ y.deviation) / x.m**2
    rest = x.rest_held / (x.rest_held - 1) * (x.rest_deviation @ y.rest_deviation) / x.n**2
    crossed = x.deviation @ y.rest_deviation + x.rest_deviation @ y.deviation
    shared = x.total / (x.total - 1) * crossed / (x.m * x.n)
    return float(part), float(rest), float(shared)
