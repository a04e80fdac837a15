"""Image files to RGB pixels: the supported formats, sizes and kinds of pixels.

Needs only NumPy and Pillow: `leukjax.export` copies this module into the loader of an exported
model, so that both read every file in the same way.
"""

import io

import numpy as np
from PIL import Image, features

from leukjax.data.image_parts import Parts, Unreadable, orientation_of, parts

MIN_SIDE = 8
MAX_PIXELS = 50_000_000
MAX_SIDE = 10_000
_SUFFIXES = {
    "BMP": (".bmp",),
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
}
# Pillow may be built without the last two.
FORMATS = tuple(
    name
    for name in _SUFFIXES
    if name not in ("WEBP", "AVIF") or name.lower() in features.get_supported_modules()
)
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SUFFIXES[name])
_STRIP_PIXELS = 2**20  # that are converted at once


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the pixels of an image file.

    Grey images get three equal channels; 16-bit grey is divided by 257 and 16-bit colour keeps its
    high byte (never stretched image by image); transparency is laid over black; CMYK and other
    colour spaces go through Pillow's plain conversion, and colour profiles are ignored; EXIF
    rotation is applied; of several pages or frames the first is taken.

    Args:
      data: the file's bytes.
      max_pixels: an image of more is refused before its pixels are read.

    Returns:
      The pixels uint8[h, w, 3], and the names of the conversions made ("grey", "16-bit", …).

    Raises:
      Unreadable: empty, truncated, no image, of a size out of bounds, or too costly to decode.
    """
    file_parts = parts(data)
    return pixels(file_parts, open_image(file_parts, max_pixels))


def open_image(file_parts: Parts, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image without decoding its pixels, and checks its size.

    Raises:
      Unreadable: as `decode`.
    """
    if file_parts.size:
        check_size(*file_parts.size, max_pixels)
    try:
        image = Image.open(io.BytesIO(file_parts.data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unreadable(
            f"has more pixels than {max_pixels / 1e6:g} million: crop or shrink it"
        ) from error
    # On damaged bytes, Pillow's readers raise nearly every exception that Python has.
    except Exception as error:
        raise Unreadable(
            f"is no readable {', '.join(FORMATS)} file: replace it, or remove it"
        ) from error
    check_size(*image.size, max_pixels)
    return image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises Unreadable for a size out of bounds."""
    if min(width, height) < MIN_SIDE:
        raise Unreadable(
            f"{width} x {height} pixels; at least {MIN_SIDE} per side are needed: remove it"
        )
    if max(width, height) > MAX_SIDE:
        raise Unreadable(
            f"{width} x {height} pixels; at most {MAX_SIDE:,} per side are read: crop or shrink it"
        )
    if width * height > max_pixels:
        raise Unreadable(
            f"{width} x {height} pixels; at most {max_pixels / 1e6:g} million are read: "
            "crop or shrink it"
        )


def pixels(file_parts: Parts, image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the pixels of what `open_image` opened; see `decode`.

    Raises:
      Unreadable: as `decode`.
    """
    try:
        image.load()
        return _to_rgb(file_parts, image)
    except Unreadable:
        raise
    except MemoryError as error:
        raise Unreadable("takes more memory than there is: shrink it") from error
    except Exception as error:
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unreadable(f"is damaged or cut off ({text}): download or copy it again") from error


def _to_rgb(file_parts: Parts, image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    conversions = []
    if file_parts.several or getattr(image, "is_animated", False):
        conversions.append("first page of several")
    # Pillow reduces 16-bit colour to its high byte, but not 16-bit grey.
    if _bits(file_parts, image) == 16:
        conversions.append("16-bit")
    orientation = file_parts.orientation
    if image.format in ("WEBP", "AVIF"):
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
        orientation = orientation_of(exif, xmp)
    if orientation != 1:
        conversions.append("EXIF rotation")
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if image.mode == "F":
        raise _unfit()
    if clear and not image.mode.startswith("I"):
        conversions.append("transparency")
    elif image.mode in ("L", "1") or image.mode.startswith("I"):
        conversions.append("grey")
    elif image.mode == "P":
        conversions.append("palette")
    elif image.mode != "RGB":
        conversions.append(image.mode)
    # In strips, because some conversions take ten times the memory of the result.
    width, height = image.size
    result = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        strip = image if rows >= height else image.crop(box)
        result[top : top + rows] = _strip_to_rgb(strip, clear)
    return np.ascontiguousarray(_turned(result, orientation)), tuple(conversions)


def _strip_to_rgb(strip: Image.Image, clear: bool) -> np.ndarray:
    if strip.mode.startswith("I"):
        values = np.asarray(strip).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise _unfit()
        return ((values + 128) // 257).astype(np.uint8)[..., None]
    if clear:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, (0, 0, 0, 255)), strip)
    return np.asarray(strip.convert("RGB"))


def _unfit() -> Unreadable:
    return Unreadable("its pixels are floating-point or 32-bit numbers: save 8 or 16 bits")


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the pixels in display orientation; a view of `image`."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _bits(file_parts: Parts, image: Image.Image) -> int:
    """Returns the bits per sample of the file; 8 if the format does not state them."""
    if image.format == "PNG":
        return file_parts.data[24]  # IHDR is always the first chunk
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
    return 8
