"""The distortions of the suite as augmentation: each to a degree drawn for each image.

The operations are those that `distort` measures with. A model that trains with them is measured on
what it has seen, and every report of robustness should say so.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leukjax.images import artefacts, blur, light, noise
from leukjax.images.image_rng import Seeds, seeds_for, uniform

PUBLISHED_SIDE = 224

# Each operation has seeds of its own, so that switching one on changes no other.
_DEBRIS, _STAIN, _ILLUMINATION, _BLUR, _NOISE = range(5)
_DEGREE, _DIRECTION, _PIXELS = range(100, 103)  # apart from the quantities of `artefacts`


def perturb(
    seeds: Seeds,
    images: Float[Array, "n h w 3"],
    *,
    black: bool,
    debris: float = 0.0,
    stain: float = 0.0,
    illumination: float = 0.0,
    blur_radius: float = 0.0,
    noise_sigma: float = 0.0,
) -> Float[Array, "n h w 3"]:
    """Distort each image, in the order of nature: slide, stain, light, lens, camera.

    The degree of each is uniform between 0 and the number given; 0 costs nothing. On a black
    background exactly black pixels stay so, but for debris.

    Args:
        seeds: of the images.
        images: values in [0, 1].
        black: the background is exactly black.
        debris: number of specks, see `artefacts.debris`.
        stain: shift of the stains (logarithm of their amounts), see `light.stain`.
        illumination: slope of the light, see `light.illuminate`.
        blur_radius: radius of the disc in pixels at 224, see `blur.defocus`.
        noise_sigma: deviation of the noise, of white = 1, see `noise.gaussian`.
    """
    unit = images.shape[1] / PUBLISHED_SIDE

    def degree(of: int, most: float) -> Float[Array, " n"]:
        return most * uniform(seeds_for(of, seeds), _DEGREE)

    def direction(of: int) -> Float[Array, " n"]:
        return 2 * np.pi * uniform(seeds_for(of, seeds), _DIRECTION)

    if debris:
        own = seeds_for(_DEBRIS, seeds)
        count = degree(_DEBRIS, debris)
        images = artefacts.debris(images, own, count, unit, math.ceil(debris))
    inside = (images > 0).any(axis=-1, keepdims=True)
    inside = inside if black else jnp.ones_like(inside)
    if stain:
        amount, angle = degree(_STAIN, stain), direction(_STAIN)
        shifted = light.stain(images, amount * jnp.cos(angle), amount * jnp.sin(angle))
        images = jnp.where(inside, shifted, images)
    if illumination:
        slope = degree(_ILLUMINATION, illumination)
        images = light.illuminate(images, slope, direction(_ILLUMINATION))
    if blur_radius:
        radius, reach = degree(_BLUR, blur_radius) * unit, math.ceil(blur_radius * unit)
        images = blur.defocus(images, radius, inside, reach)
    if noise_sigma:
        sigma = degree(_NOISE, noise_sigma)
        noisy = noise.gaussian(images, seeds_for(_NOISE, seeds), _PIXELS, sigma)
        images = jnp.where(inside, noisy, images)
    return images
