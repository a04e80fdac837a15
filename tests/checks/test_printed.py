"""Rounding, exactly."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from leukjax.checks import printed


def test_a_value_stands_for_half_a_step_on_either_side():
    low, high = printed.before_rounding(Decimal("0.680"))
    assert (low, high) == (Fraction(6795, 10_000), Fraction(6805, 10_000))
    assert printed.share(Decimal("99.60")).as_tuple().exponent == -4


@pytest.mark.parametrize("total", [7, 160, 1867, 4000])
@pytest.mark.parametrize("digits", [2, 3, 4])
def test_counts_are_those_that_round_to_the_value(total: int, digits: int):
    k = np.arange(total + 1)
    for value in (Decimal("0.5"), Decimal("0.0"), Decimal("1.0"), Decimal("0.745")):
        value = value.quantize(Decimal(1).scaleb(-digits))
        # Exact decimals: Python rounds a Fraction half to even, as the function promises.
        even = [int(i) for i in k if round(Fraction(int(i), total), digits) == Fraction(value)]
        assert printed.counts_half_even(value, total) == even
        assert set(even) <= set(printed.counts(value, total))
        assert len(printed.counts(value, total)) - len(even) <= 2


def test_the_harmonic_mean_of_ranges_holds_that_of_every_point():
    a, b = printed.before_rounding(Decimal("0.4871")), printed.before_rounding(Decimal("0.5062"))
    low, high = printed.harmonic_mean(a, b)
    assert low < 2 * Fraction(4871 * 5062, 10_000 * (4871 + 5062)) < high
    assert high - low < Fraction(11, 100_000)


def test_confusions_are_all_that_print_alike():
    accuracy, precision, recall = Decimal("0.90"), Decimal("0.83"), Decimal("0.50")
    found = set(printed.confusions(30, range(10), accuracy, precision, recall))
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
    assert found == every
