"""3x3 convolutions by tiles: the same numbers for fewer multiplications."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from leukjax.models.cpu import convolution, winograd
from leukjax.models.layers import conv

HALF = ((1, 1), (1, 1))


def _random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _native(x, kernel, pads):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_patches(x, kernel, pads):
    patches = convolution._patches(x, (3, 3), (1, 1), pads)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize(
    ("size", "pads"),
    [
        ((8, 8), HALF),
        ((7, 9), HALF),  # half a tile is left
        ((8, 7), ((0, 0), (0, 0))),
        ((6, 8), ((0, 1), (2, 0))),
        ((1, 2), HALF),
        ((3, 3), ((2, 2), (2, 2))),
    ],
)
def test_values_and_both_gradients_are_those_of_the_convolution(size, pads):
    x, kernel = _random(0, 4, *size, 12), _random(1, 3, 3, 12, 10)
    expected, pull = jax.vjp(lambda x, k: _native(x, k, pads), x, kernel)
    gradient = _random(2, *expected.shape)
    ours = (winograd.forward(x, kernel, pads), *winograd.gradients(x, kernel, gradient, pads))
    for value, theirs in zip(ours, (expected, *pull(gradient)), strict=True):
        np.testing.assert_allclose(value, theirs, atol=3e-6 * np.abs(theirs).max())


def test_it_is_as_exact_as_the_plain_product():
    """Against float64: the sums of a tile have few terms of like size."""
    x, kernel = np.maximum(_random(0, 2, 16, 16, 256), 0), _random(1, 3, 3, 256, 32)
    with jax.enable_x64():
        exact = np.asarray(_by_patches(x.astype(np.float64), kernel.astype(np.float64), HALF))
    errors = [
        np.abs(np.asarray(form(x, kernel, HALF)) - exact).max()
        for form in (winograd.forward, _by_patches)
    ]
    assert errors[0] < 4 * errors[1]
    assert errors[0] < 2e-6 * np.abs(exact).max()


def _products(x, kernel):
    """FLOPs of forward pass and gradients, by the compiler."""

    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, (1, 1), "HALF") ** 2)

    return jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile().cost_analysis()["flops"]


def test_it_is_taken_where_it_saves_and_only_there():
    plain = 3 * 2 * 9
    many = _products(jnp.zeros((32, 16, 16, 32)), jnp.zeros((3, 3, 32, 32)))
    assert many < 0.65 * plain * 32 * 16 * 16 * 32 * 32
    # Too little to do; channels of an image; bfloat16, whose sums would be rounded.
    cases = (((4, 16, 16, 32), "f4"), ((256, 32, 32, 3), "f4"), ((32, 16, 16, 32), "bf16"))
    for shape, dtype in cases:
        dtype = {"f4": jnp.float32, "bf16": jnp.bfloat16}[dtype]
        x, kernel = jnp.zeros(shape, dtype), jnp.zeros((3, 3, shape[-1], 32), dtype)
        assert _products(x, kernel) > 0.95 * plain * np.prod(shape) * 32


def test_more_padding_than_the_window_reaches_goes_by_patches():
    x, kernel = _random(0, 4, 8, 8, 8), _random(1, 3, 3, 8, 8)
    pads = ((3, 0), (1, 1))
    out, pull = jax.vjp(lambda x, k: conv(x, k, (1, 1), pads), x, kernel)
    np.testing.assert_allclose(out, _native(x, kernel, pads), atol=1e-4)
    assert pull(out)[0].shape == x.shape


def test_sharded_over_eight_devices_nothing_moves_but_the_kernels_gradient():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x, kernel = _random(0, 64, 16, 16, 20), _random(1, 3, 3, 20, 20)

    def loss(x, kernel):
        return jnp.sum(conv(x, kernel, (1, 1), "HALF") ** 2)

    gradient = jax.grad(loss, (0, 1))
    sharded = jax.jit(gradient, in_shardings=(rows, whole), out_shardings=(rows, whole))
    text = sharded.lower(x, kernel).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    for ours, theirs in zip(sharded(x, kernel), gradient(x, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
