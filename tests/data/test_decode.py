"""Bytes to pixels: what is converted, and what is refused with one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from trees import cell, encode

from leukjax.data.decode import BadImage, decode

IMAGE = cell(0, 32)


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF"])
def test_lossless_formats_give_the_pixels_back(kind):
    pixels, conversions = decode(encode(IMAGE, kind), "x")
    np.testing.assert_array_equal(pixels, IMAGE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert conversions == ()


def test_jpeg_is_close():
    smooth = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None] * 6, (32, 32, 3))
    pixels, _ = decode(encode(smooth, "JPEG", quality=95), "x")
    assert np.abs(pixels.astype(int) - smooth).max() < 6


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_grey():
    grey = IMAGE[..., 0]
    pixels, conversions = decode(save(Image.fromarray(grey), "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))
    assert conversions == ("grey",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257(kind):
    wide = np.arange(64 * 32, dtype=np.uint16).reshape(64, 32) * 32
    pixels, conversions = decode(save(Image.fromarray(wide), kind), "x")
    np.testing.assert_array_equal(pixels[..., 1], np.round(wide / 257).astype(np.uint8))
    assert conversions[0] == "16-bit"


def test_16_bit_colour_png():
    # Pillow does not write it: the chunks are put together here.
    wide = (np.arange(16 * 16 * 3).reshape(16, 16, 3) * 85).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw))
    pixels, conversions = decode(data + chunk(b"IEND", b""), "x")
    assert np.abs(pixels.astype(int) - wide.astype(int) / 257).max() <= 1
    assert conversions == ("16-bit",)


def test_transparency_is_laid_over_black():
    alpha = np.full((32, 32, 1), 255, np.uint8)
    alpha[:8] = 0
    image = np.concatenate([np.full((32, 32, 3), 200, np.uint8), alpha], axis=2)
    pixels, conversions = decode(encode(image, "PNG"), "x")
    assert (pixels[:8] == 0).all()
    assert (pixels[8:] == 200).all()
    assert conversions == ("transparency",)


def test_cmyk_and_palette():
    pixels, conversions = decode(save(Image.fromarray(IMAGE).convert("CMYK"), "TIFF"), "x")
    np.testing.assert_array_equal(pixels, IMAGE)
    assert conversions == ("CMYK",)
    palette = Image.fromarray(IMAGE).quantize(256)
    pixels, conversions = decode(save(palette, "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.asarray(palette.convert("RGB")))
    assert conversions == ("palette",)


def test_exif_rotation_is_applied():
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    pixels, conversions = decode(encode(image, "JPEG", exif=exif), "x")
    assert pixels.shape == (32, 16, 3)
    assert pixels[:14].mean() > 250
    assert pixels[18:].mean() < 5
    assert conversions == ("EXIF rotation",)


def test_first_page():
    pages = [Image.fromarray(IMAGE), Image.fromarray(255 - IMAGE)]
    pixels, conversions = decode(
        save(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "x"
    )
    np.testing.assert_array_equal(pixels, IMAGE)
    assert conversions == ("first page of several",)


def bmp_header(width: int, height: int) -> bytes:
    size = struct.pack("<iiHHIIiiII", width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<I", 40) + size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"\0" * 100, "is not a PNG, JPEG, BMP, TIFF, GIF, WebP or AVIF file"),
        (b"not an image at all", "is not a PNG"),
        (b"GIF89a" + b"\0" * 50, "damaged or cut off"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged or cut off"),
        (encode(IMAGE, "BMP")[:-200], "cut off"),
        (encode(IMAGE, "PNG")[:-200], "cut off"),
        (encode(IMAGE, "JPEG")[:300], "cut off|no readable"),
        (encode(IMAGE[:1, :1], "PNG"), "1 x 1 pixels"),
        (encode(IMAGE[:7], "BMP"), "32 x 7 pixels"),
        (bmp_header(20_000, 20_000), "pixels"),
        (bmp_header(9_000, 9_000), "9000 x 9000 pixels"),
        (bmp_header(8, 20_000), "8 x 20000 pixels; at most 10,000 per side"),
        (save(Image.fromarray(np.zeros((16, 16), np.float32)), "TIFF"), "floating-point"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_images_are_refused_with_one_line(data, message):
    with pytest.raises(BadImage, match=message) as caught:
        decode(data, "folder/name.png")
    text = str(caught.value)
    assert text.startswith("folder/name.png: ")
    assert "\n" not in text


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["BMP", "PNG", "JPEG", "TIFF"])
def test_damaged_bytes_give_pixels_or_a_bad_image(kind):
    random = np.random.default_rng(7)
    whole = np.frombuffer(encode(IMAGE, kind), np.uint8)
    refused = 0
    for _ in range(150):
        data = whole.copy()
        # Headers break in more ways than pixels do.
        reach = len(data) if random.random() < 0.5 else min(len(data), 80)
        places = random.integers(0, reach, random.integers(1, 6))
        data[places] = random.integers(0, 256, len(places))
        try:
            pixels, _ = decode(data.tobytes()[: random.integers(1, 2 * len(data))], "x.png")
            assert pixels.ndim == 3
        except BadImage:
            refused += 1
    assert refused > 20
