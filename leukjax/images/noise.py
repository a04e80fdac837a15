"""Noise of the camera: one number a pixel and channel, drawn by the image's own seed."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from leukjax.images.image_rng import Seeds, each, normal


def gaussian(
    images: Float[Array, "n h w c"], seeds: Seeds, quantity: int, sigma: Float[Array, "#n"]
) -> Float[Array, "n h w c"]:
    """Add independent normal noise of standard deviation `sigma` (of white = 1), clip."""
    return jnp.clip(images + each(sigma) * normal(seeds, quantity, images.shape[1:]), 0, 1)


def shot(
    images: Float[Array, "n h w c"], seeds: Seeds, quantity: int, photons: Float[Array, "#n"]
) -> Float[Array, "n h w c"]:
    """Count photons: Poisson with mean `photons` times the intensity, divided by `photons`, clip.

    Poisson's quantile by Cornish & Fisher's expansion, m + sqrt(m) z + (z^2 - 1) / 6, rounded to
    whole photons: mean, variance and skewness are Poisson's, it costs one normal number a pixel,
    and more light with the same z is the same pattern with less noise.
    """
    light = each(photons)
    z = normal(seeds, quantity, images.shape[1:])
    mean = light * images
    count = jnp.round(mean + jnp.sqrt(mean) * z + (z**2 - 1) / 6)
    return jnp.where(images > 0, jnp.clip(count / light, 0, 1), 0)
