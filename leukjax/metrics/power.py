"""What so many subjects could show at all."""

import dataclasses

import numpy as np
from scipy import optimize, stats

from leukjax.metrics.comparisons import least_p
from leukjax.metrics.jackknife import TAIL


@dataclasses.dataclass(frozen=True)
class Power:
    """A line of the power table.

    Attributes:
        groups: number of groups.
        detectable: smallest true difference that a two-sided test at 5 % would find with the power
            asked for.
        least_p: smallest p that a paired permutation of so many groups can give
            (`comparisons.least_p`); where it is above 0.05 no difference whatever could be shown.
    """

    groups: int
    detectable: float
    least_p: float


def power(difference: float, error: float, df: float) -> float:
    """Probability that a t test at 5 % finds a true difference, from its standard error."""
    critical = stats.t.isf(TAIL, df)
    shift = abs(difference) / error
    # SciPy gives NaN where the wrong tail is too thin to compute.
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, df, shift))
    return float(stats.nct.sf(critical, df, shift) + wrong_side)


def detectable(error: float, df: float, wanted: float = 0.8) -> float:
    """The smallest true difference that is found with probability `wanted`."""
    most = 2 * stats.t.isf(TAIL, df) + 10
    shift = optimize.brentq(lambda x: power(x, 1.0, df) - wanted, 0.0, most)
    return float(shift * error)


def table(
    error: float,
    df: float,
    groups: int,
    others: tuple[int, ...] = (10, 20, 50, 100, 200, 500),
    wanted: float = 0.8,
) -> list[Power]:
    """Detectable differences with the study's number of groups, and with others.

    With more groups like these the standard error falls with the square root of their number and
    the degrees of freedom grow in proportion. It is the spread that this study saw, itself known
    only roughly with few groups.

    Args:
        error, df: of the paired difference, as `comparisons.difference` gives them.
        groups: of this study.
        others: numbers of groups to compare with.
        wanted: the power.
    """
    lines = []
    for number in sorted({groups, *others}):
        more = number / groups
        found = detectable(error / np.sqrt(more), max(1.0, df * more), wanted)
        lines.append(Power(number, found, least_p(number)))
    return lines


def groups_needed(
    difference: float, error: float, df: float, groups: int, wanted: float = 0.8
) -> int | None:
    """How many groups like these would show this difference with the power asked for.

    None if more than a million would not.
    """

    def enough(number: int) -> bool:
        more = number / groups
        return power(difference, error / np.sqrt(more), max(1.0, df * more)) >= wanted

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > 1_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
