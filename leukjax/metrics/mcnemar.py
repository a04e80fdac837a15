"""Do two models get equally many images right? McNemar's test, for images that come in groups.

Only images that one model gets right and the other wrong tell. With b of them right by the first
alone and c by the second alone in each of K groups, d = b - c should add up to about nothing.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int
from scipy import stats


@dataclasses.dataclass(frozen=True)
class ChiSquared:
    """A chi-squared statistic of one degree of freedom; NaN where the two never differ."""

    statistic: float
    p: float


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Images by group.

    Attributes:
        first_only: right by the first model alone (b).
        second_only: right by the second model alone (c).
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
    """Count, from whether each model is right about each image, and the image's group."""
    groups = int(member.max()) + 1
    return Discordant(
        np.bincount(member[first_right & ~second_right], minlength=groups),
        np.bincount(member[second_right & ~first_right], minlength=groups),
        np.bincount(member, minlength=groups),
    )


def yang(counts: Discordant) -> ChiSquared:
    """Yang, Sun & Hardin (2010, Biometrical Journal 52:649, doi 10.1002/bimj.201000035).

    (K - 1) / K (sum d)^2 / (1/2 sum [(d - n p)^2 + d^2]) with p = sum d / sum n: the mean of the
    variance about the observed difference and of that about none.
    """
    d, n = counts.first_only - counts.second_only, counts.images
    share = d.sum() / n.sum()
    variance = (((d - n * share) ** 2).sum() + (d**2).sum()) / 2
    return _chi_squared((len(d) - 1) / len(d) * d.sum() ** 2, variance)


def obuchowski(counts: Discordant) -> ChiSquared:
    """Obuchowski (1998, Statistics in Medicine 17:1495): the variance about no difference."""
    d = counts.first_only - counts.second_only
    return _chi_squared((len(d) - 1) / len(d) * d.sum() ** 2, (d**2).sum())


def durkalski(counts: Discordant) -> ChiSquared:
    """Durkalski et al. (2003, Statistics in Medicine 22:2417, doi 10.1002/sim.1438): every group
    weighs the same, however many images it has."""
    share = (counts.first_only - counts.second_only) / counts.images
    return _chi_squared(share.sum() ** 2, (share**2).sum())


def independent_images(counts: Discordant) -> ChiSquared:
    """McNemar (1947, Psychometrika 12:153), which assumes independent images: for contrast only."""
    b, c = counts.first_only.sum(), counts.second_only.sum()
    return _chi_squared(float(b - c) ** 2, b + c)


def _chi_squared(numerator: float, denominator: float) -> ChiSquared:
    if denominator <= 0:
        return ChiSquared(np.nan, np.nan)
    statistic = float(numerator / denominator)
    return ChiSquared(statistic, float(stats.chi2.sf(statistic, 1)))
