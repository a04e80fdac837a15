"""Losses against scikit-learn and written-out sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from leukjax.training.losses import LossOptions, per_example

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 3)).astype(np.float32) * 3
LABELS = RNG.integers(0, 3, 20)


def _losses(**options):
    return np.asarray(per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS), LossOptions(**options)))


def test_cross_entropy():
    expected = log_loss(LABELS, softmax(LOGITS.astype(np.float64), axis=1))
    assert _losses().mean() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    log_p = log_softmax(LOGITS.astype(np.float64), axis=1)
    target = 0.8 * np.eye(3)[LABELS] + 0.2 / 3
    np.testing.assert_allclose(
        _losses(label_smoothing=0.2), -(target * log_p).sum(1), rtol=1e-5, atol=1e-6
    )


def test_focal():
    p = softmax(LOGITS.astype(np.float64), axis=1)[np.arange(20), LABELS]
    np.testing.assert_allclose(
        _losses(name="focal", focal_gamma=2.0), -((1 - p) ** 2) * np.log(p), rtol=2e-4, atol=1e-6
    )


COUNTS = np.array([120, 30, 5])


def _with_counts(counts=COUNTS, **options):
    counts = jnp.asarray(counts, jnp.float32)
    return per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS), LossOptions(**options), counts)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_logit_adjusted(tau):
    scaled = np.exp(LOGITS.astype(np.float64)) * (COUNTS / COUNTS.sum()) ** tau
    expected = -np.log(scaled[np.arange(20), LABELS] / scaled.sum(1))
    found = _with_counts(name="logit_adjusted", tau=tau)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_logit_adjusted_with_equal_classes_is_cross_entropy():
    found = _with_counts(np.full(3, 7), name="logit_adjusted")
    np.testing.assert_allclose(found, _losses(), rtol=1e-5, atol=1e-6)


def test_ldam():
    """Equation 12 written out: the margin of n images is C / n^(1/4), and that of the 5 is 0.8."""
    margins = 0.8 * 5**0.25 / COUNTS**0.25
    own = np.exp(LOGITS[np.arange(20), LABELS] - margins[LABELS].astype(np.float64))
    others = np.exp(LOGITS.astype(np.float64)).sum(1) - np.exp(
        LOGITS.astype(np.float64)[np.arange(20), LABELS]
    )
    found = _with_counts(name="ldam", margin=0.8)
    np.testing.assert_allclose(found, -np.log(own / (own + others)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["logit_adjusted", "ldam"])
def test_a_class_without_images_gives_finite_losses(name):
    assert np.isfinite(_with_counts([100, 10, 0], name=name)).all()


def _value_and_gradient(logits, options):
    labels = jnp.arange(len(logits)) % logits.shape[1]
    return jax.value_and_grad(lambda x: per_example(x, labels, options).sum())(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_with_a_gamma_of_0_is_cross_entropy_to_the_bit(smoothing):
    logits = jnp.concatenate([jnp.asarray(LOGITS), 50 * jnp.eye(3)])
    ours = _value_and_gradient(logits, LossOptions("focal", smoothing, 0.0))
    theirs = _value_and_gradient(logits, LossOptions("cross_entropy", smoothing))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0, 100.0])
def test_focal_is_finite_where_an_image_saturates(gamma, smoothing):
    """The softmax of right and of wrong answers rounds to 1 from a difference of 17 on."""
    scale = jnp.array([0.0, 1.0, 16.0, 17.0, 20.0, 100.0, 1e4, 1e30])[:, None]
    logits = jnp.concatenate([scale * jnp.eye(3)[i] for i in range(3)])
    value, gradient = _value_and_gradient(logits, LossOptions("focal", smoothing, gamma))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_the_gradient_of_focal_is_that_of_its_definition(gamma):
    def by_definition(logits, labels):
        p = jax.nn.softmax(logits)[jnp.arange(len(labels)), labels]
        return -((1 - p) ** gamma * jnp.log(p)).sum()

    with jax.enable_x64(True):  # the definition loses digits near 1
        wide = jnp.asarray(LOGITS, jnp.float64)
        expected = np.asarray(jax.grad(by_definition)(wide, jnp.asarray(LABELS)))
    options = LossOptions("focal", 0.0, gamma)
    found = jax.grad(lambda x: per_example(x, jnp.asarray(LABELS), options).sum())
    np.testing.assert_allclose(found(jnp.asarray(LOGITS)), expected, rtol=1e-4, atol=1e-6)


def test_bfloat16_logits_give_float32_losses():
    assert (
        per_example(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(LABELS), LossOptions()).dtype
        == jnp.float32
    )
