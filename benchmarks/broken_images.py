"""Images and archives of a few kilobytes that ask for minutes or gigabytes."""

import bz2
import functools
import io
import lzma
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import broken_runs
import hostile_images
import numpy as np
from broken_case import CLASSES, Case, damage, draw_cell, write_folder
from PIL import Image

HOSTILE = (*hostile_images.READ, *hostile_images.REFUSED)


@functools.cache
def hostile_file(name: str) -> bytes:
    """Returns a file of `hostile_images`, made once."""
    if name in hostile_images.READ:
        return hostile_images.READ[name]()
    return hostile_images.REFUSED[name][0]()


def known(random: np.random.Generator) -> bytes:
    """One of the files of `hostile_images`."""
    return hostile_file(str(random.choice(HOSTILE)))


def giant_strip(random: np.random.Generator) -> bytes:
    """A TIFF that states sides far beyond its content."""
    width, height = random.choice((1, 64, 9999, 60_000, 2**31 - 1), 2).tolist()
    body = hostile_images.compressed(bytes(2**20))
    size = {256: width, 257: height, 273: -1, 278: height, 279: len(body)}
    return hostile_images.tiff({**hostile_images.COLOUR, **size, 259: 8}, body)


def long_strip(random: np.random.Generator) -> bytes:
    """An image that is small until it is padded to a square."""
    sides = (int(random.choice((9999, 10_000))), int(random.choice((8, 64, 9999))))
    file = io.BytesIO()
    image = Image.new(str(random.choice(("1", "L", "RGB"))), sides)
    image.save(file, "PNG", compress_level=9)
    return file.getvalue()


def packed_png(random: np.random.Generator) -> bytes:
    """A PNG with ancillary chunks that grow when read, or that are odd."""
    zeros = hostile_images.compressed(bytes(100 * 2**20))
    contents = {b"iCCP": b"a\0\0" + zeros, b"iTXt": b"a\0\1\0\0\0" + zeros,
                b"eXIf": b"II*\0" + bytes(30), b"gAMA": bytes(4)}  # fmt: skip
    name = list(contents)[int(random.integers(len(contents)))]
    return hostile_images.png_chunks((name, contents[name]))


def ancillary(random: np.random.Generator) -> bytes:
    """A good image with a large random colour profile, odd EXIF or a long comment."""
    kind, exif = str(random.choice(("PNG", "JPEG", "TIFF"))), Image.Exif()
    exif[0x0112] = int(random.choice((0, 3, 9, 65_535)))
    exif[0x9286] = random.bytes(1000)
    options: tuple[dict[str, object], ...] = (
        {"icc_profile": random.bytes(int(random.choice((10, 70_000, 5_000_000))))},
        {"exif": exif},
        {"exif": b"Exif\0\0" + random.bytes(2000)} if kind == "JPEG" else {},
        {"comment": random.bytes(60_000)} if kind == "JPEG" else {},
    )
    return hostile_images.encoded(kind, **options[int(random.integers(4))])


def other_format(random: np.random.Generator) -> bytes:
    """Formats that Pillow writes beside the usual ones, animated if they can be."""
    kinds = ("WEBP", "GIF", "AVIF", "PPM", "ICO", "TGA", "JPEG2000", "DDS", "PCX", "PDF", "EPS")
    image = Image.fromarray(draw_cell(random))
    several = {"save_all": True, "append_images": [image.rotate(90)] * 300}
    file = io.BytesIO()
    try:
        image.save(file, str(random.choice(kinds)), **(several if random.random() < 0.3 else {}))
    except (OSError, ValueError, KeyError, TypeError):  # a Pillow that cannot write it
        return hostile_images.encoded("GIF")
    return file.getvalue()


FILES: tuple[Callable[[np.random.Generator], bytes], ...] = (
    known, known, known, giant_strip, long_strip, packed_png, ancillary, other_format,
)  # fmt: skip
_ENDINGS = (".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".avif", ".jfif", ".PNG")


def hostile(case: Case, random: np.random.Generator) -> None:
    """One or two such files among good ones: predicted, explained, or trained on."""
    broken_runs.copy_run(case)
    inputs = case.folder / "inputs"
    for number in range(random.integers(1, 3)):
        make = FILES[int(random.integers(len(FILES)))]
        (inputs / f"odd{number}{random.choice(_ENDINGS)}").write_bytes(make(random))
    how = random.random()
    if how < 0.25:
        _pack(inputs, random)
    if how < 0.8:
        broken_runs.choose(case, "predict" if how < 0.7 else "explain", random)
        case.rows = None  # files without an image suffix are skipped
    else:
        _as_class(case, random)


def _pack(inputs: Path, random: np.random.Generator) -> None:
    """Packs the files into a zip that grows, or that contains itself."""
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
    """Turns the files into images to train on."""
    root = case.folder / "data"
    case.fields["data.root"] = root
    for path in sorted((case.folder / "inputs").iterdir()):
        for subject in range(3):
            target = root / CLASSES[subject % 2] / f"p{subject}{path.stem[-1]}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    shutil.rmtree(case.folder / "run")
    if random.random() < 0.5:
        case.command = "audit"
        case.arguments = [str(root), f"--output={case.folder / 'out'}"]


def hostile_training(case: Case, random: np.random.Generator) -> None:
    """A folder, or a zip, in which some images are such files."""
    paths = write_folder(case, random)
    for path in random.choice(np.array(paths, object), random.integers(1, 4), replace=False):
        data = known(random)
        path.write_bytes(damage(data, random) if random.random() < 0.3 else data)
    how = random.integers(6)
    folder = case.folder / "data" / CLASSES[0]
    if how == 0:
        (folder / "strip.png").write_bytes(hostile_images.strip())
    elif how == 1:
        size = int(random.choice((2**20, 2**26)))
        case.fields["data.root"] = case.folder / "data.zip"
        case.fields["data.root"].write_bytes(hostile_images.zip_of_bzip2(size=size))
    elif how == 2:
        (folder / "p01_x.bmp").write_bytes(hostile_images.bmp_of_run_lengths())
