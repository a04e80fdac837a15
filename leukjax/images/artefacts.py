"""Artefacts on a slide: stain deposits, bubbles, debris.

They are drawn with soft edges of about one pixel, so that they work on small images too. Positions
and sizes come from the seed of each image: a higher severity adds artefacts to the same ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leukjax.images.noise import Seeds, normal, per_image, uniform

_POSITION, _SIZE, _SHAPE, _COUNT, _COLOUR = range(5)

# A platelet's purple in Romanowsky stains.
_PURPLE = np.array([0.55, 0.38, 0.62], np.float32)


def deposits(
    images: Float[Array, "n h w 3"],
    seeds: Seeds,
    most: Float[Array, ""],
    radius: Float[Array, ""],
    limit: int,
) -> Float[Array, "n h w 3"]:
    """Draws black blots with irregular outlines; their number is uniform in 1 to `most`.

    The published ones are scans of ink that may not be copied; these have the radius r (1 + waves
    of the angle). They transmit a twentieth of the light.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        most: largest number.
        radius: mean radius of a blot, pixels.
        limit: static bound of `most`.
    """
    count = jnp.ceil(uniform(seeds, _COUNT) * most)
    positions = uniform(seeds, _POSITION, (limit, 2))
    waves = 2 * np.pi * uniform(seeds, _SHAPE, (limit, 3))
    size = radius * (0.7 + 0.6 * uniform(seeds, _SIZE, (limit,)))

    def add(blot: int, light: Float[Array, "n h w 1"]) -> Float[Array, "n h w 1"]:
        margin = size[:, blot] / 2
        row, column = _offsets(images, positions[:, blot], margin)
        angle, distance = jnp.arctan2(row, column), jnp.hypot(row, column)
        outline = 1 + sum(
            depth * jnp.cos(lobes * angle + waves[:, blot, i, None, None])
            for i, (lobes, depth) in enumerate(((2, 0.25), (3, 0.18), (5, 0.10)))
        )
        cover = _cover(size[:, blot, None, None] * outline - distance)
        cover = jnp.where(per_image(count) > blot, cover, 0)
        return light * (1 - 0.95 * cover)

    return images * jax.lax.fori_loop(0, limit, add, jnp.ones((*images.shape[:3], 1)))


def bubbles(
    images: Float[Array, "n h w 3"],
    seeds: Seeds,
    most: Float[Array, ""],
    radius: Float[Array, ""],
    unit: float,
    limit: int,
) -> Float[Array, "n h w 3"]:
    """Draws white discs of opacity 100/255 with a rim of 130/255, two (scaled) pixels wide.

    As published: the number is uniform in 7 to `most`, radii are uniform in 3 to `radius`, and
    later bubbles hide earlier ones.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        most: largest number, at least 7.
        radius: largest radius, pixels.
        unit: pixels of this image per pixel at 224.
        limit: static bound of `most`.
    """
    count = 7 + jnp.floor(uniform(seeds, _COUNT) * (most - 6))
    positions = uniform(seeds, _POSITION, (limit, 2))
    size = 3 * unit + uniform(seeds, _SIZE, (limit,)) * (radius - 3 * unit)

    def add(bubble: int, opacity: Float[Array, "n h w 1"]) -> Float[Array, "n h w 1"]:
        inner = size[:, bubble]
        distance = jnp.hypot(*_offsets(images, positions[:, bubble], inner))
        exists = per_image(count) > bubble
        for outer, strength in ((inner + 2 * unit, 130 / 255), (inner, 100 / 255)):
            cover = jnp.where(exists, _cover(outer[:, None, None] - distance), 0)
            opacity = opacity * (1 - cover) + strength * cover
        return opacity

    opacity = jax.lax.fori_loop(0, limit, add, jnp.zeros((*images.shape[:3], 1)))
    return images * (1 - opacity) + opacity


def debris(
    images: Float[Array, "n h w 3"],
    seeds: Seeds,
    count: Float[Array, "#n"],
    unit: float,
    limit: int,
) -> Float[Array, "n h w 3"]:
    """Draws `count` purple specks of the size of platelets (radius 5 to 12 pixels at 224).

    They cover the image, also a black background, where imperfect segmentation leaves them.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        count: number of specks; a fraction is the opacity of the last.
        unit: pixels of this image per pixel at 224.
        limit: static bound of `count`.
    """
    positions = uniform(seeds, _POSITION, (limit, 2))
    size = unit * (5 + 7 * uniform(seeds, _SIZE, (limit,)))
    colour = jnp.clip(_PURPLE + 0.06 * normal(seeds, _COLOUR, (limit, 3)), 0, 1)

    def add(speck: int, images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        row, column = _offsets(images, positions[:, speck], size[:, speck])
        cover = _cover(size[:, speck, None, None] - jnp.hypot(row, column))
        cover = cover * jnp.clip(per_image(count) - speck, 0, 1)
        return images * (1 - cover) + colour[:, speck, None, None, :] * cover

    return jax.lax.fori_loop(0, limit, add, images)


def _offsets(
    images: Float[Array, "n h w 3"], position: Float[Array, "n 2"], margin: Float[Array, " n"]
) -> tuple[Float[Array, "n h w"], Float[Array, "n h w"]]:
    """Rows and columns of all pixels relative to a position `margin` or more pixels inside."""
    height, width = images.shape[1:3]
    row, column = (
        jnp.arange(side) - (margin + share * jnp.maximum(side - 1 - 2 * margin, 0))[:, None]
        for side, share in ((height, position[:, 0]), (width, position[:, 1]))
    )
    shape = (len(images), height, width)
    return jnp.broadcast_to(row[:, :, None], shape), jnp.broadcast_to(column[:, None], shape)


def _cover(depth: Float[Array, "n h w"]) -> Float[Array, "n h w 1"]:
    """Share of a pixel that an object covers, from the depth of the pixel's centre inside it."""
    return jnp.clip(depth + 0.5, 0, 1)[..., None]
