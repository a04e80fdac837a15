"""Where and how large a cell lies in its image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from leukjax.images.augment import resample


def scale(
    images: Float[Array, "n h w c"], factor: Float[Array, ""], edge: str
) -> Float[Array, "n h w c"]:
    """Magnify about the centre, bilinearly; `edge` as in `augment.resample`."""
    matrix = jnp.broadcast_to(jnp.eye(2) / factor, (len(images), 2, 2))
    return resample(images, matrix, "black" if edge == "black" else "edge")


def to_border(
    images: Float[Array, "n h w c"],
    cell: Bool[Array, "n h w 1"],
    share: Float[Array, ""],
    side: Int[Array, " n"],
    edge: str,
) -> Float[Array, "n h w c"]:
    """Move each cell, by whole pixels, until `share` of its extent is beyond a border.

    Args:
        images: any values.
        cell: pixels of the cell; where there is none, the whole image is it.
        share: 0 = it touches.
        side: 0 top, 1 bottom, 2 left, 3 right.
        edge: "black": what comes in is 0; else the outermost pixels are repeated.
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
    """Shifts that push the used stretch beyond the start and beyond the end of a line."""
    size = used.shape[1]
    some = used.any(axis=1)
    first = jnp.where(some, used.argmax(axis=1), 0)
    last = jnp.where(some, size - 1 - used[:, ::-1].argmax(axis=1), size - 1)
    beyond = jnp.round(share * (last - first + 1)).astype(jnp.int32)
    return -(first + beyond), (size - 1 - last) + beyond
