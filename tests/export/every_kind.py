"""Files of every supported format and pixel type, and files that are refused."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, features


def picture(side: int) -> np.ndarray:
    """Neither square nor symmetrical."""
    y, x = np.mgrid[:side, : side + 3]
    return np.stack([x * 9 % 256, y * 7 % 256, (x + 2 * y) * 3 % 256], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _file(kind: str, mode: str, **options: object) -> Callable[[int], bytes]:
    """Returns a function that makes a file of a format and mode."""

    def make(side: int) -> bytes:
        return encoded(_image(mode, side), kind, **options)

    return make


def _image(mode: str, side: int) -> Image.Image:
    image = Image.fromarray(picture(side))
    ramp = np.linspace(0, 255, side + 3)[None].repeat(side, axis=0).astype(np.uint8)
    if mode in ("I;16", "I;16B"):
        wide = picture(side)[..., 0].astype(np.uint16) * 257 + 3
        return Image.fromarray(wide if mode == "I;16" else wide.astype(">u2"))
    if mode in ("LA", "RGBA"):
        image = image.convert(mode.removesuffix("A"))
        image.putalpha(Image.fromarray(ramp))
        return image
    return image.quantize(64) if mode == "P" else image.convert(mode)


def _turned(kind: str, orientation: int) -> Callable[[int], bytes]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _file(kind, "RGB", exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def wide_colour(side: int) -> bytes:
    """A PNG of 16-bit colour, which Pillow does not write."""
    pixels = (picture(side).astype(np.uint16) * 257 + 99).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side + 3, side, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _frames(kind: str) -> Callable[[int], bytes]:
    def make(side: int) -> bytes:
        first = _image("RGB", side)
        more = [Image.eval(first, lambda value: 255 - value)]
        return encoded(first, kind, save_all=True, append_images=more)

    return make


FILES: dict[str, Callable[[int], bytes]] = {
    **{f"PNG {mode}": _file("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "PNG P transparency": _file("PNG", "P", transparency=5),
    "PNG P transparencies": _file("PNG", "P", transparency=bytes(range(0, 256, 4))),
    "PNG L transparency": _file("PNG", "L", transparency=70),
    "PNG 16-bit colour": wide_colour,
    **{f"JPEG {mode}": _file("JPEG", mode) for mode in ("L", "RGB", "CMYK")},
    "JPEG progressive": _file("JPEG", "RGB", progressive=True),
    **{f"JPEG turned {number}": _turned("JPEG", number) for number in range(2, 9)},
    **{f"BMP {mode}": _file("BMP", mode) for mode in ("1", "L", "P", "RGB")},
    **{
        f"TIFF {mode}": _file("TIFF", mode)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B")
    },
    **{
        f"TIFF {packing}": _file("TIFF", "RGB", compression=packing)
        for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    },
    "TIFF group4": _file("TIFF", "1", compression="group4"),
    "TIFF pages": _frames("TIFF"),
    "TIFF turned": _turned("TIFF", 6),
    "PNG turned": _turned("PNG", 8),
    "GIF": _file("GIF", "P"),
    "GIF transparency": _file("GIF", "P", transparency=3),
    "GIF frames": _frames("GIF"),
    **(
        {
            "WebP": _file("WEBP", "RGB", lossless=True),
            "WebP RGBA": _file("WEBP", "RGBA", lossless=True),
            "WebP turned": _turned("WEBP", 7),
            "WebP frames": _frames("WEBP"),
        }
        if features.check("webp")
        else {}
    ),
    **(
        {"AVIF": _file("AVIF", "RGB"), "AVIF turned": _turned("AVIF", 6)}
        if "avif" in features.get_supported_modules()
        else {}
    ),
}
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"no image at all",
    "cut off": lambda: encoded(_image("RGB", 30), "PNG")[:-300],
    "small": lambda: encoded(_image("RGB", 5), "PNG"),
    "long": lambda: encoded(Image.new("1", (10_001, 9)), "PNG"),
    "floating-point": lambda: encoded(_image("F", 30), "TIFF"),
    "32 bits": lambda: encoded(Image.fromarray(np.full((9, 9), -1, np.int32)), "TIFF"),
    "another format": lambda: encoded(_image("RGB", 30), "PPM"),
}
