"""Things that lie on a slide and are no cell: deposits of stain, bubbles, debris.

Everything is drawn with soft edges of about a pixel, so that small images have them too, and with
places and sizes from each image's own seed: more of a kind adds to what was there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leukjax.images.image_rng import Seeds, each, normal, uniform

_PLACE, _SIZE, _SHAPE, _COUNT, _COLOUR = range(5)

# A platelet's purple in Romanowsky stains.
_PURPLE = np.array([0.55, 0.38, 0.62], np.float32)


def deposits(
    images: Float[Array, "n h w 3"],
    seeds: Seeds,
    most: Float[Array, ""],
    radius: Float[Array, ""],
    limit: int,
) -> Float[Array, "n h w 3"]:
    """Black blots with uneven outlines: 1 to `most`, each number as likely as the others.

    The published ones are scans of ink, which are not ours to copy; these are r (1 + waves of the
    angle). They let a twentieth of the light through.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        most: largest number.
        radius: mean radius of a blot, pixels.
        limit: static bound of `most`.
    """
    count = jnp.ceil(uniform(seeds, _COUNT) * most)
    places = uniform(seeds, _PLACE, (limit, 2))
    waves = 2 * np.pi * uniform(seeds, _SHAPE, (limit, 3))
    size = radius * (0.7 + 0.6 * uniform(seeds, _SIZE, (limit,)))

    def add(blot: int, light: Float[Array, "n h w 1"]) -> Float[Array, "n h w 1"]:
        margin = size[:, blot] / 2
        row, column = _from(images, places[:, blot], margin)
        angle, distance = jnp.arctan2(row, column), jnp.hypot(row, column)
        outline = 1 + sum(
            depth * jnp.cos(lobes * angle + waves[:, blot, i, None, None])
            for i, (lobes, depth) in enumerate(((2, 0.25), (3, 0.18), (5, 0.10)))
        )
        here = _cover(size[:, blot, None, None] * outline - distance)
        here = jnp.where(each(count) > blot, here, 0)
        return light * (1 - 0.95 * here)

    return images * jax.lax.fori_loop(0, limit, add, jnp.ones((*images.shape[:3], 1)))


def bubbles(
    images: Float[Array, "n h w 3"],
    seeds: Seeds,
    most: Float[Array, ""],
    radius: Float[Array, ""],
    unit: float,
    limit: int,
) -> Float[Array, "n h w 3"]:
    """White discs of 100/255 opacity with a rim of 130/255, two (scaled) pixels wide.

    As published: the number is uniform in 7 to `most`, radii are uniform in 3 to `radius`, and a
    later bubble hides an earlier one.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        most: largest number, at least 7.
        radius: largest radius, pixels.
        unit: pixels of this image in a pixel at 224.
        limit: static bound of `most`.
    """
    count = 7 + jnp.floor(uniform(seeds, _COUNT) * (most - 6))
    places = uniform(seeds, _PLACE, (limit, 2))
    size = 3 * unit + uniform(seeds, _SIZE, (limit,)) * (radius - 3 * unit)

    def add(bubble: int, opacity: Float[Array, "n h w 1"]) -> Float[Array, "n h w 1"]:
        own = size[:, bubble]
        distance = jnp.hypot(*_from(images, places[:, bubble], own))
        there = each(count) > bubble
        for reach, strength in ((own + 2 * unit, 130 / 255), (own, 100 / 255)):
            here = jnp.where(there, _cover(reach[:, None, None] - distance), 0)
            opacity = opacity * (1 - here) + strength * here
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
    """`count` purple specks of the size of platelets (radius 5 to 12 pixels at 224), anywhere.

    They cover what is below them: so they show on a black background too, where imperfect
    segmentation leaves them.

    Args:
        images: values in [0, 1].
        seeds: of the images.
        count: number of specks; a fraction is the opacity of the last.
        unit: pixels of this image in a pixel at 224.
        limit: static bound of `count`.
    """
    places = uniform(seeds, _PLACE, (limit, 2))
    size = unit * (5 + 7 * uniform(seeds, _SIZE, (limit,)))
    colour = jnp.clip(_PURPLE + 0.06 * normal(seeds, _COLOUR, (limit, 3)), 0, 1)

    def add(speck: int, images: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        row, column = _from(images, places[:, speck], size[:, speck])
        cover = _cover(size[:, speck, None, None] - jnp.hypot(row, column))
        cover = cover * jnp.clip(each(count) - speck, 0, 1)
        return images * (1 - cover) + colour[:, speck, None, None, :] * cover

    return jax.lax.fori_loop(0, limit, add, images)


def _from(
    images: Float[Array, "n h w 3"], place: Float[Array, "n 2"], margin: Float[Array, " n"]
) -> tuple[Float[Array, "n h w"], Float[Array, "n h w"]]:
    """Rows and columns of all pixels, from a place at least `margin` pixels inside the image."""
    height, width = images.shape[1:3]
    row, column = (
        jnp.arange(side) - (margin + share * jnp.maximum(side - 1 - 2 * margin, 0))[:, None]
        for side, share in ((height, place[:, 0]), (width, place[:, 1]))
    )
    shape = (len(images), height, width)
    return jnp.broadcast_to(row[:, :, None], shape), jnp.broadcast_to(column[:, None], shape)


def _cover(depth: Float[Array, "n h w"]) -> Float[Array, "n h w 1"]:
    """How much of a pixel an object covers, from how deep inside it the pixel's centre lies."""
    return jnp.clip(depth + 0.5, 0, 1)[..., None]
