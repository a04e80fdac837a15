"""Broken inputs, drawn at random: folders of images, tables, zips, config files, command lines."""

import csv
import dataclasses
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from leukjax import config

SIDE = 18
CLASSES = ("blast", "healthy")
SUBJECTS = 5

# Small enough for seconds; the mutations change some of it.
FIELDS = {
    "data.subject_pattern": "(p[0-9]+)_",
    "data.image_size": 16,
    "data.threads": 2,
    "model.width": 4,
    "train.batch_size": 4,
    "train.epochs": 1,
}

_TEXTS = ("", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e999", "-0", "true", "False",
          "None", "[]", "{}", "1,2,3", "0.5,0.5,0.5", "0,0,0", "a\nb", "\u0664\u0662", "é" * 40,
          "x" * 5000, "/", "..", "/dev/null", "/proc/self/mem", "none", "balanced", "fit", "skip",
          "5 epochs", "1e400 steps", "-3 steps", "0 examples", "3 steps", "(", "(?P<n>", "(x)|y",
          "()", "(.*)", "[[:alpha:]]", "image", "kfold", "official", "auto", "nlm", "median",
          "bilateral", "gaussian", "healthy", "cosine", "step", "focal", "group", "frozen",
          "99999999999999999999", "1_0", "0x10", "1.5", "--seed", "=", "%s", "${HOME}")  # fmt: skip

_NUMBERS = (-1, 0, 1, 2, 3, 5, 7, 8, 16, 33, 99, 10**6, 2**31, 2**32, 2**63, 10**30, 0.1, 1e-300)

# These ask for work without end rather than for anything wrong.
_HEAVY = ("data.smears_cells", "data.smears_subjects", "model.depth", "model.width",
          "model.variant", "train.epochs", "data.workers", "runtime.timeout", "profile.steps",
          "data.cache_dir", "runtime.compilation_cache")  # fmt: skip
# Allowed values of these may fill the memory, or are far from the data that we have.
_LARGE = ("data.image_size", "data.crop", "data.threads", "data.prefetch", "data.name",
          "train.batch_size", "train.eval_batch_size", "train.accumulate", "mesh.data",
          "mesh.model", "model.norm_batch", "split.folds", "split.fold", "model.name")  # fmt: skip


@dataclasses.dataclass
class Case:
    """A command line, and the folder that holds what it names."""

    kind: str
    folder: Path
    config: str
    fields: dict[str, object]

    def argv(self) -> list[str]:
        """What stands behind ``python -m leukjax.main``."""
        return [
            f"--config={self.config}",
            f"--workdir={self.folder / 'run'}",
            *(f"--config.{field}={value}" for field, value in self.fields.items()),
        ]


def draw(folder: Path, random: np.random.Generator, kind: str = "") -> Case:
    """Make the input of a case in an empty folder; the same generator gives the same input.

    Args:
      folder: gets the input.
      random: all that decides.
      kind: what is damaged; "" = drawn as well.
    """
    kinds: dict[str, Callable[[Case, np.random.Generator], None]] = {
        "image": _images,
        "table": _table,
        "labels": _labels,
        "zip": _zip,
        "folder": _tree,
        "field": _field,
        "extreme": _extreme,
        "config file": _config_file,
        "cache": _cache,
    }
    shares = (0.24, 0.11, 0.07, 0.14, 0.09, 0.12, 0.08, 0.1, 0.05)
    kind = kind or str(random.choice(list(kinds), p=shares))
    fields = FIELDS | {"data.cache_dir": folder / "cache"}
    case = Case(kind, folder, "cnn:image_folder", fields)
    case.fields["data.bad_images"] = str(random.choice(("error", "skip")))
    kinds[kind](case, random)
    return case


def _cell(random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    image = random.integers(30, 220, (SIDE, SIDE, 3), np.uint8)
    image[np.hypot(x, y) > SIDE * random.uniform(0.25, 0.5)] = 0
    return image


def _encode(random: np.random.Generator) -> bytes:
    """An image file of any format and kind of pixels that the package may meet."""
    image = Image.fromarray(_cell(random))
    kind = str(random.choice(("PNG", "JPEG", "BMP", "TIFF")))
    modes = {
        "PNG": ("RGB", "L", "RGBA", "P", "I;16", "1", "LA"),
        "JPEG": ("RGB", "L", "CMYK"),
        "BMP": ("RGB", "L", "P", "1"),
        "TIFF": ("RGB", "L", "CMYK", "RGBA", "I;16", "F", "I", "YCbCr", "LAB"),
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
    if kind in ("JPEG", "PNG") and random.random() < 0.3:
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = int(random.integers(0, 12))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _damage(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes changed, cut, repeated, doubled or replaced."""
    values = np.frombuffer(data, np.uint8).copy()
    how = random.integers(8)
    if how == 0:
        return b""
    if how == 1:
        return random.bytes(int(random.integers(1, 300)))
    if how == 2:
        return data[: random.integers(len(data) + 1)]
    if how == 3:
        start = random.integers(len(data) + 1)
        return data[:start] + random.bytes(int(random.integers(1, 50))) + data[start:]
    if how == 4:
        start, stop = sorted(random.integers(len(data) + 1, size=2))
        return data[:start] + data[stop:]
    # Headers break in more ways than pixels do.
    reach = len(values) if how == 5 else min(len(values), 100)
    count = random.integers(1, 9)
    if len(values):
        values[random.integers(reach, size=count)] = random.integers(256, size=count)
    return values.tobytes() + (data if how == 7 else b"")


def _write_folder(case: Case, random: np.random.Generator) -> list[Path]:
    root = case.folder / "data"
    case.fields["data.root"] = root
    paths = []
    for number, kind in enumerate(CLASSES):
        for subject in range(SUBJECTS):
            for cell in range(2):
                path = root / kind / f"p{number}{subject}_{cell}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                Image.fromarray(_cell(random)).save(file, "PNG")
                path.write_bytes(file.getvalue())
                paths.append(path)
    return paths


def _images(case: Case, random: np.random.Generator) -> None:
    paths = _write_folder(case, random)
    for path in random.choice(np.array(paths, object), random.integers(1, 6), replace=False):
        data = _encode(random)
        path.write_bytes(_damage(data, random) if random.random() < 0.7 else data)
    if random.random() < 0.15:
        sides = random.choice((1, 2, 7, 8, 9, 500, 12_000, 60_000), 2)
        Image.new("1", tuple(sides.tolist())).save(paths[0])
    if random.random() < 0.4:
        case.fields["data.crop"] = int(random.choice((0, 1, 3, 16, 100)))
        case.fields["data.denoise"] = str(random.choice(("median", "gaussian", "bilateral", "nlm")))
        case.fields["data.image_size"] = int(random.choice((16, 17, 64)))


def _damage_table(rows: list[list[str]], random: np.random.Generator) -> bytes:
    """A table as CSV with a few of the mistakes that people and programs make."""
    for _ in range(random.integers(1, 4)):
        how, row = random.integers(9), int(random.integers(len(rows))) if rows else 0
        if not rows:
            break
        if how == 0:
            rows.pop(row)
        elif how == 1:
            rows.insert(row, list(rows[int(random.integers(len(rows)))]))
        elif how == 2:
            rows.append([str(random.choice(_TEXTS)) for _ in rows[0]])
        elif how == 3 and rows[row]:
            rows[row][int(random.integers(len(rows[row])))] = str(random.choice(_TEXTS))
        elif how == 4:
            rows[row] = rows[row][:-1]
        elif how == 5:
            rows[row] = [*rows[row], "more"]
        elif how == 6:
            rows[row] = [value.upper() for value in rows[row]]
        elif how == 7:
            rows[row] = [f" {value} " for value in rows[row]]
        elif rows[row]:
            rows[row][0] = "../" + rows[row][0]
    text = io.StringIO()
    delimiter = str(random.choice((",", ";", "\t"), p=(0.8, 0.1, 0.1)))
    csv.writer(text, delimiter=delimiter).writerows(rows)
    encoding = str(
        random.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1"), p=(0.7, 0.1, 0.1, 0.1))
    )
    data = text.getvalue().encode(encoding, errors="replace")
    return _damage(data, random) if random.random() < 0.3 else data


def _table(case: Case, random: np.random.Generator) -> None:
    paths = _write_folder(case, random)
    rows = [["path", "subject"]]
    root = case.folder / "data"
    rows += [[str(path.relative_to(root)), path.name.split("_")[0]] for path in paths]
    (case.folder / "subjects.csv").write_bytes(_damage_table(rows, random))
    del case.fields["data.subject_pattern"]
    case.fields["data.subject_csv"] = case.folder / "subjects.csv"


def _labels(case: Case, random: np.random.Generator) -> None:
    """A small C-NMC with its preliminary phase."""
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
        Image.fromarray(_cell(random)).save(path)
        if random.random() < 0.005:
            path.rename(path.with_name(str(random.choice(("x.bmp", "UID_H1_1_1_all.bmp")))))
    (root / "labels.csv").write_bytes(_damage_table(rows, random))


def _zip(case: Case, random: np.random.Generator) -> None:
    paths = _write_folder(case, random)
    target = case.folder / "data.zip"
    root = case.folder / "data"
    packing = int(random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))
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
        data = bytearray(_damage(bytes(data), random))
    elif how <= 2:
        # A field of a random entry of the directory: version, flags, method, sizes, offset, …
        start = data.find(b"PK\1\2", int(random.integers(len(data))))
        if start >= 0:
            place = start + 4 + 2 * int(random.integers(21))
            struct.pack_into("<H", data, place, int(random.integers(2**16)))
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


def _tree(case: Case, random: np.random.Generator) -> None:
    """Links, pipes, odd names, and folders in the wrong place."""
    paths = _write_folder(case, random)
    root = case.folder / "data"
    for _ in range(random.integers(1, 4)):
        path = paths[int(random.integers(len(paths)))]
        how = random.integers(12)
        path.unlink(missing_ok=True)
        odd = (" ", "\n", "'", '"', ",", ";", "=x", "é", "%", "\\", "\u202e", "a" * 180)
        if how == 0:
            path.symlink_to(path.name)
        elif how == 1:
            path.symlink_to("nowhere.png")
        elif how == 2:
            path.symlink_to("/dev/zero")
        elif how == 3:
            os.mkfifo(path)
        elif how == 4:
            path.mkdir()
        elif how == 5:
            path.with_suffix(".PNG").write_bytes(_encode(random))
        elif how == 6:
            path.with_name(path.stem + str(random.choice(odd)) + ".png").write_bytes(
                _encode(random)
            )
        elif how == 7:
            os.symlink(root, root / "loop", target_is_directory=True)
            paths = [other for other in paths if other != path] or paths
        elif how == 8:
            (root / str(random.choice(odd))).mkdir(exist_ok=True)
        elif how == 9:
            with open(os.fsencode(path.parent) + b"/p1_\xff.png", "wb") as file:
                file.write(_encode(random))
        elif how == 10:
            (root / "loose.png").write_bytes(_encode(random))
        else:
            path.symlink_to("/proc/self/mem")
        if (root / "loop").exists():
            break
    if random.random() < 0.3:
        wrong = (root / CLASSES[0], root / "none", case.folder, paths[-1])
        case.fields["data.root"] = wrong[int(random.integers(4))]
    if random.random() < 0.2:
        case.config = str(random.choice(("cnn:cnmc", "cnn:all_idb2")))
        del case.fields["data.subject_pattern"]


def _field(case: Case, random: np.random.Generator) -> None:
    """Values and names of fields, and the name of the config."""
    _write_folder(case, random)
    defaults = config.flatten(config.load("default"))
    known = [name for name in defaults if name not in _HEAVY]
    for _ in range(random.integers(1, 4)):
        name = str(random.choice(known))
        if random.random() < 0.15:
            place = int(random.integers(len(name)))
            name = (
                name[:place]
                + str(random.choice(("", "x", ".", "..", "=", " ")))
                + name[place + 1 :]
            )
        default, value = defaults.get(name), str(random.choice(_TEXTS))
        if isinstance(default, int | float) and random.random() < 0.6:
            value = str(random.choice(_NUMBERS))
        if isinstance(default, bool) or (isinstance(default, float) and random.random() < 0.5):
            value = str(random.choice(("true", "0", "0.5", "0.01")))
        case.fields[name] = value
    if random.random() < 0.2:
        odd = ("", ":", "cnn:", "cnn:x", "cnn:image_folder,x", "nope", "configs", "/", "cnn.py",
               "configs/cnn.py:smears", "default", "x" * 300, "é.py", "..", "README.md",
               "literature", "hybrid_vit:image_folder", "resnet50:,")  # fmt: skip
        case.config = str(random.choice(odd))


def _extreme(case: Case, random: np.random.Generator) -> None:
    """Values that are allowed, at the ends of what is allowed."""
    _write_folder(case, random)
    defaults = config.flatten(config.load("default"))
    names = sorted((config.CHOICES.keys() | config.BOUNDS.keys()) - {*_HEAVY, *_LARGE})
    for name in random.choice(names, random.integers(2, 8), replace=False).tolist():
        if name in config.CHOICES:
            options = [choice for choice in config.CHOICES[name] if choice != "smears"]
            case.fields[name] = options[int(random.integers(len(options)))]
        else:
            low, high = config.BOUNDS[name]
            value = (low, high, low + (high - low) / 2, low + 1)[int(random.integers(4))]
            case.fields[name] = int(value) if isinstance(defaults[name], int) else value


def _config_file(case: Case, random: np.random.Generator) -> None:
    """The text of a shipped config file with lines lost, doubled, damaged or odd."""
    _write_folder(case, random)
    lines = (config.shipped_folder() / "cnn.py").read_text().splitlines()
    body = len(lines) - 1 - lines[::-1].index("    return config")
    values = ("3", "'3'", "None", "[1]", "True", "float('nan')", "1e999", "(1,)", "config", "{}",
              "object()", "b'x'", "-1", "10**30", "config.data", "lambda: 0", "'a\\0b'",
              "ConfigDict({'x': 1})", "1j", "'\\ud800'")  # fmt: skip
    names = [*config.flatten(config.load("default")), "data", "model", "nosuch", "train.nosuch"]
    for _ in range(random.integers(1, 4)):
        how, line = random.integers(6), int(random.integers(len(lines)))
        if how == 0:
            lines.pop(line)
        elif how == 1:
            lines.insert(line, lines[int(random.integers(len(lines)))])
        elif how == 2:
            lines[line] = _damage(lines[line].encode(), random).decode("latin-1")
        elif how == 3:
            odd = ("raise SystemExit(3)", "1 / 0", "config.lock()", "config = None",
                   "import nosuch", "return ConfigDict()", "return 3", "del config.data",
                   "config.seed.x = 3", "return config.to_dict()",
                   "config.data.unlock(); config.data.more = 1")  # fmt: skip
            lines.insert(body, f"    {random.choice(odd)}")
        else:
            name, value = random.choice(names), random.choice(values)
            way = ("config.{} = {}", "with config.ignore_type(): config.{} = {}")
            lines.insert(body, "    " + way[how - 4].format(name, value))
        body = min(body, len(lines))
    text = "\n".join(lines)
    file = case.folder / "mine.py"
    file.write_bytes(text.encode("latin-1" if random.random() < 0.1 else "utf-8", "replace"))
    case.config = f"{file}:image_folder"


def _cache(case: Case, random: np.random.Generator) -> None:
    """A good folder whose prepared records and scan were damaged afterwards."""
    from leukjax.data import records

    _write_folder(case, random)
    data = config.load(case.config, {name: str(value) for name, value in case.fields.items()}).data
    assert isinstance(data, ConfigDict)
    records.prepare(data)
    files = sorted(path for path in (case.folder / "cache").rglob("*") if path.is_file())
    for path in random.choice(np.array(files, object), random.integers(1, 3)):
        how = random.integers(4)
        if how == 0:
            path.unlink(missing_ok=True)
        elif path.exists():
            path.write_bytes(_damage(path.read_bytes(), random))
