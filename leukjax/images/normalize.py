"""Normalisation: from uint8 images to the inputs of a network."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, UInt8

from leukjax.errors import UserError
from leukjax.images import stain as stains

# A constant channel (a grey image, a missing stain) must not cause a division by 0; one step of
# uint8 is the smallest spread of pixels.
SMALLEST_STD = 1 / 255


def to_float(images: UInt8[Array, "*batch h w c"]) -> Float32[Array, "*batch h w c"]:
    """Scales uint8 to float32 in [0, 1]: 0 becomes exactly 0 and 255 exactly 1."""
    return images.astype(jnp.float32) / 255


def standardize(
    images: Float[Array, "*batch h w c"], mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "*batch h w c"]:
    """Subtracts `mean` and divides by `std` in each channel; both in units of [0, 1]."""
    return (images - mean) / std


class Normalization(struct.PyTreeNode):
    """Turns prepared images uint8[n, s, s, 3] into the float32 input of a network.

    Attributes:
      mean, std: of each channel, in units of [0, 1].
      target: of the stain normalisation (`stain.measure`).
      stain: what is compiled in; None: no stain normalisation.
    """

    mean: Float[Array, "3"]
    std: Float[Array, "3"]
    target: Float[Array, "2 4"] | None = None
    stain: stains.Stain | None = struct.field(pytree_node=False, default=None)

    def colours(self, images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s 3"]:
        """Images in [0, 1], after stain normalisation."""
        floats = to_float(images)
        if self.stain is None:
            return floats
        assert self.target is not None
        return stains.normalize(floats, self.target, self.stain)

    def __call__(self, images: UInt8[Array, "n s s 3"]) -> Float32[Array, "n s s 3"]:
        """The input of the network."""
        return standardize(self.colours(images), self.mean, self.std)


def foreground_statistics(
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    foreground: Callable[[UInt8[np.ndarray, "h w 3"]], Bool[np.ndarray, "h w"]],
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Returns mean and standard deviation of the foreground pixels over all images.

    Args:
        images: an iterable of images, or an array uint8[n, h, w, 3].
        foreground: returns the mask of the cell (`leukjax.data.image_stats.foreground`).

    Returns:
        mean[3] and std[3] (population form), float64, in units of [0, 1]. Sums are integers, so
        that the order of the images does not change a bit. The smallest standard deviation is one
        step of uint8.

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
            "data.mean, data.std: no training image has a foreground pixel to compute them"
            " from; set them, as in data.mean=0.5,0.5,0.5 and data.std=0.25,0.25,0.25"
        )
    mean = np.array([t / count / 255 for t in total])
    # Python integers do not overflow, so that the difference of the large terms is exact.
    variance = [(count * q - t * t) / count**2 for t, q in zip(total, squares, strict=True)]
    return mean, np.maximum(np.sqrt(variance) / 255, SMALLEST_STD)
