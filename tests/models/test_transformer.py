"""Attention on CPU equals its definition: values and gradients, written out here."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.models.cpu import attention
from leukjax.models.transformer import attend, attention_weights, mix


@pytest.fixture(params=[(2, 5, 3, 4), (1, 17, 2, 8)], ids=str)
def inputs(request):
    rng = np.random.default_rng(0)
    query, key, value, gradient = (
        jnp.asarray(rng.normal(size=request.param), jnp.float32) for _ in range(4)
    )
    return 3 * query / math.sqrt(query.shape[-1]), key, value, gradient


def plain(query, key, value):
    return mix(attention_weights(query, key), value)


def test_values_weights_and_gradients_equal_the_definition(inputs):
    query, key, value, gradient = inputs
    expected, backward = jax.vjp(plain, query, key, value)
    mixed, weights = attention.forward(query, key, value)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights, attention_weights(query, key), rtol=1e-5, atol=1e-7)
    found, ours = jax.vjp(attend, query, key, value)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for actual, wanted in zip(ours(gradient), backward(gradient), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow(inputs):
    query, key, value, _ = inputs
    mixed, _ = attention.forward(100 * query, key, value)
    assert np.isfinite(mixed).all()
    np.testing.assert_allclose(mixed, plain(100 * query, key, value), rtol=1e-3, atol=1e-4)


def test_bfloat16_is_as_close_to_the_truth_as_the_definition(inputs):
    query, key, value, gradient = inputs
    rounded = [x.astype(jnp.bfloat16) for x in (query, key, value)]
    exact = [x.astype(jnp.float32) for x in rounded]
    gradient = gradient.astype(jnp.bfloat16)
    truth, backward = jax.vjp(plain, *exact)
    for function in (plain, attend):
        value, ours = jax.vjp(function, *rounded)
        assert value.dtype == jnp.bfloat16
        np.testing.assert_allclose(value.astype(jnp.float32), truth, rtol=0.05, atol=0.03)
        wanted = backward(gradient.astype(jnp.float32))
        for actual, expected in zip(ours(gradient), wanted, strict=True):
            assert actual.dtype == jnp.bfloat16
            actual = actual.astype(jnp.float32)
            np.testing.assert_allclose(actual, expected, rtol=0.1, atol=0.1)


def test_blocks_of_images_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(8, 33, 2, 8)), jnp.float32) for _ in range(4)]
    *inputs, gradient = arrays
    blocks = []
    for name in ("_forward", "_gradients"):
        function = getattr(attention, name)
        monkeypatch.setattr(
            attention, name, lambda *x, call=function: blocks.append(x[0].shape) or call(*x)
        )
    whole = attention.forward(*inputs)
    whole += attention.gradients(*inputs, whole[1], gradient)
    assert blocks == [(8, 33, 2, 8)] * 2
    monkeypatch.setattr(attention.jax, "device_count", lambda: 1)
    monkeypatch.setattr(attention, "_WORTH_DIVIDING", 0)
    blocks.clear()
    divided = attention.forward(*inputs)
    divided += attention.gradients(*inputs, divided[1], gradient)
    assert blocks == [(2, 33, 2, 8)] * 8
    for actual, expected in zip(divided, whole, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
