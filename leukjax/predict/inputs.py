"""What `predict` takes, as pixels: files and arrays of any size, or prepared images."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from leukjax.data import archive
from leukjax.data.decode import MIN_SIDE, decode
from leukjax.errors import UserError

PathLike = str | os.PathLike[str]
Image = PathLike | UInt8[np.ndarray, "h w 3"]


def prepared(
    images: Iterable[Image] | UInt8[np.ndarray, "n s s 3"],
    preprocess: Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "s s 3"]],
    size: int,
) -> UInt8[np.ndarray, "n s s 3"]:
    """Images as the network sees them.

    Args:
      images: files and arrays uint8[h, w, 3], or one array of prepared images, which is returned.
      preprocess: applied to each that is not prepared.
      size: pixels a side of a prepared image.

    Raises:
      UserError: anything else.
    """
    if isinstance(images, str | os.PathLike):
        raise UserError(f"{images}: give a list of images, as in predict([{str(images)!r}])")
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise UserError(
                f"images: {images.dtype}{list(images.shape)}; an array of prepared images is "
                f"uint8[n, {size}, {size}, 3]; give images of other sizes as a list"
            )
        return images
    each = [preprocess(decoded(image)) for image in images]
    return np.stack(each) if each else np.zeros((0, size, size, 3), np.uint8)


def decoded(image: Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a file (`BadImage` where it is none), or of an array, checked."""
    if not isinstance(image, np.ndarray):
        try:
            return decode(archive.read_file(Path(image), str(image)), str(image))[0]
        except OSError as error:
            raise UserError(f"{image}: cannot be read ({error.strerror or error})") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"images: {image.dtype}{list(image.shape)}; an image is uint8[h, w, 3]")
    if min(image.shape[:2]) < MIN_SIDE:
        raise UserError(f"images: {list(image.shape)}; the least is {MIN_SIDE} pixels a side")
    return image
