"""Blur: what a lens out of focus, a moving stage or too few pixels do to an image.

A point spread function is a cloud of weighted points, each spread over its four nearest pixels
(bilinearly). So radii and lengths need not be whole pixels, weights sum to 1, and a cloud of no
extent is the identity. Spreading widens a cloud by up to half a pixel, which doubles the blur of a
small image: points are moved towards the pixel until the kernel is as wide as it should be
(`as_wide`).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Points of a disc: 13 rings, enough that a disc of 20 px has no holes.
_RINGS = 13
_HALVINGS = 20  # of an interval of factors: to a millionth


class Window(NamedTuple):
    """How far a kernel reaches: first and last row and column, relative to the pixel."""

    top: int
    bottom: int
    left: int
    right: int


def kernels(
    points: Float[Array, "n p 2"], weights: Float[Array, " p"], window: Window
) -> Float[Array, "n kr kc"]:
    """Clouds of points as pixel kernels.

    Args:
        points: (row, column) from the pixel, in pixels; none outside the window.
        weights: of the points; they sum to 1.
        window: static.
    """
    # The bilinear share of a pixel is a triangle of half width 1 along each axis.
    rows, columns = (
        jnp.maximum(1 - jnp.abs(points[..., axis, None] - jnp.arange(first, last + 1)), 0)
        for axis, (first, last) in enumerate((window[:2], window[2:]))
    )
    return jnp.einsum("npr,npc,p->nrc", rows, columns, weights, precision="highest")


def as_wide(
    points: Float[Array, "n p 2"], weights: Float[Array, " p"], variance: Float[Array, "#n"]
) -> Float[Array, "n p 2"]:
    """Points moved towards the pixel, all by one factor, until their kernel has this variance.

    A point at n + f is spread over n and n + 1, which adds f (1 - f) to the variance along each
    axis. The factor is found by bisection: at 0 the kernel has no width, at 1 it is too wide.

    Args:
        points: as in `kernels`.
        weights: of the points; they sum to 1.
        variance: of both axes together, in square pixels; at most that of the points, nearly.
    """

    def width(scale: Float[Array, " n"]) -> Float[Array, " n"]:
        moved = scale[:, None, None] * points
        part = moved - jnp.floor(moved)
        second = jnp.einsum("npa,p->na", moved**2 + part * (1 - part), weights, precision="highest")
        mean = jnp.einsum("npa,p->na", moved, weights, precision="highest")
        return (second - mean**2).sum(axis=-1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        narrow = width(middle) < variance
        return jnp.where(narrow, middle, low), jnp.where(narrow, high, middle)

    start = jnp.zeros(len(points)), jnp.ones(len(points))
    _, scale = jax.lax.fori_loop(0, _HALVINGS, halve, start)
    return scale[:, None, None] * points


def convolve(
    images: Float[Array, "n h w c"], kernel: Float[Array, "n kr kc"], window: Window
) -> Float[Array, "n h w c"]:
    """Each image through its own kernel (as written, not reversed); edge pixels repeat outwards.

    A sum of shifted images. XLA fuses a row of them into one pass, and nothing couples images, so
    that neighbours change no bit and devices need not talk.
    """
    height, width = images.shape[1:3]
    around = [(0, 0), *((max(-a, 0), max(b, 0)) for a, b in (window[:2], window[2:])), (0, 0)]
    padded = jnp.pad(images, around, mode="edge")
    # A window that lies to one side of the pixel starts inside the image.
    down, right = max(window.top, 0), max(window.left, 0)

    def add_row(row: int, total: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        strip = jax.lax.dynamic_slice_in_dim(padded, row + down, height, axis=1)
        line = jax.lax.dynamic_index_in_dim(kernel, row, axis=1, keepdims=False)
        for column in range(kernel.shape[2]):
            share = line[:, column, None, None, None]
            total = total + share * strip[:, :, column + right : column + right + width]
        return total

    return jax.lax.fori_loop(0, kernel.shape[1], add_row, jnp.zeros_like(images))


def blur(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "n kr kc"],
    window: Window,
    inside: Bool[Array, "n h w 1"],
) -> Float[Array, "n h w c"]:
    """`convolve` with the pixels outside left out and left alone (normalised convolution).

    So a cell that was cut out is blurred as it would have been before it was cut out: no black
    comes in at its rim. With everything inside it is `convolve`.
    Knutsson & Westin 1993, doi 10.1109/CVPR.1993.341081.
    """
    weight = inside.astype(images.dtype)
    both = convolve(jnp.concatenate([images * weight, weight], axis=-1), kernel, window)
    return jnp.where(inside, both[..., :-1] / jnp.maximum(both[..., -1:], 1e-6), images)


def defocus(
    images: Float[Array, "n h w c"],
    radius: Float[Array, "#n"],
    inside: Bool[Array, "n h w 1"],
    reach: int,
) -> Float[Array, "n h w c"]:
    """The mean over a disc about each pixel, as a lens out of focus has it.

    ImageNet-C (Hendrycks & Dietterich 2019, arXiv:1903.12261) takes whole pixels within the disc,
    and then a Gaussian of 0.1 px, whose weight one pixel off is exp(-50); here the disc has a soft
    edge, so that there is one of 0.4 px too. The kernel's variance is the disc's, radius² / 4 along
    each axis, at every radius.

    Args:
        images: values in [0, 1].
        radius: in pixels; at most `reach`.
        inside: pixels that take part.
        reach: static.
    """
    disc = jnp.asarray(_disc())
    radius = jnp.broadcast_to(jnp.reshape(radius, -1), len(images))
    weights = jnp.full(len(disc), 1 / len(disc), jnp.float32)
    points = as_wide(radius[:, None, None] * disc, weights, radius**2 / 2)
    window = Window(-reach, reach, -reach, reach)
    return blur(images, kernels(points, weights, window), window, inside)


@functools.cache
def _disc() -> Float[np.ndarray, "p 2"]:
    """Points that fill the unit disc evenly: in ring i of n, 8 i - 4 points of equal area."""
    rings = []
    for ring in range(1, _RINGS + 1):
        count = 8 * ring - 4
        angle = 2 * np.pi * (np.arange(count) + 0.5) / count
        # The radius that halves the ring's area.
        radius = np.sqrt(((ring - 1) ** 2 + ring**2) / 2) / _RINGS
        rings.append(radius * np.stack([np.sin(angle), np.cos(angle)], axis=1))
    return np.concatenate(rings).astype(np.float32)


def motion(
    images: Float[Array, "n h w c"],
    radius: Float[Array, ""],
    sigma: Float[Array, ""],
    angle: Float[Array, " n"],
    inside: Bool[Array, "n h w 1"],
    longest: int,
    unit: float = 1.0,
) -> Float[Array, "n h w c"]:
    """A trail along a line that goes to the right and at most 45 degrees up or down.

    ImageMagick's MotionBlur: weights exp(-d^2 / (2 sigma^2)) at the whole distances d of 0 to
    2 `radius`, on one side of the pixel. There each takes its nearest pixel; here bilinearly its
    nearest four. The kernel's variance, of both axes together, is that of these weights along the
    line; on a small image, whose pixels are longer than the trail, its mean lies closer to the
    pixel.

    Args:
        images: values in [0, 1].
        radius, sigma: in units.
        angle: of the line, in radians, between -pi/4 and pi/4.
        inside: pixels that take part.
        longest: static, the largest 2 `radius`.
        unit: pixels in a unit; above 1 each distance is divided, so that the trail has no gaps.
    """
    parts = math.ceil(unit)
    distance = (np.arange(parts * (longest + 1), dtype=np.float32) + 0.5) / parts - 0.5
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-6)) ** 2)
    weights = jnp.where(distance < 2 * radius + 0.5, weights, 0)
    line = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    weights = weights / weights.sum()
    points = jnp.asarray(unit * distance)[None, :, None] * line[:, None, :]
    variance = unit**2 * _trail_variance(radius, sigma, longest)
    points = as_wide(points, weights, jnp.reshape(variance, 1))
    last = math.ceil(unit * (longest + 0.5))
    slanted = math.ceil(last * math.sqrt(0.5))
    window = Window(-slanted, slanted, -math.ceil(unit / 2), last)
    return blur(images, kernels(points, weights, window), window, inside)


def _trail_variance(radius: Array, sigma: Array, longest: int) -> Array:
    """Of ImageMagick's weights at whole distances, in square units."""
    distance = np.arange(longest + 1, dtype=np.float32)
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-6)) ** 2)
    weights = jnp.where(distance < 2 * radius + 0.5, weights, 0)
    weights = weights / weights.sum()
    mean = (weights * distance).sum()
    return (weights * (distance - mean) ** 2).sum()


def pixelate(
    images: Float[Array, "n h w c"],
    rows: Float[Array, "h h"],
    columns: Float[Array, "w w"],
    inside: Bool[Array, "n h w 1"],
) -> Float[Array, "n h w c"]:
    """Shrink and grow again by the matrices of `shrink_and_grow`, outside left out and alone."""
    weight = inside.astype(images.dtype)
    both = jnp.concatenate([images * weight, weight], axis=-1)
    both = jnp.einsum("rh,nhwc,sw->nrsc", rows, both, columns, precision="highest")
    return jnp.where(inside, both[..., :-1] / jnp.maximum(both[..., -1:], 1e-6), images)


def shrink_and_grow(side: int, small: int, larger: int = 1) -> Float[np.ndarray, "side side"]:
    """Pillow's BOX filter down to `small` pixels and back up, as one matrix.

    BOX takes a pixel whole or not at all: those whose centre lies within half an output pixel of
    the output pixel's centre; growing repeats the nearest.

    Args:
        side: pixels before and after.
        small: pixels between.
        larger: the image is grown by this factor first, each pixel repeated, and what comes out is
            averaged down again: what shrinking to more pixels than there are does.
    """
    fine = side * larger
    repeat = np.repeat(np.eye(side, dtype=np.float32), larger, axis=0)
    return repeat.T / larger @ _box(small, fine) @ _box(fine, small) @ repeat


def _box(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """Pillow's resize by BOX along one axis."""
    scale = before / after
    support = 0.5 * max(scale, 1.0)
    matrix = np.zeros((after, before), np.float32)
    for row in range(after):
        centre = (row + 0.5) * scale
        first, last = max(0, int(centre - support + 0.5)), min(before, int(centre + support + 0.5))
        taken = (np.arange(first, last) - centre + 0.5) / max(scale, 1.0)
        chosen = ((taken > -0.5) & (taken <= 0.5)).astype(np.float32)
        matrix[row, first:last] = chosen / max(1.0, chosen.sum())
    return matrix
