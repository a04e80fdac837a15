"""Images and archives of a few kilobytes that ask for minutes or gigabytes."""

import bz2
import io
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import broken_runs
import numpy as np
from broken_case import Case, draw_cell
from PIL import Image


def _picture(random: np.random.Generator, side: int = 0) -> Image.Image:
    image = Image.fromarray(draw_cell(random))
    return image.resize((side, side)) if side else image


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def many_scans(random: np.random.Generator) -> bytes:
    """A progressive JPEG whose last scan stands there a thousand times and more."""
    data = _save(_picture(random, int(random.choice((64, 1000)))), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * int(random.choice((50, 1000, 2000))) + data[-2:]


def _tiff(pages: list[dict[int, tuple[int, list[int]]]], body: bytes) -> bytes:
    """A little-endian TIFF; `body` starts at byte 8, tags are {number: (type, values)}."""
    out = bytearray(struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body)
    for number, page in enumerate(pages):
        more, start = bytearray(), len(out)
        after = start + 2 + 12 * len(page) + 4
        out += struct.pack("<H", len(page))
        for tag, (kind, values) in sorted(page.items()):
            packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
            if len(packed) > 4:
                place, more = after + len(more), more + packed
                packed = struct.pack("<I", place)
            out += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
        following = after + len(more) if number + 1 < len(pages) else 0
        out += struct.pack("<I", following) + more
    return bytes(out)


def giant_tile(random: np.random.Generator) -> bytes:
    """A TIFF of 64 x 64 pixels with a single tile of gigabytes."""
    side = int(random.choice((2048, 16_384, 26_752)))
    body = zlib.compress(bytes(2**20))
    page = {256: (4, [64]), 257: (4, [64]), 258: (3, [8, 8, 8]), 259: (3, [8]), 262: (3, [2]),
            277: (3, [3]), 322: (4, [side]), 323: (4, [side]), 324: (4, [8]),
            325: (4, [len(body)])}  # fmt: skip
    return _tiff([page], body)


def giant_strip(random: np.random.Generator) -> bytes:
    """A TIFF that states sides far beyond what it holds."""
    width, height = random.choice((1, 64, 9999, 60_000, 2**31 - 1), 2).tolist()
    body = zlib.compress(bytes(2**20))
    page = {256: (4, [width]), 257: (4, [height]), 258: (3, [8, 8, 8]), 259: (3, [8]),
            262: (3, [2]), 273: (4, [8]), 277: (3, [3]), 278: (4, [height]),
            279: (4, [len(body)])}  # fmt: skip
    return _tiff([page], body)


def many_pages(random: np.random.Generator) -> bytes:
    """A TIFF of tens of thousands of pages, all with the same pixels."""
    pixels = np.asarray(_picture(random)).tobytes()
    side = int((len(pixels) / 3) ** 0.5)
    page = {256: (4, [side]), 257: (4, [side]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]),
            273: (4, [8]), 277: (3, [3]), 278: (4, [side]), 279: (4, [len(pixels)])}  # fmt: skip
    return _tiff([page] * int(random.choice((2, 500, 40_000))), pixels)


def long_strip(random: np.random.Generator) -> bytes:
    """An image that is small until it is padded to a square."""
    sides = (int(random.choice((9999, 10_000))), int(random.choice((8, 64, 9999))))
    return _save(Image.new(str(random.choice(("1", "L", "RGB"))), sides), "PNG", compress_level=9)


def packed_png(random: np.random.Generator) -> bytes:
    """A PNG with ancillary chunks that grow when read, or with millions of them."""
    data = _save(_picture(random), "PNG")

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    zeros = zlib.compress(bytes(100 * 2**20), 9)
    odd = (chunk(b"zTXt", b"a\0\0" + zeros), chunk(b"iCCP", b"a\0\0" + zeros),
           chunk(b"iTXt", b"a\0\1\0\0\0" + zeros), chunk(b"tEXt", b"a\0b") * 100_000,
           chunk(b"eXIf", b"II*\0" + bytes(30)), chunk(b"gAMA", bytes(4)))  # fmt: skip
    return data[:33] + odd[int(random.integers(len(odd)))] + data[33:]


def ancillary(random: np.random.Generator) -> bytes:
    """A good image with a large colour profile, odd EXIF or a long comment."""
    image, how = _picture(random), random.integers(4)
    kind = str(random.choice(("PNG", "JPEG", "TIFF")))
    options: dict[str, object] = {}
    if how == 0:
        options["icc_profile"] = random.bytes(int(random.choice((10, 70_000, 5_000_000))))
    elif how == 1:
        exif = Image.Exif()
        exif[0x0112] = int(random.choice((0, 3, 9, 65_535)))
        exif[0x9286] = random.bytes(1000)
        options["exif"] = exif
    elif how == 2 and kind == "JPEG":
        options["exif"] = b"Exif\0\0" + random.bytes(2000)
    elif how == 3 and kind == "JPEG":
        options["comment"] = random.bytes(60_000)
    return _save(image, kind, **options)


def other_format(random: np.random.Generator) -> bytes:
    """Formats that Pillow writes beside the usual ones, animated where they can be."""
    kinds = ("WEBP", "GIF", "AVIF", "PPM", "ICO", "TGA", "JPEG2000", "DDS", "PCX", "PDF", "EPS")
    kind, image = str(random.choice(kinds)), _picture(random)
    several = {"save_all": True, "append_images": [image.rotate(90)] * 300}
    try:
        return _save(image, kind, **(several if random.random() < 0.3 else {}))
    except (OSError, ValueError, KeyError, TypeError):  # a Pillow that cannot write it
        return _save(image, "GIF")


# Of bytes under any of the names that images have; others may be added here.
FILES: dict[str, Callable[[np.random.Generator], bytes]] = {
    "many scans": many_scans,
    "giant tile": giant_tile,
    "giant strip": giant_strip,
    "many pages": many_pages,
    "long strip": long_strip,
    "packed PNG": packed_png,
    "ancillary": ancillary,
    "other format": other_format,
}
_ENDINGS = (".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".avif", ".jfif", ".PNG")


def hostile(case: Case, random: np.random.Generator) -> None:
    """One or two such files among good ones: asked, explained, or trained on."""
    broken_runs.copy_run(case)
    inputs = case.folder / "inputs"
    for number in range(random.integers(1, 3)):
        kind = str(random.choice(list(FILES)))
        path = inputs / f"odd{number}{random.choice(_ENDINGS)}"
        path.write_bytes(FILES[kind](random))
    how = random.random()
    if how < 0.25:
        _pack(inputs, random)
    if how < 0.8:
        broken_runs.choose(case, "predict" if how < 0.7 else "explain", random)
        case.rows = None  # what is no image by its name is left out
    else:
        _as_class(case, random)


def _pack(inputs: Path, random: np.random.Generator) -> None:
    """The files in a zip that is made to grow, or to be read for ever."""
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(inputs / "z.zip", "w", methods[int(random.integers(3))]) as archive:
        for path in sorted(inputs.glob("*.*")):
            if path.suffix != ".zip":
                archive.write(path, path.name)
        for number in range(random.integers(3)):
            archive.writestr(f"zeros{number}.png", bytes(40 * 2**20))
        if random.random() < 0.2:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as other:
                other.writestr("a.png", b"")
            archive.writestr("inner.zip", inner.getvalue())
    if random.random() < 0.2:
        (inputs / "b.zip").write_bytes(bz2.compress(bytes(2**20)))
        (inputs / "c.zip").write_bytes(lzma.compress(bytes(2**20)))


def _as_class(case: Case, random: np.random.Generator) -> None:
    """The files as images to train on."""
    root = case.folder / "data"
    case.fields["data.root"] = root
    for path in sorted((case.folder / "inputs").iterdir()):
        for subject in range(3):
            kind = ("blast", "healthy")[subject % 2]
            target = root / kind / f"p{subject}{path.stem[-1]}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    shutil.rmtree(case.folder / "run")
    if random.random() < 0.5:
        case.program = "audit"
        case.arguments = [str(root), f"--output={case.folder / 'out'}"]
