"""Random numbers per image from its own seed, and camera noise made of them.

Neither other images nor the batch size change the numbers of an image.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from leukjax.hashing import mix, signed

Seeds = UInt32[Array, " n"]


def seeds_for(purpose: int, seeds: Seeds) -> Seeds:
    """Returns independent seeds of the same images for another purpose."""
    return mix(seeds + mix(jnp.uint32(purpose)))


def uniform(seeds: Seeds, quantity: int, shape: Sequence[int] = ()) -> Float[Array, "n *shape"]:
    """Returns numbers in [0, 1) for each image, independent for each `quantity`."""
    return (_numbers(seeds, quantity, shape) + 1) / 2


def normal(seeds: Seeds, quantity: int, shape: Sequence[int] = ()) -> Float[Array, "n *shape"]:
    """Returns standard normal numbers for each image, at most 5.3 in size."""
    # Shifted by half a step, so that -1, whose quantile is infinite, does not occur.
    return math.sqrt(2) * jax.lax.erf_inv(_numbers(seeds, quantity, shape) + 2.0**-24)


def per_image(value: Float[Array, " n"] | Float[Array, ""] | float) -> Float[Array, "n 1 1 1"]:
    """Returns one number per image, or one for all, in a shape that broadcasts over images."""
    return jnp.reshape(jnp.asarray(value, jnp.float32), (-1, 1, 1, 1))


def gaussian(
    images: Float[Array, "n h w c"], seeds: Seeds, quantity: int, sigma: Float[Array, "#n"]
) -> Float[Array, "n h w c"]:
    """Adds independent normal noise of standard deviation `sigma` (white = 1), and clips."""
    return jnp.clip(images + per_image(sigma) * normal(seeds, quantity, images.shape[1:]), 0, 1)


def shot(
    images: Float[Array, "n h w c"], seeds: Seeds, quantity: int, photons: Float[Array, "#n"]
) -> Float[Array, "n h w c"]:
    """Counts photons: Poisson with mean `photons` times the intensity, over `photons`, clipped.

    The Poisson quantile is approximated by the Cornish-Fisher expansion, m + sqrt(m) z +
    (z^2 - 1) / 6, rounded to whole photons: it has the mean, variance and skewness of a Poisson
    distribution, needs one normal number per pixel, and more light with the same z gives the same
    pattern with less noise.
    """
    light = per_image(photons)
    z = normal(seeds, quantity, images.shape[1:])
    mean = light * images
    count = jnp.round(mean + jnp.sqrt(mean) * z + (z**2 - 1) / 6)
    return jnp.where(images > 0, jnp.clip(count / light, 0, 1), 0)


def _numbers(seeds: Seeds, quantity: int, shape: Sequence[int]) -> Float[Array, "n *shape"]:
    of_quantity = seeds_for(quantity, seeds)
    index = jax.lax.iota(jnp.uint32, math.prod(shape))
    # Mixed twice: seeds and indices are small numbers, whose sums would collide.
    return signed(mix(mix(of_quantity[:, None] + mix(index)) + of_quantity[:, None])).reshape(
        -1, *shape
    )
