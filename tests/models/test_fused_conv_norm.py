"""A 1x1 convolution fused with its normalisation equals the separate layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leukjax.models import norms
from leukjax.models.fused import FusedBlock, conv_norm
from leukjax.models.fused.norms import CONV_LAYERS, LAYERS
from leukjax.models.layers import Conv, conv
from leukjax.models.norms import standardize
from leukjax.models.resnet import Block

EPSILON = 1e-5


def separate(x, kernel, scale, bias, shortcut, parts, groups=0):
    y = conv(x, kernel.astype(x.dtype))
    flat = y.reshape(parts, -1, y.shape[-1])
    flat, mean, variance = jax.vmap(standardize, (0, None, None, None, None))(
        flat, scale, bias, groups or y.shape[-1], EPSILON
    )
    y = flat.reshape(y.shape)
    return (y if shortcut is None else jax.nn.relu(y + shortcut)), mean, variance


def fused(*arguments, groups=0):
    return conv_norm.conv_norm(*arguments, groups or arguments[1].shape[-1], EPSILON)


def random_arguments(seed, shortcut=True, dtype=jnp.float32):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = np.maximum(normal(4, 6, 5, 8) + 0.5, 0)  # as after a ReLU: with a mean
    beside = jnp.asarray(normal(4, 6, 5, 24), dtype) if shortcut else None
    gradient = jnp.asarray(normal(4, 6, 5, 24) + 0.3, dtype)
    return (jnp.asarray(x, dtype), normal(1, 1, 8, 24), normal(24), normal(24), beside), gradient


def both(function, arguments, gradient, parts):
    """The result, and the gradients of all arguments."""

    @jax.jit
    def run(arguments, gradient):
        y, back = jax.vjp(lambda *a: function(*a, parts)[0], *arguments)
        return y, back(gradient)

    return jax.tree.leaves(run(arguments, gradient))


@pytest.mark.parametrize(("parts", "groups"), [(1, 0), (2, 0), (4, 8), (2, 1)])
@pytest.mark.parametrize("shortcut", [True, False])
def test_equal_to_the_parts_one_after_the_other(parts, groups, shortcut):
    arguments, gradient = random_arguments(0, shortcut)
    forms = [functools.partial(form, groups=groups) for form in (fused, separate)]
    pairs = zip(*(both(form, arguments, gradient, parts) for form in forms), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5 * float(abs(theirs).max()))
    for ours, theirs in zip(*(form(*arguments, parts)[1:] for form in forms), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_about_as_near_to_the_truth_as_the_parts_one_after_the_other():
    """Root mean square errors of result and gradients; the truth is float32 of the same inputs."""
    errors = {fused: np.zeros(5), separate: np.zeros(5)}
    for seed in range(5):
        arguments, gradient = random_arguments(seed, shortcut=False, dtype=jnp.bfloat16)
        wide = jax.tree.map(lambda a: a.astype(jnp.float32), (arguments, gradient))
        truth = both(separate, *wide, 1)
        for function in errors:
            values = both(function, arguments, gradient, 1)
            errors[function] += [
                float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - b) ** 2)) / jnp.std(b))
                for a, b in zip(values, truth, strict=True)
            ]
    assert (errors[fused] < 1.5 * errors[separate] + 1e-3).all(), errors


@pytest.mark.parametrize(
    ("strides", "norm"), [((1, 1), "batch"), ((2, 2), "batch"), ((2, 2), "group")]
)
def test_a_fused_bottleneck_trains_like_the_plain_one(strides, norm, monkeypatch):
    """Result, gradients and running averages: same parameters, same names."""
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 12))

    def step(block_class, layers):
        conv = functools.partial(Conv, padding="HALF")
        make_norm = norms.make_norm(norm, 2, layers)
        block = block_class(4, True, strides, conv, make_norm, zero_init=False)
        variables = block.init(jax.random.key(1), images, train=False)

        def loss(params, images):
            y, new = block.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(jnp.square(y - 1)), new

        gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
        return jax.jit(gradient)(variables["params"], images)

    monkeypatch.setattr(conv_norm, "PIXELS", 0)  # also fuse these small images one by one
    ours, theirs = (
        step(FusedBlock, CONV_LAYERS if norm == "batch" else LAYERS),
        step(Block, norms.Layers()),
    )
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
