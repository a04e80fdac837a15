"""Rounding, exactly."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from leukjax.audit import rounding


def test_a_value_stands_for_half_a_step_on_either_side():
    low, high = rounding.before_rounding(Decimal("0.680"))
    assert (low, high) == (Fraction(6795, 10_000), Fraction(6805, 10_000))
    assert rounding.share(Decimal("99.60")).as_tuple().exponent == -4


@pytest.mark.parametrize("total", [7, 160, 1867, 4000])
@pytest.mark.parametrize("digits", [2, 3, 4])
def test_counts_are_those_that_round_to_the_value(total: int, digits: int):
    k = np.arange(total + 1)
    for value in (Decimal("0.5"), Decimal("0.0"), Decimal("1.0"), Decimal("0.745")):
        value = value.quantize(Decimal(1).scaleb(-digits))
        # Exact decimals: Python rounds a Fraction half to even, as the function promises.
        even = [int(i) for i in k if round(Fraction(int(i), total), digits) == Fraction(value)]
        assert list(rounding.counts_half_even(value, total)) == even
        assert set(even) <= set(rounding.counts(value, total))
        assert len(rounding.counts(value, total)) - len(even) <= 2


def test_the_harmonic_mean_of_ranges_holds_that_of_every_point():
    a, b = rounding.before_rounding(Decimal("0.4871")), rounding.before_rounding(Decimal("0.5062"))
    low, high = rounding.harmonic_mean(a, b)
    assert low < 2 * Fraction(4871 * 5062, 10_000 * (4871 + 5062)) < high
    assert high - low < Fraction(11, 100_000)


def test_confusions_are_all_that_print_alike():
    accuracy, precision, recall = Decimal("0.90"), Decimal("0.83"), Decimal("0.50")
    matrices = set(rounding.confusions(30, range(10), accuracy, precision, recall))
    every = {
        (tp, fp, p - tp, 30 - p - fp)
        for p in range(10)
        for tp in range(p + 1)
        for fp in range(30 - p + 1)
        if tp + fp
        and p
        and abs((30 - p - fp + tp) / 30 - 0.90) <= 0.005
        and abs(tp / (tp + fp) - 0.83) <= 0.005
        and abs(tp / p - 0.50) <= 0.005
    }
    assert matrices == every


def every_confusion(total, positives, accuracy, precision, recall):
    """By trying all: what `confusions` is to find without."""
    low, high = zip(*map(rounding.before_rounding, (accuracy, precision, recall)), strict=True)
    return {
        (tp, fp, p - tp, total - p - fp)
        for p in positives
        for tp in range(p + 1)
        for fp in range(total - p + 1)
        if tp + fp
        and low[0] * total <= total - p - fp + tp <= high[0] * total
        and low[1] * (tp + fp) <= tp <= high[1] * (tp + fp)
        and low[2] * p <= tp <= high[2] * p
    }


def test_confusions_agree_with_trying_all():
    random = np.random.default_rng(0)
    possible = 0
    for _ in range(300):
        total = int(random.integers(0, 24))
        fewest, most = sorted(random.integers(0, total + 2, 2).tolist())
        digits = random.integers(0, 4, 3)
        shares = random.choice([0.0, 0.3, 0.5, 0.9, 1.0, 1.2], 3) + random.normal(0, 0.05, 3)
        if total and random.random() < 0.5:  # of a matrix
            tp, fp, fn, tn = np.bincount(random.integers(0, 4, total), minlength=4).tolist()
            if tp + fp and tp + fn:
                shares = [(tp + tn) / total, tp / (tp + fp), tp / (tp + fn)]
                fewest, most = tp + fn, tp + fn + 1
        values = [
            Decimal(float(share)).quantize(Decimal(1).scaleb(-int(n)))
            for share, n in zip(shares, digits, strict=True)
        ]
        matrices = list(rounding.confusions(total, range(fewest, most), *values))
        assert set(matrices) == every_confusion(total, range(fewest, most), *values)
        assert len(set(matrices)) == len(matrices)
        possible += bool(matrices)
    assert 50 < possible < 250


@pytest.mark.parametrize("total", [100_000, 10**9])
@pytest.mark.parametrize(
    ("shares", "possible"),
    [
        (("0.99", "0.98", "0.51"), True),
        (("0.9912", "0.9880", "0.9934"), True),
        (("0.50", "0.50", "0.50"), True),
        (("0.99", "0.50", "0.40"), True),
        (("0.9000", "0.9990", "0.9990"), False),  # of one image in a thousand wrong, one in ten is
    ],
)
def test_confusions_of_many_images_are_found_at_once(total, shares, possible):
    values = [Decimal(share) for share in shares]
    budget = iter(range(2000))
    matrix = next(rounding.confusions(total, range(1, total), *values, budget), None)
    assert (matrix is not None) == possible
    if matrix is not None:
        tp, fp, fn, tn = matrix
        assert sum(matrix) == total
        made = ((tp + tn, total), (tp, tp + fp), (tp, tp + fn))
        for value, (part, whole) in zip(values, made, strict=True):
            low, high = rounding.before_rounding(value)
            assert low <= Fraction(part, whole) <= high


def test_what_would_take_too_long_is_not_tried():
    values = [Decimal(share) for share in ("0.9", "0.123456789", "0.987654321")]
    with pytest.raises(rounding.TooMany):
        list(rounding.confusions(10**9, range(1, 10**9), *values, iter(range(1000))))


def test_the_totals_that_allow_all_values_are_those_that_allow_each():
    values = [Decimal(text) for text in ("0.50", "0.333", "0.9990", "0.5", "1", "0.000")]
    totals = range(1, 1200)
    for counted in (rounding.counts, rounding.counts_half_even):
        expected = [n for n in totals if all(counted(value, n) for value in values)]
        assert rounding.totals_for_all(values, totals, counted) == expected
        assert 0 < len(expected) < len(totals)
    assert rounding.totals_for_all([Decimal("1.2")], totals, rounding.counts) == []
