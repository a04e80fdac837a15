"""Random augmentation of training images, inside the jitted step.

The view of an example depends only on its own key and pixels, so that neither the number of
devices, nor the sharding of the batch, nor the other examples change it.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from leukjax.images import artefacts, blur, light, noise
from leukjax.images.geometry import linear_map, permute, resample
from leukjax.images.noise import Seeds, seeds_for, uniform

PUBLISHED_SIDE = 224  # side of the images for which the published severities are given

# Each random quantity has its own number, so that switching an option on does not change others.
_LEFT_RIGHT, _UP_DOWN, _TURN, _ANGLE, _ZOOM, _BRIGHTNESS, _CONTRAST = range(7)
# Seeds of the operations of `perturb`, and their quantities (other numbers than in `artefacts`).
_DEBRIS, _STAIN, _ILLUMINATION, _BLUR, _NOISE = range(5)
_DEGREE, _DIRECTION, _PIXELS = range(100, 103)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Options of the augmentation; the names are those of `config.augment`.

    Attributes:
        flip: left-right and up-down, each with probability 1/2.
        quarter_turns: 0, 90, 180 or 270 degrees with equal probability; needs square images.
        rotate: degrees; the angle is uniform in +-rotate.
        zoom: the magnification is log-uniform in [1 / (1 + zoom), 1 + zoom].
        brightness: the factor is uniform in 1 +- brightness.
        contrast: the factor is uniform in 1 +- contrast, about the foreground's mean colour.
        stain: shift of azure and eosin. This and the next four are the largest degrees of
            distortions of the robustness suite; see `perturb`.
        illumination: brighter at one end of the image, darker at the other.
        blur: radius of defocus, in pixels of an image of 224.
        noise: standard deviation of camera noise; white is 1.
        debris: number of purple specks.
        mixup: each image is blended with another one of the batch, and its label too, with a share
            from Beta(mixup, mixup); see `mix.mix`. 0: off. `augment` leaves this to the step.
        cutmix: as `mixup`; a box of the image is replaced.
        background: "black": pixels from outside the image are 0, and exactly black pixels stay
            black. "edge": the outermost pixels are repeated, and every pixel counts as foreground
            (bright backgrounds).
    """

    flip: bool = False
    quarter_turns: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    stain: float = 0.0
    illumination: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    debris: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    background: Literal["black", "edge"] = "black"


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    positions: Int[Array, " b"],
    options: Augment,
) -> Float[Array, "b h w c"]:
    """Returns one random view of each image.

    Colours change before pixels move, so that the soft edge of a resampled cell on black is a
    mixture of the new colour and black, not a halo. An option that is off costs nothing.

    Args:
        key: the key of the step (with seed and step folded in).
        images: values in [0, 1].
        positions: index of each image in the *global* batch; it is folded into `key`.
        options: static.

    Returns:
        Images of the same shape and dtype, values in [0, 1].
    """
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)

    def draw(quantity: int) -> Float[Array, " b"]:
        return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, quantity)))(keys)

    def around(quantity: int, spread: float) -> Float[Array, " b"]:
        return spread * (2 * draw(quantity) - 1)

    degrees = (options.stain, options.illumination, options.blur, options.noise, options.debris)
    if any(degrees):
        words = jax.random.key_data(keys)
        images = perturb(
            words[:, 0] ^ words[:, -1],
            images,
            black=options.background == "black",
            debris=options.debris,
            stain=options.stain,
            illumination=options.illumination,
            blur_radius=options.blur,
            noise_sigma=options.noise,
        )
    if options.brightness or options.contrast:
        images = recolour(
            images,
            1 + around(_BRIGHTNESS, options.brightness) if options.brightness else None,
            1 + around(_CONTRAST, options.contrast) if options.contrast else None,
            options.background,
        )
    turns = (4 * draw(_TURN)).astype(jnp.int32) if options.quarter_turns else None
    up_down = draw(_UP_DOWN) < 0.5 if options.flip else jnp.zeros(len(images), bool)
    left_right = draw(_LEFT_RIGHT) < 0.5 if options.flip else jnp.zeros(len(images), bool)
    if options.rotate or options.zoom:
        angle = around(_ANGLE, options.rotate) if options.rotate else jnp.zeros(len(images))
        zoom = jnp.exp(around(_ZOOM, math.log1p(options.zoom))) if options.zoom else None
        matrix = linear_map(jnp.deg2rad(angle), zoom, turns, up_down, left_right)
        return resample(images, matrix, options.background)
    if options.flip or options.quarter_turns:
        return permute(images, turns, up_down, left_right)
    return images


def recolour(
    images: Float[Array, "b h w c"],
    brightness: Float[Array, " b"] | None,
    contrast: Float[Array, " b"] | None,
    background: Literal["black", "edge"],
) -> Float[Array, "b h w c"]:
    """Scales by `contrast` about the mean colour, multiplies by `brightness`, clips to [0, 1].

    The mean colour (one value per channel, so that contrast changes texture and not stain) is that
    of the foreground: pixels that are not exactly black, or all pixels if the background is "edge".
    Exactly black pixels of a black background stay black.
    """
    recoloured = images
    if contrast is not None:
        # float32: a bfloat16 sum over thousands of pixels is too inaccurate.
        wide = images.astype(jnp.float32)
        if background == "black":
            # Black pixels add 0 to the sum and are not counted.
            cell = (images > 0).any(axis=-1, keepdims=True)
            count = jnp.maximum(cell.sum(axis=(1, 2), keepdims=True), 1)
            mean = wide.sum(axis=(1, 2), keepdims=True) / count
        else:
            cell, mean = jnp.array(True), wide.mean(axis=(1, 2), keepdims=True)
        factor = contrast[:, None, None, None]
        recoloured = jnp.where(cell, mean + factor * (wide - mean), 0).astype(images.dtype)
    if brightness is not None:
        recoloured = recoloured * brightness.astype(images.dtype)[:, None, None, None]
    return jnp.clip(recoloured, 0, 1)


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
    """Distorts each image in physical order: slide, stain, light, lens, camera.

    These are the operations of the robustness suite (`distort`): a model that trains with them has
    seen what it is tested on, and reports of robustness say so. The degree of each is uniform
    between 0 and the given number; 0 costs nothing. On a black background exactly black pixels stay
    black, except under debris.

    Args:
        seeds: of the images.
        images: values in [0, 1].
        black: the background is exactly black.
        debris: number of specks, see `artefacts.debris`.
        stain: shift of the stains (logarithm of their amounts), see `light.stain`.
        illumination: slope of the light, see `light.illuminate`.
        blur_radius: radius of the disc in pixels at 224, see `blur.defocus`.
        noise_sigma: standard deviation of the noise (white = 1), see `noise.gaussian`.
    """
    unit = images.shape[1] / PUBLISHED_SIDE

    def degree(operation: int, most: float) -> Float[Array, " n"]:
        return most * uniform(seeds_for(operation, seeds), _DEGREE)

    def direction(operation: int) -> Float[Array, " n"]:
        return 2 * np.pi * uniform(seeds_for(operation, seeds), _DIRECTION)

    if debris:
        count = degree(_DEBRIS, debris)
        debris_seeds = seeds_for(_DEBRIS, seeds)
        images = artefacts.debris(images, debris_seeds, count, unit, math.ceil(debris))
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
