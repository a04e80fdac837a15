"""Blur: defocus, motion and pixelation.

A point spread function is a set of weighted points, each distributed over its four nearest pixels
(bilinearly). So radii and lengths need not be whole pixels, weights sum to 1, and points at 0 are
the identity. The bilinear weights widen a kernel by up to half a pixel, which would double the blur
of a small image: points are moved towards 0 until the kernel has the right variance
(`match_variance`).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Rings of points of a disc: 13 leave no holes in a disc of 20 px.
_RINGS = 13
_HALVINGS = 20  # bisection steps: a precision of one millionth


class Window(NamedTuple):
    """Extent of a kernel: first and last row and column, relative to the pixel."""

    top: int
    bottom: int
    left: int
    right: int


def kernels(
    points: Float[Array, "n p 2"], weights: Float[Array, " p"], window: Window
) -> Float[Array, "n kr kc"]:
    """Returns pixel kernels of weighted points.

    Args:
        points: (row, column) relative to the pixel, inside the window.
        weights: of the points; they sum to 1.
        window: static.
    """
    # The bilinear weight of a pixel is a triangle of half width 1 along each axis.
    rows, columns = (
        jnp.maximum(1 - jnp.abs(points[..., axis, None] - jnp.arange(first, last + 1)), 0)
        for axis, (first, last) in enumerate((window[:2], window[2:]))
    )
    return jnp.einsum("npr,npc,p->nrc", rows, columns, weights, precision="highest")


def match_variance(
    points: Float[Array, "n p 2"], weights: Float[Array, " p"], variance: Float[Array, "#n"]
) -> Float[Array, "n p 2"]:
    """Returns points scaled by a common factor so that their kernel has this variance.

    A point at n + f is distributed over n and n + 1, which adds f (1 - f) to the variance along
    each axis. The factor is found by bisection: at 0 the variance is 0, at 1 it is too large.

    Args:
        points: as in `kernels`.
        weights: of the points; they sum to 1.
        variance: sum over both axes, in square pixels; at most about that of the points.
    """

    def variance_at(scale: Float[Array, " n"]) -> Float[Array, " n"]:
        moved = scale[:, None, None] * points
        rest = moved - jnp.floor(moved)
        second = jnp.einsum("npa,p->na", moved**2 + rest * (1 - rest), weights, precision="highest")
        mean = jnp.einsum("npa,p->na", moved, weights, precision="highest")
        return (second - mean**2).sum(axis=-1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        narrow = variance_at(middle) < variance
        return jnp.where(narrow, middle, low), jnp.where(narrow, high, middle)

    start = jnp.zeros(len(points)), jnp.ones(len(points))
    _, scale = jax.lax.fori_loop(0, _HALVINGS, halve, start)
    return scale[:, None, None] * points


def convolve(
    images: Float[Array, "n h w c"], kernel: Float[Array, "n kr kc"], window: Window
) -> Float[Array, "n h w c"]:
    """Correlates each image with its own kernel (not reversed); edge pixels are repeated.

    A sum of shifted images. XLA fuses a row of them into one pass, and images are independent, so
    that other images do not change a bit and devices need no communication.
    """
    height, width = images.shape[1:3]
    padding = [(0, 0), *((max(-a, 0), max(b, 0)) for a, b in (window[:2], window[2:])), (0, 0)]
    padded = jnp.pad(images, padding, mode="edge")
    # A window on one side of the pixel starts inside the image.
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
    """Convolves the pixels `inside` only (normalised convolution); others are kept.

    So a segmented cell is blurred as before its segmentation: no black is mixed in at its rim. With
    all pixels inside it is `convolve`.
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
    """Averages over a disc around each pixel, as a lens out of focus does.

    ImageNet-C (Hendrycks & Dietterich 2019, arXiv:1903.12261) uses whole pixels within the disc
    and a Gaussian of 0.1 px, whose weight at the next pixel is exp(-50); here the disc has a soft
    edge, so that a radius of 0.4 px works too. The variance of the kernel is that of
    the disc, radius² / 4 along each axis, at every radius.

    Args:
        images: values in [0, 1].
        radius: in pixels; at most `reach`.
        inside: pixels that are blurred.
        reach: static.
    """
    disc = jnp.asarray(_disc())
    radius = jnp.broadcast_to(jnp.reshape(radius, -1), len(images))
    weights = jnp.full(len(disc), 1 / len(disc), jnp.float32)
    points = match_variance(radius[:, None, None] * disc, weights, radius**2 / 2)
    window = Window(-reach, reach, -reach, reach)
    return blur(images, kernels(points, weights, window), window, inside)


@functools.cache
def _disc() -> Float[np.ndarray, "p 2"]:
    """Returns points that fill the unit disc evenly: ring i has 8 i - 4 points of equal area."""
    rings = []
    for ring in range(1, _RINGS + 1):
        count = 8 * ring - 4
        angle = 2 * np.pi * (np.arange(count) + 0.5) / count
        # The radius that halves the area of the ring.
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
    """Blurs along a line to the right, at most 45 degrees up or down.

    MotionBlur of ImageMagick: weights exp(-d^2 / (2 sigma^2)) at the integer distances d from 0 to
    2 `radius`, on one side of the pixel. There each point takes its nearest pixel; here its four
    nearest, bilinearly. The variance of the kernel, summed over both axes, is that of these weights
    along the line; on a small image, with pixels longer than the trail, its mean is closer to the
    pixel.

    Args:
        images: values in [0, 1].
        radius, sigma: in units.
        angle: of the line, in radians, between -pi/4 and pi/4.
        inside: pixels that are blurred.
        longest: static, the largest 2 `radius`.
        unit: pixels per unit; above 1 distances are subdivided, so that the trail has no gaps.
    """
    divisions = math.ceil(unit)
    index = np.arange(divisions * (longest + 1), dtype=np.float32)
    distance = (index + 0.5) / divisions - 0.5
    weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-6)) ** 2)
    weights = jnp.where(distance < 2 * radius + 0.5, weights, 0)
    line = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    weights = weights / weights.sum()
    points = jnp.asarray(unit * distance)[None, :, None] * line[:, None, :]
    variance = unit**2 * _trail_variance(radius, sigma, longest)
    points = match_variance(points, weights, jnp.reshape(variance, 1))
    last = math.ceil(unit * (longest + 0.5))
    slanted = math.ceil(last * math.sqrt(0.5))
    window = Window(-slanted, slanted, -math.ceil(unit / 2), last)
    return blur(images, kernels(points, weights, window), window, inside)


def _trail_variance(radius: Array, sigma: Array, longest: int) -> Array:
    """Variance of ImageMagick's weights at integer distances, in square units."""
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
    """Shrinks and enlarges the pixels `inside` with matrices of `shrink_and_grow`."""
    weight = inside.astype(images.dtype)
    both = jnp.concatenate([images * weight, weight], axis=-1)
    both = jnp.einsum("rh,nhwc,sw->nrsc", rows, both, columns, precision="highest")
    return jnp.where(inside, both[..., :-1] / jnp.maximum(both[..., -1:], 1e-6), images)


def shrink_and_grow(side: int, small: int, larger: int = 1) -> Float[np.ndarray, "side side"]:
    """Returns Pillow's BOX filter down to `small` pixels and back up, as one matrix.

    BOX averages the pixels whose centre is within half an output pixel of the centre of the output
    pixel; enlarging repeats the nearest.

    Args:
        side: pixels before and after.
        small: pixels in between.
        larger: factor by which the image is enlarged first (by repeating pixels) and averaged down
            afterwards, for shrinking to more pixels than there are.
    """
    fine = side * larger
    repeat = np.repeat(np.eye(side, dtype=np.float32), larger, axis=0)
    return repeat.T / larger @ _box(small, fine) @ _box(fine, small) @ repeat


def _box(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """Returns the matrix of Pillow's BOX resize along one axis."""
    scale = before / after
    support = 0.5 * max(scale, 1.0)
    matrix = np.zeros((after, before), np.float32)
    for row in range(after):
        centre = (row + 0.5) * scale
        first, last = max(0, int(centre - support + 0.5)), min(before, int(centre + support + 0.5))
        offset = (np.arange(first, last) - centre + 0.5) / max(scale, 1.0)
        chosen = ((offset > -0.5) & (offset <= 0.5)).astype(np.float32)
        matrix[row, first:last] = chosen / max(1.0, chosen.sum())
    return matrix
