"""Initializers of parameters that compile fast.

A model has dozens of kernels, and XLA compiles each draw of ``jax.random`` separately, which takes
as long as compiling the training step. Here the values of a kernel are a short integer hash of
(key, position), the same on any number of devices. They are uniform, with the variance that the
papers prescribe, and so need no inverse error function.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax import lax
from jaxtyping import Array, Float

from leukjax.hashing import mix, signed


def uniform_by_hash(key: Array, shape: Sequence[int]) -> Float[Array, "..."]:
    """Returns float32 numbers in [-1, 1), for initial values and not for simulation or security."""
    words = jax.random.key_data(key).reshape(-1)
    mixed = lax.iota(jnp.uint32, math.prod(shape))
    for word in (words[0], words[-1]):
        mixed = mix(mixed + word)
    return signed(mixed).reshape(shape)


def deviation(standard_deviation: float) -> Initializer:
    """Returns an initializer of uniform values with this standard deviation and mean 0."""

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        width = math.sqrt(3) * standard_deviation
        return (uniform_by_hash(key, shape) * width).astype(dtype)

    return initializer


def he_fan_out(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """Variance 2 / (window x output channels), for convolutions before ReLU (He et al. 2015)."""
    return deviation(math.sqrt(2 / (math.prod(shape) // shape[-2])))(key, shape, dtype)


def fan_in(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """Variance 1 / inputs, for fully connected layers (LeCun et al. 1998)."""
    return deviation(math.sqrt(1 / (math.prod(shape) // shape[-1])))(key, shape, dtype)


def glorot(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """Variance 2 / (inputs + outputs), for the transformer (Glorot and Bengio 2010)."""
    return deviation(math.sqrt(2 / (shape[0] + shape[1])))(key, shape, dtype)
