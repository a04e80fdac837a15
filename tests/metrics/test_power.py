import numpy as np
import pytest
from scipy import stats

from leukjax.metrics import power


def test_power_is_the_share_of_studies_that_find_the_difference():
    rng = np.random.default_rng(0)
    groups = 12
    sample = rng.normal(0.8, 1.0, (20_000, groups))
    found = (stats.ttest_1samp(sample, 0, axis=1).pvalue <= 0.05).mean()
    expected = power.power(0.8, 1 / np.sqrt(groups), groups - 1)
    assert found == pytest.approx(expected, abs=0.012)
    assert power.power(0.0, 1.0, 5) == pytest.approx(0.05)


def test_detectable_is_the_inverse_of_power():
    for df in (2, 5.5, 40):
        assert power.power(power.detectable(0.03, df), 0.03, df) == pytest.approx(0.8)


def test_the_table_says_what_more_groups_would_show():
    lines = power.table(0.03, 11, 12)
    assert [line.groups for line in lines] == [10, 12, 20, 50, 100, 200, 500]
    assert (np.diff([line.detectable for line in lines]) < 0).all()
    assert lines[1].detectable == pytest.approx(power.detectable(0.03, 11))
    assert lines[0].least_p == 2 / 2**10
    # Above 16 groups swaps are drawn: 10,000 of them give no p below 1 / 10,001.
    assert [line.least_p for line in lines[2:]] == [1 / 10_001] * 5
    assert power.table(0.03, 3, 4)[0].least_p > 0.05  # four groups can show nothing


def test_groups_needed_are_just_enough():
    needed = power.groups_needed(0.02, 0.03, 11, 12)
    error = [0.03 / np.sqrt(n / 12) for n in (needed - 1, needed)]
    df = [11 * n / 12 for n in (needed - 1, needed)]
    below, enough = (power.power(0.02, e, d) for e, d in zip(error, df, strict=True))
    assert below < 0.8 <= enough
    assert power.groups_needed(0.0, 0.03, 11, 12) is None
