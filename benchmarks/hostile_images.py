"""Image files and zips that are small or look good, and cost a careless reader much.

Each function returns the bytes of a file. `REFUSED` names those that leukjax refuses before it
decodes them, `READ` those that it reads like ordinary ones.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 64


def compressed(content: bytes) -> bytes:
    """Returns the content as a zlib stream."""
    return zlib.compress(content, 9)


def picture(side: int = SIDE) -> np.ndarray:
    """Returns the image that the files of `READ` hold."""
    y, x = np.mgrid[:side, :side]
    return np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], axis=2).astype(np.uint8)


def encoded(kind: str, side: int = SIDE, **options: object) -> bytes:
    """Returns the picture as a file."""
    file = io.BytesIO()
    Image.fromarray(picture(side)).save(file, kind, **options)
    return file.getvalue()


def many_scans() -> bytes:
    """A progressive JPEG of 182 kB that is decoded 2,000 times: a minute for a megapixel."""
    data = encoded("JPEG", 1024, progressive=True, quality=5)
    last = data.rindex(b"\xff\xda")
    return data[:last] + 2000 * data[last : last + 90] + data[last:]


def many_segments() -> bytes:
    """A JPEG with a hundred thousand empty comments."""
    data = encoded("JPEG")
    return data[:2] + 100_000 * b"\xff\xfe\0\2" + data[2:]


def tiff(tags: dict[int, int | tuple[int, ...]], content: bytes = b"", pages: int = 1) -> bytes:
    """A little-endian TIFF of LONG tags; each of its `pages` equal directories leads to the next.

    The value ``-1`` becomes the offset of `content`.
    """
    start = 8 + len(content) + len(content) % 2
    entries, behind = [], b""
    size = 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        values = tuple(8 if number == -1 else number for number in values)
        if len(values) == 1:
            entries.append(struct.pack("<HHII", tag, 4, 1, values[0]))
        else:
            entries.append(
                struct.pack("<HHII", tag, 4, len(values), start + pages * size + len(behind))
            )
            behind += struct.pack(f"<{len(values)}I", *values)
    table = struct.pack("<H", len(tags)) + b"".join(entries)
    directories = [
        table + struct.pack("<I", start + (page + 1) * size if page + 1 < pages else 0)
        for page in range(pages)
    ]
    return b"".join(
        (b"II*\0", struct.pack("<I", start), content, b"\0" * (len(content) % 2), *directories,
         behind)
    )  # fmt: skip


COLOUR = {258: (8, 8, 8), 262: 2, 277: 3}


def giant_tile() -> bytes:
    """A TIFF of 64 x 64 pixels with one tile of 26,000 x 26,000: 2 GB of zeros."""
    content = zlib.compress(bytes(2**20), 9)
    size = {256: SIDE, 257: SIDE, 322: 26_000, 323: 26_000, 324: -1, 325: len(content)}
    return tiff({**COLOUR, **size, 259: 8}, content)


def many_pages() -> bytes:
    """A TIFF with 40,000 directories of one picture."""
    content = picture().tobytes()
    strips = {256: SIDE, 257: SIDE, 273: -1, 278: SIDE, 279: len(content)}
    return tiff({**COLOUR, **strips, 259: 1}, content, pages=40_000)


def many_strips() -> bytes:
    """A TIFF of 10,000 x 5,000 pixels in tiles of 16 x 1: three million of them."""
    size = {256: 10_000, 257: 5_000, 322: 16, 323: 1, 324: (8, 8), 325: (48, 48)}
    return tiff({**COLOUR, **size, 259: 1}, bytes(48))


def same_bytes_again() -> bytes:
    """A TIFF whose 20,000 strips each claim the whole file, bits in reversed order."""
    content, count = bytes(200_000), 9_000
    strips = {273: (8,) * count, 278: 1, 279: (len(content),) * count}
    return tiff({**COLOUR, **strips, 256: SIDE, 257: count, 259: 5, 266: 2}, content)


def strip() -> bytes:
    """A PNG of 10,000 x 8 pixels, whose square has 100 million."""
    file = io.BytesIO()
    Image.fromarray(np.tile(picture(8), (1, 1250, 1))).save(file, "PNG")
    return file.getvalue()


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """The picture as a PNG with these chunks behind its header."""
    data = encoded("PNG")
    made = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return data[:33] + b"".join(made) + data[33:]


def many_chunks() -> bytes:
    """A PNG with three hundred thousand empty chunks."""
    return png_chunks(*[(b"teSt", b"")] * 300_000)


def text_bomb() -> bytes:
    """A good PNG with 64 MB of text and a profile of 3 MB."""
    text = zlib.compress(bytes(64 * 2**20), 9)
    profile = zlib.compress(np.random.default_rng(0).bytes(3 * 2**20))
    return png_chunks((b"zTXt", b"Comment\0\0" + text), (b"iCCP", b"x\0\0" + profile))


def large_profile() -> bytes:
    """A good JPEG with a colour profile of 12 MB, and one segment of it missing."""
    data = encoded("JPEG", quality=100, subsampling=0)
    profile = [
        b"\xff\xe2" + struct.pack(">H", 65_000) + b"ICC_PROFILE\0" + bytes((number, 200))
        + bytes(65_000 - 16)
        for number in range(1, 200)
    ]  # fmt: skip
    return data[:2] + b"".join(profile) + data[2:]


def odd_exif() -> bytes:
    """A good JPEG whose EXIF block has tags of unknown types that lead out of the block."""
    entries = [
        struct.pack("<HHII", tag, kind, 2**31, 2**31)
        for tag, kind in ((0x010F, 2), (0x0112, 99), (0x8769, 4), (0x8825, 4), (0x927C, 7))
    ]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5) + b"".join(entries)
    data = encoded("JPEG", quality=100, subsampling=0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def broken_exif() -> bytes:
    """A good JPEG whose EXIF block is none."""
    data = encoded("JPEG", quality=100, subsampling=0)
    exif = b"Exif\0\0no TIFF at all"
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def large_text() -> bytes:
    """A good PNG with 20 MB of plain text."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * (20 * 2**20))
    return encoded("PNG", pnginfo=info)


def gif_of_comments() -> bytes:
    """A GIF with a comment of three million parts of one byte."""
    data = encoded("GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    return data[:start] + b"!\xfe" + 3_000_000 * b"\1x" + b"\0" + data[start:]


def gif_that_disposes() -> bytes:
    """A GIF of 64 x 64 pixels whose first frame claims 13,000 x 13,000 to be cleared."""
    data = bytearray(encoded("GIF"))
    start = 13 + (3 << (data[10] & 7) + 1)
    frame = data.index(b",", start)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 13_000, 13_000)
    data[frame:frame] = b"!\xf9\4\x08\0\0\0\0"
    return bytes(data)


def webp_canvas() -> bytes:
    """A WebP of 90 bytes with a canvas of 16,383 x 16,383 pixels."""
    size = (16_382).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size + bytes(50)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp_of_run_lengths(width: int = 1000, height: int = 1000, pairs: int = 8_000_000) -> bytes:
    """A BMP of 16 MB that Python expands pair by pair: all but the first lead out of its line."""
    lines, palette = b"\xff\0" * pairs, bytes(1024)
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(lines), 0, 0, 256, 0)
    size = start + len(lines)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, start) + header + palette + lines


def zip_of_bzip2(members: int = 12, size: int = 255 * 2**20) -> bytes:
    """A zip of a few kB: each member unpacks to `size` and claims 64 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("00.png", bytes(size))
        first = archive.getinfo("00.png")
    packed = file.getvalue()[30 + 6 : 30 + 6 + first.compress_size]
    parts, directory = [], []
    offset = 0
    for number in range(members):
        name = f"{number:02}.png".encode()
        common = struct.pack(
            "<HHHHHIIIHH", 46, 0, zipfile.ZIP_BZIP2, 0, 0, first.CRC, len(packed), 64, len(name), 0
        )
        parts.append(b"PK\3\4" + common + name + packed)
        directory.append(
            b"PK\1\2" + struct.pack("<H", 46) + common
            + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name
        )  # fmt: skip
        offset += len(parts[-1])
    listed = b"".join(directory)
    end = struct.pack("<HHHHIIH", 0, 0, members, members, len(listed), offset, 0)
    return b"".join(parts) + listed + b"PK\5\6" + end


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "many scans": (many_scans, "scans"),
    "many segments": (many_segments, "segments"),
    "giant tile": (giant_tile, "tiles of 26000 x 26000"),
    "many strips": (many_strips, "strips or tiles"),
    "same bytes again": (same_bytes_again, "overlap"),
    "many chunks": (many_chunks, "chunks"),
    "comments": (gif_of_comments, "blocks"),
    "disposal": (gif_that_disposes, "13000 x 13000"),
    "run lengths": (lambda: bmp_of_run_lengths(9_900, 4_950, 9_000), "as run lengths"),
    "canvas": (webp_canvas, "16383 x 16383"),
}
READ: dict[str, Callable[[], bytes]] = {
    "many pages": many_pages,
    "text bomb": text_bomb,
    "large text": large_text,
    "large profile": large_profile,
    "odd EXIF": odd_exif,
    "broken EXIF": broken_exif,
}
