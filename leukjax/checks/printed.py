"""Printed numbers: what a value of so many digits can have been before it was rounded.

Exact arithmetic throughout (`fractions`), because half of a last digit decides.
"""

from collections.abc import Iterator
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
    """The numbers k of `total` for which k / total may be printed as the value, ties either way."""
    low, high, scale = _bounds(value)
    first = max(0, -(-low * total // scale))
    return range(first, min(total, high * total // scale) + 1)


def counts_half_even(value: Decimal, total: int) -> list[int]:
    """The same where ties go to the even digit, as Python, NumPy and IEEE 754 round."""
    low, high, scale = _bounds(value)
    even = (low + high) // 4 % 2 == 0  # the last printed digit
    return [k for k in counts(value, total) if even or k * scale not in (low * total, high * total)]


def _bounds(value: Decimal) -> tuple[int, int, int]:
    """`before_rounding` as whole numbers over a common denominator, many times as fast."""
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
    """A number for people."""
    return f"{float(value):.{digits}f}"


def range_text(values: Range, digits: int = 4) -> str:
    """``0.4965 to 0.4966``."""
    return f"{text(values[0], digits)} to {text(values[1], digits)}"


def confusions(
    total: int,
    positives: range,
    accuracy: Decimal,
    precision: Decimal,
    recall: Decimal,
) -> Iterator[tuple[int, int, int, int]]:
    """Every (tp, fp, fn, tn) of `total` images that may be printed as these three values.

    Args:
        total: number of images.
        positives: how many of them may be of the positive class.
        accuracy, precision, recall: shares as printed.
    """
    right = counts(accuracy, total)
    low, high, scale = _bounds(precision)
    for p in positives:
        for tp in counts(recall, p):
            # tn = right - tp, and fp = total - p - tn: few are left.
            for correct in right:
                tn = correct - tp
                fp = total - p - tn
                called = tp + fp
                if tn < 0 or fp < 0 or not called:
                    continue
                if low * called <= tp * scale <= high * called:
                    yield tp, fp, p - tp, tn
