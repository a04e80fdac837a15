"""Geometry: rotations, flips, magnification and shifts of images."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from leukjax.errors import UserError


def permute(
    images: Num[Array, "b h w c"],
    turns: Int[Array, " b"] | None,
    up_down: Bool[Array, " b"],
    left_right: Bool[Array, " b"],
) -> Num[Array, "b h w c"]:
    """Rotates each image by `turns` quarters anti-clockwise (`numpy.rot90`), then flips it.

    An exact permutation of pixels. It consists of three selections between an image and its
    transposed or reversed copy, which every backend does at the speed of memory; a gather of pixels
    would be slow on accelerators.

    Raises:
        UserError: quarter turns of images that are not square.
    """

    def choose(condition, changed, unchanged):
        return jnp.where(condition[:, None, None, None], changed, unchanged)

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
    """Returns an equivalent transposition followed by flips."""
    # One quarter is a transposition and an up-down flip; two quarters are both flips.
    odd, half = turns % 2 == 1, turns % 4 >= 2
    return odd, up_down ^ odd ^ half, left_right ^ half


def linear_map(
    angle: Float[Array, " b"],
    zoom: Float[Array, " b"] | None,
    turns: Int[Array, " b"] | None,
    up_down: Bool[Array, " b"],
    left_right: Bool[Array, " b"],
) -> Float[Array, "b 2 2"]:
    """Returns the position in the image of a pixel of the view: a matrix on (row, column).

    Positions are relative to the centre. The view is the image rotated anti-clockwise by `angle`
    (radians), magnified by `zoom`, and then moved as by `permute`. One map for all of it costs one
    resampling; selections after a resampling made XLA compute it for every branch (100 times slower
    on CPU).
    """
    # Row indices increase downwards, hence the signs.
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
    """Resamples each image by a linear map about its centre, with bilinear interpolation.

    `matrix` maps (row, column) of the view to (row, column) of the image, relative to the centre.
    Positions outside the image are black or take the nearest edge pixel, see `background`.
    """
    height, width, channels = images.shape[1:]
    # Coordinates are clipped to a frame of one pixel around the image.
    frame = ((0, 0), (1, 1), (1, 1), (0, 0))
    framed = jnp.pad(images, frame, mode="edge" if background == "edge" else "constant")

    def view(
        image: Float[Array, "h+2 w+2 c"], matrix: Float[Array, "2 2"]
    ) -> Float[Array, "h w c"]:
        row = jnp.arange(height)[:, None] - (height - 1) / 2
        column = jnp.arange(width)[None, :] - (width - 1) / 2
        y = matrix[0, 0] * row + matrix[0, 1] * column + (height + 1) / 2
        x = matrix[1, 0] * row + matrix[1, 1] * column + (width + 1) / 2
        y, x = jnp.clip(y, 0, height + 1), jnp.clip(x, 0, width + 1)
        top, left = jnp.minimum(jnp.floor(y), height), jnp.minimum(jnp.floor(x), width)
        down = (y - top).astype(image.dtype)[..., None]
        right = (x - left).astype(image.dtype)[..., None]
        pixels = image.reshape(-1, channels)
        index = (top * (width + 2) + left).astype(jnp.int32)

        def corner(offset: int) -> Float[Array, "h w c"]:
            return pixels.at[index + offset].get(mode="promise_in_bounds")

        above = (1 - right) * corner(0) + right * corner(1)
        below = (1 - right) * corner(width + 2) + right * corner(width + 3)
        return (1 - down) * above + down * below

    # Weights may sum to 1 + 1e-7, which must not exceed white.
    return jnp.clip(jax.vmap(view)(framed, matrix), 0, 1)


def scale(
    images: Float[Array, "n h w c"], factor: Float[Array, ""], edge: str
) -> Float[Array, "n h w c"]:
    """Magnifies about the centre, bilinearly; `edge`: "black" or "bright" background."""
    matrix = jnp.broadcast_to(jnp.eye(2) / factor, (len(images), 2, 2))
    return resample(images, matrix, "black" if edge == "black" else "edge")


def to_border(
    images: Float[Array, "n h w c"],
    cell: Bool[Array, "n h w 1"],
    share: Float[Array, ""],
    side: Int[Array, " n"],
    edge: str,
) -> Float[Array, "n h w c"]:
    """Moves each cell by whole pixels until `share` of its extent is beyond a border.

    Args:
        images: any values.
        cell: mask of the cell; if it is empty, the whole image counts as the cell.
        share: 0 = it touches the border.
        side: 0 top, 1 bottom, 2 left, 3 right.
        edge: "black": new pixels are 0; else the outermost pixels are repeated.
    """
    down = jnp.where(side == 0, *_towards(cell.any(axis=(2, 3)), share))
    right = jnp.where(side == 2, *_towards(cell.any(axis=(1, 3)), share))
    down, right = jnp.where(side < 2, down, 0), jnp.where(side >= 2, right, 0)

    def move(line: Float[Array, "size …"], by: Int[Array, ""]) -> Float[Array, "size …"]:
        source = jnp.arange(len(line)) - by
        moved = line[jnp.clip(source, 0, len(line) - 1)]
        if edge != "black":
            return moved
        outside = (source < 0) | (source >= len(line))
        return jnp.where(outside.reshape(-1, *[1] * (line.ndim - 1)), 0, moved)

    moved = jax.vmap(move)(images, down)
    return jax.vmap(move)(moved.swapaxes(1, 2), right).swapaxes(1, 2)


def _towards(
    used: Bool[Array, "n size"], share: Float[Array, ""]
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Returns the shifts that move the used segment beyond the start and the end of a line."""
    size = used.shape[1]
    not_empty = used.any(axis=1)
    first = jnp.where(not_empty, used.argmax(axis=1), 0)
    last = jnp.where(not_empty, size - 1 - used[:, ::-1].argmax(axis=1), size - 1)
    beyond = jnp.round(share * (last - first + 1)).astype(jnp.int32)
    return -(first + beyond), (size - 1 - last) + beyond
