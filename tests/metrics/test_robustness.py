"""Drops and relative numbers, against plain arithmetic."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from leukjax.metrics import robustness
from leukjax.metrics.predictions import Predictions


def predicted(right_share, seed=0, groups=12, cells=10):
    """Two classes, single-class groups, a given share of right calls."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), cells)
    labels = (group % 2).astype(np.int32)
    right = rng.uniform(size=len(labels)) < right_share
    sure = rng.uniform(0.55, 0.95, len(labels))
    called = np.where(right, labels, 1 - labels)
    positive = np.where(called == 1, sure, 1 - sure).astype(np.float32)
    names = np.array([f"g{g}" for g in group])
    return Predictions(
        ("hem", "all"), np.arange(len(labels)).astype(str), names, names, labels,
        np.stack([1 - positive, positive], axis=1),
    )  # fmt: skip


def balanced(found):
    return balanced_accuracy_score(found.labels, found.probabilities.argmax(axis=1))


def curve(shares, clean=0.9):
    levels = {i + 1: predicted(share, seed=i + 1) for i, share in enumerate(shares)}
    start = predicted(clean)
    return start, levels, robustness.curve("jpeg", "masked", start, levels, 1)


def test_drops_are_differences_of_sklearns_scores_paired_by_group():
    start, levels, found = curve([0.9, 0.8, 0.7, 0.65, 0.6])
    points = found.points["balanced_accuracy"]
    assert points[0].drop.value == 0
    for severity, data in levels.items():
        point = points[severity]
        assert point.interval.value == pytest.approx(balanced(data))
        assert point.drop.value == pytest.approx(balanced(start) - balanced(data))
        assert point.drop.low < point.drop.value < point.drop.high
    mean = np.mean([balanced(start) - balanced(data) for data in levels.values()])
    assert found.mean_drop.value == pytest.approx(mean)
    assert found.mean_drop.low < mean < found.mean_drop.high
    assert found.mean_drop.groups == 12


def test_what_clean_and_distorted_share_cancels():
    start = predicted(0.75)
    found = robustness.curve("jpeg", "masked", start, dict.fromkeys(range(1, 6), start), 1)
    point = found.points["balanced_accuracy"][3]
    assert point.interval.high - point.interval.low > 0.05
    assert point.drop.value == 0
    assert point.drop.low is None
    assert "same whichever group" in point.drop.reason


def test_relative_numbers_are_ratios_and_none_where_there_are_none():
    _, mine_levels, mine = curve([0.85, 0.8, 0.75, 0.7, 0.65])
    _, base_levels, base = curve([0.8, 0.7, 0.65, 0.6, 0.55])
    found = robustness.relative(mine, base)
    errors = [sum(1 - balanced(d) for d in c.values()) for c in (mine_levels, base_levels)]
    assert found.error == pytest.approx(errors[0] / errors[1])
    assert found.drop == pytest.approx(mine.mean_drop.value / base.mean_drop.value)
    assert robustness.relative(base, base).error == pytest.approx(1)

    # A clean error of 0 is where the published evaluation crashes.
    _, _, perfect = curve([1.0] * 5, clean=1.0)
    assert robustness.relative(mine, perfect).error is None
    assert "makes no error" in robustness.relative(mine, perfect).reason
    assert robustness.relative(perfect, base).error == 0
    _, _, falls = curve([0.8] * 5, clean=1.0)
    assert robustness.relative(falls, base).drop > 0
