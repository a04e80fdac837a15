"""From uint8 pixels to the numbers a network sees."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from leukjax.errors import UserError

# A channel that never varies (a grey scale, a blank stain) would otherwise divide by zero; one
# step of uint8 is the smallest spread that pixels can show.
SMALLEST_STD = 1 / 255


def to_float(images: UInt8[Array, "*batch h w c"]) -> Float32[Array, "*batch h w c"]:
    """Scale uint8 to float32 in [0, 1]: 0 becomes exactly 0 and 255 exactly 1."""
    return images.astype(jnp.float32) / 255


def standardize(
    images: Float[Array, "*batch h w c"], mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "*batch h w c"]:
    """Subtract `mean` and divide by `std`, channel by channel; both in units of [0, 1]."""
    return (images - mean) / std


def foreground_statistics(
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    foreground: Callable[[UInt8[np.ndarray, "h w 3"]], Bool[np.ndarray, "h w"]],
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Mean and standard deviation of the foreground's pixels, over all images together.

    Args:
        images: one after the other; an array uint8[n, h, w, 3] is such a thing too.
        foreground: which pixels of an image belong to the cell, the rule of the data set (as
            `leukjax.data.image_stats.foreground`).

    Returns:
        mean[3] and std[3] (population form), float64, in units of [0, 1]. Sums are integers, so
        the order of the images changes no bit. A standard deviation under one step of uint8 is
        returned as that step.

    Raises:
        UserError: no image has a foreground pixel.
    """
    count, total, squares = 0, [0, 0, 0], [0, 0, 0]
    for image in images:
        mask = foreground(image)
        inside = np.where(mask[..., None], image, 0).reshape(-1, 3)
        count += int(mask.sum())
        sums = inside.sum(axis=0, dtype=np.int64)
        sums_of_squares = np.square(inside, dtype=np.uint16).sum(axis=0, dtype=np.int64)
        for channel in range(3):
            total[channel] += int(sums[channel])
            squares[channel] += int(sums_of_squares[channel])
    if count == 0:
        raise UserError(
            "data.mean, data.std: no training image has a foreground pixel to fit them on;"
            " give numbers, as in --config.data.mean=0.5,0.5,0.5 --config.data.std=0.25,0.25,0.25"
        )
    mean = np.array([t / count / 255 for t in total])
    # Python's integers do not overflow, so the difference of the large terms is exact.
    variance = [(count * q - t * t) / count**2 for t, q in zip(total, squares, strict=True)]
    return mean, np.maximum(np.sqrt(variance) / 255, SMALLEST_STD)
