"""Losses against scikit-learn and written-out sums."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from leukjax.train.loss import LossOptions, per_example

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
    np.testing.assert_allclose(_losses(name="focal", focal_gamma=0.0), _losses(), rtol=1e-6)


def test_bfloat16_logits_give_float32_losses():
    assert (
        per_example(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(LABELS), LossOptions()).dtype
        == jnp.float32
    )
