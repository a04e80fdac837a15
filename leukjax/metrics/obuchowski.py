"""The variance of an AUROC when images come in groups (Obuchowski 1997, Biometrics 53:567)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata


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
    held, rest_held = int((of_class > 0).sum()), int((of_rest > 0).sum())
    total = int(((of_class + of_rest) > 0).sum())
    if min(held, rest_held) < 2:
        return ClusteredAuroc(value, np.nan, np.nan)
    deviation = np.bincount(member[is_class], below[is_class], groups) - of_class * value
    rest_deviation = np.bincount(member[~is_class], below[~is_class], groups) - of_rest * value
    part = held / (held - 1) * (deviation @ deviation) / m**2
    rest_part = rest_held / (rest_held - 1) * (rest_deviation @ rest_deviation) / n**2
    shared = total / (total - 1) * (deviation @ rest_deviation) / (m * n)
    variance = float(part + rest_part + 2 * shared)
    if held + rest_held > total:
        return ClusteredAuroc(value, variance, total - 1)
    with np.errstate(invalid="ignore"):
        df = variance**2 / (part**2 / (held - 1) + rest_part**2 / (rest_held - 1))
    return ClusteredAuroc(value, variance, float(df))
