"""Decodes image files to uint8 RGB pixels, within bounds of time and memory."""

import numpy as np
from jaxtyping import UInt8

from leukjax.data import image_file, image_limits
from leukjax.data.image_file import MAX_PIXELS, MIN_SIDE
from leukjax.data.image_parts import Unreadable, parts
from leukjax.errors import UserError

__all__ = ["MAX_PIXELS", "MIN_SIDE", "BadImage", "decode"]


class BadImage(UserError):
    """A file that cannot be used as an image; `bad_images="skip"` leaves it out."""


def decode(
    data: bytes, name: str, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """Decodes an image file by the rules of `image_file.decode`, within bounds of time and memory.

    A format whose cost cannot be bounded from the file alone (AVIF, a TIFF of JPEG tiles, a BMP
    of run lengths) is decoded in a process with limits.

    Args:
      data: the file's bytes.
      name: the file's name, for the message.
      max_pixels: an image of more is refused before its pixels are read.

    Returns:
      The pixels uint8[h, w, 3], and the names of the conversions made ("grey", "16-bit", …).

    Raises:
      BadImage: empty, truncated, no image, of a size out of bounds, or too costly to decode.
    """
    try:
        file_parts = parts(data)
        if file_parts.size:
            image_file.check_size(*file_parts.size, max_pixels)
        if file_parts.costly:
            return image_limits.decode(data, max_pixels)
        image = image_file.open_image(file_parts, max_pixels)
        image_limits.take_pixels(image.width * image.height)
        return image_file.pixels(file_parts, image)
    except Unreadable as error:
        raise BadImage(f"{name}: {error}") from error
