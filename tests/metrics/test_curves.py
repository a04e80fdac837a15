import numpy as np
import pytest
import toy
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from leukjax.metrics import clustered, curves


def case(seed, subjects=20, cells=8):
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(subjects), cells)
    labels = member % 2
    p = np.round(1 / (1 + np.exp(-(labels - 0.5 + rng.normal(size=len(member))))), 2)
    return labels, p, member


@pytest.mark.parametrize("seed", range(3))
def test_points_are_those_of_scikit_learn(seed):
    labels, p, member = case(seed)
    data = clustered.group(labels, toy.columns(p), member)
    false, true, _ = roc_curve(labels, p, drop_intermediate=False)
    result = curves.roc(data, 1, draws=50)
    np.testing.assert_allclose(result.x, false)
    np.testing.assert_allclose(result.y, true)
    precision, recall, _ = precision_recall_curve(labels, p)
    result = curves.precision_recall(data, 1, draws=50)
    np.testing.assert_allclose(result.x, recall[:-1][::-1])
    np.testing.assert_allclose(result.y, precision[:-1][::-1])


def test_bands_resample_groups():
    labels, p, member = case(4)
    once = clustered.group(labels, toy.columns(p), member)
    thrice = clustered.group(*(np.repeat(x, 3, axis=0) for x in (labels, toy.columns(p), member)))
    by_image = clustered.group(labels, toy.columns(p), np.arange(len(labels)))
    for curve in (curves.roc, curves.precision_recall):
        a, b, c = (curve(data, 1, draws=400) for data in (once, thrice, by_image))
        np.testing.assert_allclose(a.low, b.low)
        np.testing.assert_allclose(a.high, b.high)
        assert (a.low <= a.high).all()
        assert not np.allclose(a.low, c.low)


def test_a_class_of_one_group_has_no_band():
    data = clustered.group(np.array([1, 1, 0, 0]), toy.columns(np.array([0.9, 0.4, 0.2, 0.5])),
                         np.array([0, 0, 1, 2]))  # fmt: skip
    assert np.isnan(curves.roc(data, 1).low).all()


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_under_weights_is_scikit_learns(seed):
    labels, p, member = case(seed)
    data = clustered.group(labels, toy.columns(p), member)
    score = clustered.statistic("average_precision", data, 1)
    weights = np.random.default_rng(seed).integers(0, 3, (5, data.groups)).astype(float)
    for value, row in zip(score(weights), weights, strict=True):
        expected = average_precision_score(labels, p, sample_weight=row[member])
        assert value == pytest.approx(expected)
