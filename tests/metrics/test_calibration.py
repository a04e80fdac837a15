import itertools

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from leukjax.metrics import predictions, scores
from leukjax.metrics.calibration import reliability, rescale, temperature
from leukjax.metrics.predictions import Predictions


def overconfident(rng, n=4000, classes=2, factor=3.0):
    """Labels sampled from true probabilities; a model that triples the logits."""
    logits = rng.normal(size=(n, classes))
    true = softmax(logits, axis=1)
    labels = (rng.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    return labels, softmax(factor * logits, axis=1)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_that_was_put_in_is_found(classes):
    labels, p = overconfident(np.random.default_rng(0), n=40_000, classes=classes)
    result = temperature(labels, p)
    assert result == pytest.approx(3, abs=0.1)
    by_scipy = optimize.minimize(
        lambda t: log_loss(labels, softmax(np.log(p) / t[0], axis=1)), [1.0], method="Nelder-Mead"
    )
    assert result == pytest.approx(by_scipy.x[0], rel=1e-3)
    assert log_loss(labels, rescale(p, result)) < log_loss(labels, p)


def test_very_unlikely_classes_keep_their_logits(tmp_path):
    """One wrong image with a margin of 110: float32 has 0 for it, and gave T = 20."""
    rng = np.random.default_rng(5)
    logits = np.stack([np.zeros(200), 3.5 * rng.normal(size=200)], axis=1)
    labels = (rng.random(200)[:, None] > softmax(logits / 1.5, axis=1).cumsum(axis=1)).sum(axis=1)
    logits[0], labels[0] = (0, 110), 0
    logits = logits.astype(np.float32)
    by_logits = optimize.minimize_scalar(
        lambda t: log_loss(labels, softmax(logits.astype(float) / t, axis=1)),
        bounds=(0.05, 20),
        method="bounded",
    ).x
    assert 3 < by_logits < 6
    names = np.array([f"{i:03}" for i in range(200)])
    written = Predictions(("a", "b"), names, names, names, labels, scores.softmax(logits))
    written.write(tmp_path / "val.csv")
    kept = predictions.read(tmp_path / "val.csv").probabilities
    np.testing.assert_array_equal(kept, written.probabilities)
    assert 0 < kept[0, 0] < 1e-45
    assert temperature(labels, kept) == pytest.approx(by_logits, rel=1e-4)
    expected = softmax(logits / by_logits, axis=1)
    np.testing.assert_allclose(rescale(kept, by_logits), expected, rtol=1e-4)
    # What an older run wrote, where float32 lost it: near, and not at the bound.
    lost = softmax(logits, axis=1)
    assert lost[0, 0] == 0
    assert temperature(labels, lost) == pytest.approx(by_logits, rel=0.1)


def test_zeros_never_overtake_what_is_there():
    for p in ([1.0, 1e-80, 0.0], [1.0, 1e-20, 0.0]):
        scaled = rescale(np.array([p]), 3.0)[0]
        assert scaled[0] > scaled[1] >= scaled[2] > 0


def test_temperature_1_changes_nothing_and_order_never_changes():
    _, p = overconfident(np.random.default_rng(1), n=50, classes=3)
    np.testing.assert_allclose(rescale(p, 1.0), p, atol=1e-15)
    for t in (0.3, 5.0):
        scaled = rescale(p, t)
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
        assert (scaled.argmax(axis=1) == p.argmax(axis=1)).all()


def test_a_perfect_validation_part_holds_the_temperature_at_its_bound():
    p = toy.columns(np.array([0.9, 0.8, 0.1]))
    assert temperature(np.array([1, 1, 0]), p) == pytest.approx(0.05, rel=1e-3)


def test_certain_probabilities_are_allowed():
    labels, p = np.array([1, 0, 1, 0]), toy.columns(np.array([1.0, 0.0, 0.0, 0.2]))
    result = temperature(labels, p)
    assert np.isfinite(rescale(p, result)).all()
    assert result > 1


def test_bins_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    labels, p = overconfident(rng, n=1000)
    bins = reliability(labels, p, np.arange(1000) // 10, 1)
    observed, predicted = calibration_curve(labels, p[:, 1], n_bins=10, strategy="quantile")
    np.testing.assert_allclose([b.observed for b in bins], observed)
    np.testing.assert_allclose([b.predicted for b in bins], predicted)
    assert sum(b.images for b in bins) == 1000
    # Overconfident: events of the lowest bin are more frequent than predicted, of the highest less.
    assert bins[0].low > bins[0].predicted
    assert bins[-1].high < bins[-1].predicted


def test_above_two_classes_the_largest_probability_is_judged():
    labels, p = overconfident(np.random.default_rng(3), n=900, classes=3)
    bins = reliability(labels, p, np.arange(900), 0, bins=5)
    hits = sum(b.observed * b.images for b in bins)
    assert hits == pytest.approx((p.argmax(axis=1) == labels).sum())


def test_intervals_are_by_group_and_not_by_image():
    rng = np.random.default_rng(4)
    labels, p = overconfident(rng, n=60, factor=1.0)
    members = np.arange(60)
    once = reliability(labels, p, members, 1, bins=3)
    repeated = reliability(*(np.repeat(x, 5, axis=0) for x in (labels, p, members)), 1, bins=3)
    for a, b in zip(once, repeated, strict=True):
        assert (a.low, a.high, a.groups) == pytest.approx((b.low, b.high, b.groups))
        assert a.low < a.observed < a.high


def test_intervals_of_bins_cover():
    """Subjects of one class each, with random shifts: most bins contain the true value."""
    rng = np.random.default_rng(5)
    held, total = 0, 0
    for _ in range(200):
        member = np.repeat(np.arange(40), 20)
        labels = member % 2
        z = 1.2 * (labels - 0.5) + 0.4 * rng.normal(size=40)[member] + rng.normal(size=800)
        # Log odds of class 1 given z: 1.2 z / (1 + 0.16).
        p = 1 / (1 + np.exp(-1.2 * z / 1.16))
        for b in reliability(labels, toy.columns(p), member, 1, bins=5):
            held += b.low <= b.predicted <= b.high
            total += 1
    assert 0.91 <= held / total <= 0.985


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_bins_hold_every_image_once(seed, bins):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(30), 1)
    result = reliability(rng.integers(0, 2, 30), toy.columns(p), rng.integers(0, 6, 30), 1, bins)
    assert sum(b.images for b in result) == 30
    assert all(a.predicted < b.predicted for a, b in itertools.pairwise(result))
    for b in result:
        assert b.low is None or -1e-9 <= b.low <= b.observed <= b.high <= 1 + 1e-9
