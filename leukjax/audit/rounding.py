"""Rounded numbers: the values that a printed number may have had before rounding.

Uses exact arithmetic (`fractions`), because half a unit of the last digit decides.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction

Range = tuple[Fraction, Fraction]


def half_step(value: Decimal) -> Fraction:
    """Half a unit of the last printed digit: 0.7453 -> 0.00005."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)  # a printed number is finite
    return Fraction(1, 2) * Fraction(10) ** exponent


def before_rounding(value: Decimal) -> Range:
    """Lowest and highest number that rounds to the value, by any rule for ties."""
    return Fraction(value) - half_step(value), Fraction(value) + half_step(value)


def share(percent: Decimal) -> Decimal:
    """99.60 % -> 0.9960, with as many digits."""
    return percent.scaleb(-2)


def counts(value: Decimal, total: int) -> range:
    """The counts k of `total` for which k / total may be printed as the value, ties either way."""
    low, high, scale = _bounds(value)
    first = max(0, -(-low * total // scale))
    return range(first, min(total, high * total // scale) + 1)


def counts_half_even(value: Decimal, total: int) -> range:
    """`counts` where ties go to the even digit, as Python, NumPy and IEEE 754 round."""
    low, high, scale = _bounds(value)
    candidates = counts(value, total)
    if (low + high) // 4 % 2 == 0:  # the last printed digit is even
        return candidates
    first, stop = candidates.start, candidates.stop
    # Only the ends can be ties.
    if candidates and first * scale == low * total:
        first += 1
    if first < stop and (stop - 1) * scale == high * total:
        stop -= 1
    return range(first, stop)


def totals_for_all(
    values: Iterable[Decimal], totals: range, counted: Callable[[Decimal, int], range]
) -> list[int]:
    """Returns the totals of which some count may be printed as each of the values.

    Args:
        values: shares as printed.
        totals: candidates.
        counted: `counts` or `counts_half_even`.
    """
    left = list(totals)
    # 0.680 differs from 0.68. Values of many digits exclude most totals, and come first.
    distinct = {value.as_tuple(): value for value in values}.values()
    for value in sorted(distinct, key=lambda value: int(value.as_tuple().exponent)):
        # Every total above 10^d allows a share of d digits: the range before rounding is then wider
        # than the distance of two counts.
        enough = Fraction(1, 2) / half_step(value) if 0 <= value <= 1 else math.inf
        left = [total for total in left if total > enough or counted(value, total)]
    return left


def _bounds(value: Decimal) -> tuple[int, int, int]:
    """`before_rounding` as integers over a common denominator, which is much faster."""
    digits = -int(value.as_tuple().exponent)
    unit = int(value.scaleb(digits))
    return 2 * unit - 1, 2 * unit + 1, 2 * 10**digits


def overlap(a: Range, b: Range) -> bool:
    """Whether two ranges have a number in common."""
    return a[0] <= b[1] and b[0] <= a[1]


def harmonic_mean(a: Range, b: Range) -> Range:
    """Range of 2ab / (a + b), which grows with both."""

    def mean(x: Fraction, y: Fraction) -> Fraction:
        return 2 * x * y / (x + y) if x + y else Fraction(0)

    return mean(max(a[0], Fraction(0)), max(b[0], Fraction(0))), mean(a[1], b[1])


def text(value: Fraction | float, digits: int = 4) -> str:
    """A number with a fixed number of decimals."""
    return f"{float(value):.{digits}f}"


def range_text(values: Range, digits: int = 4) -> str:
    """``0.4965 to 0.4966``."""
    return f"{text(values[0], digits)} to {text(values[1], digits)}"


class TooMany(Exception):
    """The budget of combinations is used up."""


def confusions(
    total: int,
    positives: range,
    accuracy: Decimal,
    precision: Decimal,
    recall: Decimal,
    budget: Iterator[object] | None = None,
) -> Iterator[tuple[int, int, int, int]]:
    """Yields every (tp, fp, fn, tn) of `total` images that may be printed as these three values.

    For fixed true positives, the positives (tp + fn) and the predicted positives (tp + fp) may each
    be any integer of an interval, and accuracy bounds their sum. So each number of true positives
    is decided by comparing integers, and only those that satisfy the conditions over real numbers
    are tried.

    Args:
        total: number of images.
        positives: possible numbers of positive images; a range of step 1.
        accuracy, precision, recall: shares as printed.
        budget: one item is taken for each number of true positives that is tried; None: unbounded.

    Raises:
        TooMany: the budget is used up.
    """
    correct = counts(accuracy, total)
    if not correct or not positives:
        return
    p_low, p_high, p_scale = _bounds(precision)
    r_low, r_high, r_scale = _bounds(recall)
    spent = object()
    for tp in _true_positives(total, positives, correct, precision, recall):
        if budget is not None and next(budget, spent) is spent:
            raise TooMany
        # Bounds of the positives, of the predicted positives, and of their sum, which is
        # total - correct + 2 tp.
        p0 = max(positives[0], tp, -(-tp * r_scale // r_high)) if r_high > 0 else 0
        p1 = min(positives[-1], tp * r_scale // r_low) if r_low > 0 else positives[-1]
        c0 = max(1, tp, -(-tp * p_scale // p_high))
        c1 = min(total, tp * p_scale // p_low) if p_low > 0 else total
        s0, s1 = total + 2 * tp - correct[-1], min(total + 2 * tp - correct[0], total + tp)
        if c0 > c1 or s0 > s1:
            continue
        # Each of these has at least one number of predicted positives.
        for p in range(max(p0, s0 - c1), min(p1, s1 - c0) + 1):
            for called in range(min(c1, s1 - p), max(c0, s0 - p) - 1, -1):
                yield tp, called - tp, p - tp, total - p - called + tp


def _true_positives(
    total: int, positives: range, correct: range, precision: Decimal, recall: Decimal
) -> range:
    """The numbers of true positives that satisfy the conditions of `confusions` over real numbers.

    Each bound of positives and predicted positives is a multiple of tp plus a constant, so that
    every condition is linear in tp, and exact in fractions.
    """
    (p_low, p_high), (r_low, r_high) = before_rounding(precision), before_rounding(recall)
    fewest, most = positives[0], positives[-1]
    if p_high <= 0:
        return range(0)
    if r_high <= 0:  # recall is undefined only without any positive
        return range(1 if fewest == 0 else 0)
    zero, unit = Fraction(0), Fraction(1)
    least_positive = [(1 / r_high, zero), (unit, zero), (zero, Fraction(fewest))]
    most_positive = [(zero, Fraction(most)), *([(1 / r_low, zero)] if r_low > 0 else [])]
    least_called = [(1 / p_high, zero), (unit, zero), (zero, unit)]
    most_called = [(zero, Fraction(total)), *([(1 / p_low, zero)] if p_low > 0 else [])]
    # Slope and bound of every "slope * tp >= bound".
    conditions = []
    for lower, upper in ((least_positive, most_positive), (least_called, most_called)):
        conditions += [(b - a, c - d) for a, c in lower for b, d in upper]
    for a, c in most_positive:
        conditions += [(a + b - 2, total - correct[-1] - c - d) for b, d in most_called]
    for a, c in least_positive:
        for b, d in least_called:
            conditions.append((2 - a - b, correct[0] - total + c + d))
            conditions.append((1 - a - b, c + d - total))
    first, last = 0, min(total, most)
    for slope, bound in conditions:
        if slope > 0:
            first = max(first, math.ceil(bound / slope))
        elif slope < 0:
            last = min(last, math.floor(bound / slope))
        elif bound > 0:
            return range(0)
    return range(first, last + 1)
