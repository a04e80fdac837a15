"""Max pooling: by slices on CPU, native on TPU, half and half on GPU; the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from leukjax.models.cpu.pooling import max_pool


def _native(x, size, strides, pads):
    pads = pads if isinstance(pads, str) else ((0, 0), *pads, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *size, 1), (1, *strides, 1), pads)


@pytest.mark.parametrize(
    ("shape", "size", "strides", "padding", "pads"),
    [
        ((2, 24, 24, 3), (3, 3), (2, 2), "HALF", ((1, 1), (1, 1))),
        ((2, 11, 12, 3), (3, 3), (2, 2), "SAME", "SAME"),
        ((2, 9, 8, 3), (2, 2), (2, 2), "VALID", "VALID"),
        ((2, 9, 8, 3), (2, 3), (1, 2), ((1, 0), (2, 1)), ((1, 0), (2, 1))),
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradient_equal_the_native_pool(shape, size, strides, padding, pads, ties):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) - 3  # all below zero
    if ties:  # many equal maxima: the first in reading order gets all of the gradient
        x = np.round(x)

    def with_gradient(function):
        def both(x):
            out, pull = jax.vjp(function, x)
            weights = np.random.default_rng(1).normal(size=out.shape)
            return out, pull(jnp.asarray(weights, jnp.float32))[0]

        return jax.jit(both)(x)

    ours = with_gradient(lambda x: max_pool(x, size, strides, padding))
    theirs = with_gradient(lambda x: _native(x, size, strides, pads))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)


def test_the_platform_is_chosen_when_lowering():
    step = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, (3, 3), (2, 2), "HALF") ** 2)))
    x = jnp.ones((2, 8, 8, 3))
    cpu = step.lower(x).as_text()
    assert "reduce_window" not in cpu
    assert "select_and_scatter" not in cpu
    tpu = jax.export.export(step, platforms=["tpu"])(x).mlir_module()
    assert "select_and_scatter" in tpu
    cuda = jax.export.export(step, platforms=["cuda"])(x).mlir_module()
    assert "reduce_window" in cuda  # forward native, backward by slices
    assert "select_and_scatter" not in cuda
