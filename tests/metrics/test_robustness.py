"""Drops and relative numbers against plain arithmetic."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from leukjax.metrics import robustness
from leukjax.metrics.predictions import Predictions


def predicted(right_share, seed=0, groups=12, cells=10):
    """Two classes, single-class groups, a given share of correct predictions."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), cells)
    labels = (group % 2).astype(np.int32)
    right = rng.uniform(size=len(labels)) < right_share
    sure = rng.uniform(0.55, 0.95, len(labels))
    predicted_as = np.where(right, labels, 1 - labels)
    positive = np.where(predicted_as == 1, sure, 1 - sure).astype(np.float32)
    names = np.array([f"g{g}" for g in group])
    return Predictions(
        ("hem", "all"), np.arange(len(labels)).astype(str), names, names, labels,
        np.stack([1 - positive, positive], axis=1),
    )  # fmt: skip


def balanced(predictions):
    return balanced_accuracy_score(predictions.labels, predictions.probabilities.argmax(axis=1))


def curve(shares, clean=0.9):
    levels = {i + 1: predicted(share, seed=i + 1) for i, share in enumerate(shares)}
    start = predicted(clean)
    return start, levels, robustness.curve("jpeg", "masked", start, levels, 1)


def test_drops_are_differences_of_sklearns_scores_paired_by_group():
    start, levels, result = curve([0.9, 0.8, 0.7, 0.65, 0.6])
    points = result.points["balanced_accuracy"]
    assert points[0].drop.value == 0
    for severity, data in levels.items():
        point = points[severity]
        assert point.interval.value == pytest.approx(balanced(data))
        assert point.drop.value == pytest.approx(balanced(start) - balanced(data))
        assert point.drop.low < point.drop.value < point.drop.high
    mean = np.mean([balanced(start) - balanced(data) for data in levels.values()])
    assert result.mean_drop.value == pytest.approx(mean)
    assert result.mean_drop.low < mean < result.mean_drop.high
    assert result.mean_drop.groups == 12


def test_common_effects_of_clean_and_distorted_cancel():
    start = predicted(0.75)
    result = robustness.curve("jpeg", "masked", start, dict.fromkeys(range(1, 6), start), 1)
    point = result.points["balanced_accuracy"][3]
    assert point.interval.high - point.interval.low > 0.05
    assert point.drop.value == 0
    assert point.drop.low is None
    assert "same whichever group" in point.drop.reason


def test_relative_numbers_are_ratios_or_none():
    _, model_levels, model = curve([0.85, 0.8, 0.75, 0.7, 0.65])
    _, base_levels, base = curve([0.8, 0.7, 0.65, 0.6, 0.55])
    result = robustness.relative(model, base)
    errors = [sum(1 - balanced(d) for d in c.values()) for c in (model_levels, base_levels)]
    assert result.error == pytest.approx(errors[0] / errors[1])
    assert result.drop == pytest.approx(model.mean_drop.value / base.mean_drop.value)
    assert robustness.relative(base, base).error == pytest.approx(1)

    # With a clean error of 0 the published evaluation crashes.
    _, _, perfect = curve([1.0] * 5, clean=1.0)
    assert robustness.relative(model, perfect).error is None
    assert "makes no error" in robustness.relative(model, perfect).reason
    assert robustness.relative(perfect, base).error == 0
    _, _, falls = curve([0.8] * 5, clean=1.0)
    assert robustness.relative(falls, base).drop > 0
