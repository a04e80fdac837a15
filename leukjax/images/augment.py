"""Random views of training images, inside the jitted step.

An example's view depends on its own key and its own pixels and on nothing else, so neither the
number of devices, nor the split of a batch over them, nor its neighbours change it.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from leukjax.errors import UserError
from leukjax.images.perturb import perturb

# Each random quantity has its own number, so that switching one option on changes no other draw.
_LEFT_RIGHT, _UP_DOWN, _TURN, _ANGLE, _ZOOM, _BRIGHTNESS, _CONTRAST = range(7)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What may happen to an image; the names are those of `config.augment`.

    Attributes:
        flip: left-right and up-down, each with probability 1/2.
        quarter_turns: 0, 90, 180 or 270 degrees with equal probability; needs square images.
        rotate: degrees; the angle is uniform in +-rotate.
        zoom: the magnification is log-uniform in [1 / (1 + zoom), 1 + zoom].
        brightness: the factor is uniform in 1 +- brightness.
        contrast: the factor is uniform in 1 +- contrast, about the foreground's mean colour.
        stain, illumination, blur, noise, debris: distortions of the suite, each to a degree between
            0 and this; see `perturb`.
        background: "black": what rotation and zoom bring in from outside is 0, and pixels that
            are exactly black stay so. "edge": the outermost pixels are repeated outwards, and
            every pixel counts as foreground (bright backgrounds).
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
    background: Literal["black", "edge"] = "black"


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    positions: Int[Array, " b"],
    options: Augment,
) -> Float[Array, "b h w c"]:
    """One random view of each image.

    Colours change first and pixels move afterwards: so the soft edge that resampling gives a cell
    on black is a mixture of the new colour and black, not a halo. An option that is off costs
    nothing.

    Args:
        key: the key of the step (seed and step folded in already).
        images: values in [0, 1].
        positions: place of each image in the *global* batch; with `key` it makes the image's key.
        options: static.

    Returns:
        Images of the same shape and dtype, values in [0, 1].
    """
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)

    def uniform(quantity: int) -> Float[Array, " b"]:
        return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, quantity)))(keys)

    def around(quantity: int, spread: float) -> Float[Array, " b"]:
        return spread * (2 * uniform(quantity) - 1)

    distorted = (options.stain, options.illumination, options.blur, options.noise, options.debris)
    if any(distorted):
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
    turns = (4 * uniform(_TURN)).astype(jnp.int32) if options.quarter_turns else None
    up_down = uniform(_UP_DOWN) < 0.5 if options.flip else jnp.zeros(len(images), bool)
    left_right = uniform(_LEFT_RIGHT) < 0.5 if options.flip else jnp.zeros(len(images), bool)
    if options.rotate or options.zoom:
        angle = around(_ANGLE, options.rotate) if options.rotate else jnp.zeros(len(images))
        zoom = jnp.exp(around(_ZOOM, math.log1p(options.zoom))) if options.zoom else None
        matrix = linear_map(jnp.deg2rad(angle), zoom, turns, up_down, left_right)
        return resample(images, matrix, options.background)
    if options.flip or options.quarter_turns:
        return permute(images, turns, up_down, left_right)
    return images


def permute(
    images: Num[Array, "b h w c"],
    turns: Int[Array, " b"] | None,
    up_down: Bool[Array, " b"],
    left_right: Bool[Array, " b"],
) -> Num[Array, "b h w c"]:
    """Turn each image by `turns` quarters anti-clockwise (`numpy.rot90`), then flip it.

    An exact permutation of pixels. It is made of three selections between an image and its
    transposed or reversed self, which every backend does at the speed of memory; a gather of
    pixels would be slow on accelerators.

    Raises:
        UserError: quarter turns of images that are not square.
    """

    def choose(condition, there, here):
        return jnp.where(condition[:, None, None, None], there, here)

    if turns is not None:
        if images.shape[1] != images.shape[2]:
            raise UserError(
                f"augment.quarter_turns: images of {images.shape[1]} x {images.shape[2]} pixels"
                " are not square; set augment.quarter_turns=False"
            )
        transposed, up_down, left_right = _without_turns(turns, up_down, left_right)
        images = choose(transposed, images.swapaxes(1, 2), images)
    images = choose(up_down, images[:, ::-1], images)
    return choose(left_right, images[:, :, ::-1], images)


def _without_turns(turns, up_down, left_right):
    """The same movement as a transposition followed by flips."""
    # One quarter is a transposition and an up-down flip, two quarters are both flips.
    odd, half = turns % 2 == 1, turns % 4 >= 2
    return odd, up_down ^ odd ^ half, left_right ^ half


def linear_map(
    angle: Float[Array, " b"],
    zoom: Float[Array, " b"] | None,
    turns: Int[Array, " b"] | None,
    up_down: Bool[Array, " b"],
    left_right: Bool[Array, " b"],
) -> Float[Array, "b 2 2"]:
    """Where a pixel of the view lies in the image, as a matrix on (row, column) from the centre.

    The view is the image rotated anti-clockwise by `angle` (radians) and magnified by `zoom`, and
    then moved as by `permute`. One map for all of it costs one resampling; selections after a
    resampling made XLA compute it once for every branch (100 times slower on CPU).
    """
    # Rows grow downwards, hence the signs.
    scale = 1.0 if zoom is None else 1 / zoom
    cos, sin = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    by_row, by_column = jnp.stack([cos, -sin], axis=-1), jnp.stack([sin, cos], axis=-1)
    if turns is not None:
        transposed, up_down, left_right = _without_turns(turns, up_down, left_right)
        by_row, by_column = (
            jnp.where(transposed[:, None], by_column, by_row),
            jnp.where(transposed[:, None], by_row, by_column),
        )
    by_row = jnp.where(up_down[:, None], -by_row, by_row)
    by_column = jnp.where(left_right[:, None], -by_column, by_column)
    return jnp.stack([by_row, by_column], axis=-1)


def resample(
    images: Float[Array, "b h w c"],
    matrix: Float[Array, "b 2 2"],
    background: Literal["black", "edge"],
) -> Float[Array, "b h w c"]:
    """Read each image through a linear map about its centre, with bilinear interpolation.

    `matrix` takes (row, column) of the view to (row, column) of the image, both from the centre.
    What lies outside the image is black or its nearest edge pixel, as `background` says.
    """
    height, width, channels = images.shape[1:]
    # A frame of one pixel is all that can be seen of the outside: coordinates stop there.
    frame = ((0, 0), (1, 1), (1, 1), (0, 0))
    framed = jnp.pad(images, frame, mode="edge" if background == "edge" else "constant")

    def one(image: Float[Array, "h+2 w+2 c"], matrix: Float[Array, "2 2"]) -> Float[Array, "h w c"]:
        row = jnp.arange(height)[:, None] - (height - 1) / 2
        column = jnp.arange(width)[None, :] - (width - 1) / 2
        y = matrix[0, 0] * row + matrix[0, 1] * column + (height + 1) / 2
        x = matrix[1, 0] * row + matrix[1, 1] * column + (width + 1) / 2
        y, x = jnp.clip(y, 0, height + 1), jnp.clip(x, 0, width + 1)
        top, left = jnp.minimum(jnp.floor(y), height), jnp.minimum(jnp.floor(x), width)
        down = (y - top).astype(image.dtype)[..., None]
        right = (x - left).astype(image.dtype)[..., None]
        pixels = image.reshape(-1, channels)
        place = (top * (width + 2) + left).astype(jnp.int32)

        def corner(offset: int) -> Float[Array, "h w c"]:
            return pixels.at[place + offset].get(mode="promise_in_bounds")

        above = (1 - right) * corner(0) + right * corner(1)
        below = (1 - right) * corner(width + 2) + right * corner(width + 3)
        return (1 - down) * above + down * below

    # Weights that sum to 1 + 1e-7 must not take white above 1.
    return jnp.clip(jax.vmap(one)(framed, matrix), 0, 1)


def recolour(
    images: Float[Array, "b h w c"],
    brightness: Float[Array, " b"] | None,
    contrast: Float[Array, " b"] | None,
    background: Literal["black", "edge"],
) -> Float[Array, "b h w c"]:
    """Spread by `contrast` about the mean colour, multiply by `brightness`, clip to [0, 1].

    The mean colour (one value a channel, so that contrast changes texture and not stain) is that
    of the foreground: pixels that are not exactly black, or all pixels where the background is
    "edge". Exactly black pixels of a black background stay so.
    """
    recoloured = images
    if contrast is not None:
        # float32, for a bfloat16 sum over thousands of pixels is no mean.
        wide = images.astype(jnp.float32)
        if background == "black":
            # Black pixels add nothing to the sum and do not count.
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
