"""Folders of images, tables, zips and caches, damaged at random."""

import io
import os
import struct
import zipfile

import broken_values
import numpy as np
from broken_case import CLASSES, Case, damage, draw_cell, write_folder
from ml_collections import ConfigDict
from PIL import Image

from leukjax import config
from leukjax.data import datasets
from leukjax.data.image_file import FORMATS


def encode(random: np.random.Generator) -> bytes:
    """Returns an image file of any supported format and mode."""
    image = Image.fromarray(draw_cell(random))
    kind = str(random.choice(("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "AVIF"),
                             p=(0.22, 0.22, 0.17, 0.22, 0.07, 0.07, 0.03)))  # fmt: skip
    if kind not in FORMATS:
        kind = "PNG"
    modes = {
        "PNG": ("RGB", "L", "RGBA", "P", "I;16", "1", "LA"),
        "JPEG": ("RGB", "L", "CMYK"),
        "BMP": ("RGB", "L", "P", "1"),
        "TIFF": ("RGB", "L", "CMYK", "RGBA", "I;16", "F", "I", "YCbCr", "LAB"),
        "GIF": ("P", "L"),
        "WEBP": ("RGB", "RGBA"),
        "AVIF": ("RGB", "RGBA"),
    }[kind]
    mode = str(random.choice(modes))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    options: dict = {}
    if kind == "TIFF":
        compression = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        options["compression"] = str(random.choice(compression[: 5 if mode == "RGB" else 4]))
    if kind in ("JPEG", "PNG", "WEBP", "AVIF") and random.random() < 0.3:
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = int(random.integers(0, 12))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def images(case: Case, random: np.random.Generator) -> None:
    """Damages images, or sets unusual sizes and preprocessing."""
    paths = write_folder(case, random)
    for path in random.choice(np.array(paths, object), random.integers(1, 6), replace=False):
        data = encode(random)
        path.write_bytes(damage(data, random) if random.random() < 0.7 else data)
    if random.random() < 0.15:
        sides = random.choice((1, 2, 7, 8, 9, 500, 12_000, 60_000), 2)
        Image.new("1", tuple(sides.tolist())).save(paths[0])
    if random.random() < 0.4:
        case.fields["data.crop"] = int(random.choice((0, 1, 3, 16, 100)))
        case.fields["data.denoise"] = str(random.choice(("median", "gaussian", "bilateral", "nlm")))
        case.fields["data.image_size"] = int(random.choice((16, 17, 64)))


def table(case: Case, random: np.random.Generator) -> None:
    """Damages a table of subjects."""
    paths = write_folder(case, random)
    rows = [["path", "subject"]]
    root = case.folder / "data"
    rows += [[str(path.relative_to(root)), path.name.split("_")[0]] for path in paths]
    (case.folder / "subjects.csv").write_bytes(broken_values.change_table(rows, random))
    del case.fields["data.subject_pattern"]
    case.fields["data.subject_csv"] = case.folder / "subjects.csv"


def labels(case: Case, random: np.random.Generator) -> None:
    """Damages the label table of a small C-NMC with its preliminary phase."""
    root = case.folder / "data"
    del case.fields["data.subject_pattern"]
    case.config, case.fields["data.root"] = "cnn:cnmc", root
    rows = [["Patient_ID", "new_names", "labels"]]
    for number in range(24):
        kind, mark = (("all", ""), ("hem", "H"))[number % 2]
        name = f"UID_{mark}{number // 2}_1_{number}_{kind}.bmp"
        path = root / f"fold_{number // 2 % 3}" / kind / name
        if number >= 18:
            path = root / "C-NMC_test_prelim_phase_data" / f"{number}.bmp"
            rows.append([name, path.name, str(1 - number % 2)])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cell(random)).save(path)
        if random.random() < 0.005:
            path.rename(path.with_name(str(random.choice(("x.bmp", "UID_H1_1_1_all.bmp")))))
    (root / "labels.csv").write_bytes(broken_values.change_table(rows, random))


def zip_file(case: Case, random: np.random.Generator) -> None:
    """Damages a zip of images."""
    paths = write_folder(case, random)
    target = case.folder / "data.zip"
    root = case.folder / "data"
    packing = int(
        random.choice(
            (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        )
    )
    with zipfile.ZipFile(target, "w", packing) as archive:
        for path in paths:
            name = str(path.relative_to(root))
            if random.random() < 0.02:
                prefixes = ("../", "/", "C:\\", "a/../../", ".", "__MACOSX/", "\n", "blast/", "é")
                name = str(random.choice(prefixes)) + name
            archive.writestr(name, path.read_bytes())
    data = bytearray(target.read_bytes())
    how = random.integers(5)
    if how == 0:
        data = bytearray(damage(bytes(data), random))
    elif how <= 2:
        # A field of a random entry of the directory: version, flags, method, sizes, offset, …
        start = data.find(b"PK\1\2", int(random.integers(len(data))))
        if start >= 0:
            offset = start + 4 + 2 * int(random.integers(21))
            struct.pack_into("<H", data, offset, int(random.integers(2**16)))
    elif how == 3:
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    target.write_bytes(data)
    case.fields["data.root"] = target
    if random.random() < 0.3:
        inside = case.folder / "outer"
        inside.mkdir()
        target.rename(inside / "data.zip")
        case.fields["data.root"] = inside
    if random.random() < 0.2:
        case.config = str(random.choice(("cnn:cnmc", "cnn:all_idb2")))
        del case.fields["data.subject_pattern"]


_SPECIAL = ("FIFO", "folder", "/dev/zero", "/proc/self/mem", "nowhere", "itself")


def tree(case: Case, random: np.random.Generator) -> None:
    """Adds links, pipes, unusual names and misplaced folders."""
    paths = write_folder(case, random)
    root = case.folder / "data"
    for _ in range(random.integers(1, 4)):
        path = paths[int(random.integers(len(paths)))]
        how = random.integers(12)
        if path.is_dir():  # made by an earlier change
            path.rmdir()
        path.unlink(missing_ok=True)
        odd = (" ", "\n", "'", '"', ",", ";", "=x", "é", "%", "\\", "\u202e", "a" * 180)
        if how < 6:
            broken_values.make_special(path, random, root, _SPECIAL)
        elif how == 6:
            path.with_suffix(".PNG").write_bytes(encode(random))
        elif how == 7:
            path.with_name(path.stem + str(random.choice(odd)) + ".png").write_bytes(encode(random))
        elif how == 8:
            os.symlink(root, root / "loop", target_is_directory=True)
            paths = [other for other in paths if other != path] or paths
        elif how == 9:
            (root / str(random.choice(odd))).mkdir(exist_ok=True)
        elif how == 10:
            with open(os.fsencode(path.parent) + b"/p1_\xff.png", "wb") as file:
                file.write(encode(random))
        else:
            (root / "loose.png").write_bytes(encode(random))
        if (root / "loop").exists():
            break
    if random.random() < 0.3:
        wrong = (root / CLASSES[0], root / "none", case.folder, paths[-1])
        case.fields["data.root"] = wrong[int(random.integers(4))]
    if random.random() < 0.2:
        case.config = str(random.choice(("cnn:cnmc", "cnn:all_idb2")))
        del case.fields["data.subject_pattern"]


def cache(case: Case, random: np.random.Generator) -> None:
    """Damages the prepared records and the scan of a good folder."""
    write_folder(case, random)
    data = config.load(case.config, {name: str(value) for name, value in case.fields.items()}).data
    assert isinstance(data, ConfigDict)
    datasets.prepare(data)
    files = sorted(path for path in (case.folder / "cache").rglob("*") if path.is_file())
    for path in random.choice(np.array(files, object), random.integers(1, 3)):
        how = random.integers(4)
        if how == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            path.write_bytes(damage(path.read_bytes(), random))
