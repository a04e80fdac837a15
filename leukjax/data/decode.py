"""Bytes of an image file to uint8 RGB pixels."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from leukjax.errors import UserError

MIN_SIDE = 8
MAX_PIXELS = 50_000_000
MAX_SIDE = 10_000  # a narrow strip is padded to a square later
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")

# Sizes are checked here, against a tighter bound than the one Pillow warns at; what it says of odd
# metadata would come once for each of thousands of files, and what cannot be read is refused.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BadImage(UserError):
    """A file that is no image that can be used; `data.bad_images = skip` leaves it out."""


def decode(
    data: bytes, name: str, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """Decodes a PNG, JPEG, BMP or TIFF file.

    Grey images get three equal channels; 16-bit grey is divided by 257 and 16-bit colour keeps its
    high byte (never stretched image by image); transparency is laid over black; CMYK and other
    colour spaces go through Pillow's plain conversion; EXIF rotation is applied; of several pages
    the first is taken.

    Args:
      data: the file's bytes.
      name: the file's name, for the message.
      max_pixels: an image of more is refused before its pixels are read.

    Returns:
      The pixels uint8[h, w, 3], and the names of the conversions made ("grey", "16-bit", …).

    Raises:
      BadImage: empty, truncated, no image, or of a size out of bounds.
    """
    if not data:
        raise BadImage(f"{name}: has no bytes: download or copy it again")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(
            f"{name}: has more pixels than {MAX_PIXELS // 10**6} million: crop or shrink it"
        ) from error
    # Pillow's readers meet damaged bytes with nearly every exception that Python has.
    except Exception as error:
        raise BadImage(
            f"{name}: is no readable {', '.join(FORMATS)} file: replace it, or remove it"
        ) from error
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(
            f"{name}: {width} x {height} pixels, and the least is {MIN_SIDE} a side: remove it"
        )
    if max(width, height) > MAX_SIDE:
        raise BadImage(
            f"{name}: {width} x {height} pixels, and the most is {MAX_SIDE:,} a side: "
            "crop or shrink it"
        )
    if width * height > max_pixels:
        raise BadImage(
            f"{name}: {width} x {height} pixels, and the most is {max_pixels / 1e6:g} million: "
            "crop or shrink it"
        )
    try:
        image.load()
        return _to_rgb(image, data, name)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(
            f"{name}: is damaged or cut off ({_line(error)}): download or copy it again"
        ) from error


def _to_rgb(
    image: Image.Image, data: bytes, name: str
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    unfit = BadImage(f"{name}: its pixels are floating-point or 32-bit numbers: save 8 or 16 bits")
    conversions = []
    if getattr(image, "n_frames", 1) > 1:
        conversions.append("first page of several")
    # Pillow itself narrows 16-bit colour to its high byte; grey it leaves as it is.
    if _bits(image, data) == 16:
        conversions.append("16-bit")
    turned = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) != 1:
        conversions.append("EXIF rotation")
    image = turned
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise unfit
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise unfit
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        conversions.append("transparency")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    elif image.mode in ("L", "1"):
        conversions.append("grey")
    elif image.mode == "P":
        conversions.append("palette")
    elif image.mode != "RGB":
        conversions.append(image.mode)
    return np.array(image.convert("RGB"), dtype=np.uint8), tuple(conversions)


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits a sample in the file, where the format tells: 8 if it does not."""
    if image.format == "PNG":
        return data[24]  # IHDR is always the first chunk
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
    return 8


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
