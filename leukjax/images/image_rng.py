"""Random numbers of each image, by its own seed: no neighbour and no batch size changes them."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from leukjax.hashing import mix, signed

Seeds = UInt32[Array, " n"]


def seeds_for(purpose: int, seeds: Seeds) -> Seeds:
    """Seeds of the same images for another purpose, whose numbers have nothing in common."""
    return mix(seeds + mix(jnp.uint32(purpose)))


def uniform(seeds: Seeds, quantity: int, shape: Sequence[int] = ()) -> Float[Array, "n *shape"]:
    """Numbers in [0, 1) for each image; each `quantity` has its own."""
    return (_numbers(seeds, quantity, shape) + 1) / 2


def normal(seeds: Seeds, quantity: int, shape: Sequence[int] = ()) -> Float[Array, "n *shape"]:
    """Standard normal numbers for each image, none beyond 5.3."""
    # Half a step off, so that -1, which would be infinite, does not occur.
    return math.sqrt(2) * jax.lax.erf_inv(_numbers(seeds, quantity, shape) + 2.0**-24)


def each(value: Float[Array, " n"] | Float[Array, ""] | float) -> Float[Array, "n 1 1 1"]:
    """One number an image, or one for all, in the shape that multiplies images."""
    return jnp.reshape(jnp.asarray(value, jnp.float32), (-1, 1, 1, 1))


def _numbers(seeds: Seeds, quantity: int, shape: Sequence[int]) -> Float[Array, "n *shape"]:
    own = seeds_for(quantity, seeds)
    place = jax.lax.iota(jnp.uint32, math.prod(shape))
    # Mixed twice: seeds and places are small numbers and their sums would meet.
    return signed(mix(mix(own[:, None] + mix(place)) + own[:, None])).reshape(-1, *shape)
