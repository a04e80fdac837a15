"""Contender: one 3x3 convolution in JAX, forward or both gradients; run by convolutions.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from harness import repeated, serve
from jax import lax
from measured import processor, versions

from leukjax import runtime
from leukjax.models.cpu import convolution, winograd
from leukjax.training.step import compiler_options

PADS = ((1, 1), (1, 1))


def native(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), PADS, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def native_gradients(x, kernel, gradient):
    return jax.vjp(native, x, kernel)[1](gradient)


def by_patches(function):
    convolution._by_tiles = lambda *_: False
    return functools.partial(function, strides=(1, 1), pads=PADS)


WAYS = {
    "native": lambda: (native, native_gradients),
    "patches": lambda: (by_patches(convolution.forward), by_patches(convolution.gradients)),
    "winograd": lambda: (
        functools.partial(winograd.forward, pads=PADS),
        functools.partial(winograd.gradients, pads=PADS),
    ),
}


def prepare(spec):
    runtime.hold_memory()
    random = np.random.default_rng(0)
    side, channels = spec["side"], spec["channels"]
    features = (spec["batch"], side, side, channels)
    x, gradient = (jnp.asarray(random.standard_normal(features), jnp.float32) for _ in range(2))
    kernel = jnp.asarray(random.standard_normal((3, 3, channels, channels)), jnp.float32)
    forward, gradients = WAYS[spec["way"]]()
    function, inputs = (
        (forward, (x, kernel)) if spec["pass"] == "forward" else (gradients, (x, kernel, gradient))
    )
    # As the training step is compiled.
    options = compiler_options(jax.make_mesh((1,), ("data",)))
    compiled = jax.jit(function, compiler_options=options)
    about = {"device": processor(), "versions": versions("jax")}
    return about, repeated(lambda: compiled(*inputs), jax.block_until_ready, spec["seconds"], True)


if __name__ == "__main__":
    serve(prepare)
