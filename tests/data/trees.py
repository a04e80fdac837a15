"""Folders of synthetic images in the layouts of the data sets."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from leukjax.data.datasets.cnmc import parse_name
from leukjax.data.manifest import Manifest, join_groups


def data_config(root, **fields) -> ConfigDict:
    """The `data` fields that sources read."""
    patterns = {f"{name}_pattern": "" for name in ("subject", "label", "part", "source")}
    data = ConfigDict({"root": "", "positive": "", "subject_csv": "", "part_from": "", **patterns})
    data.update(root=str(root), **fields)
    return data


def cell(seed: int, side: int = 40, background: str = "black") -> np.ndarray:
    """A textured disc, uint8[side, side, 3]; its size and texture follow the seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(x, y) < side * random.uniform(0.25, 0.45)
    image = np.full((side, side, 3), 0 if background == "black" else 235, np.uint8)
    image[inside] = random.integers(40, 200, (int(inside.sum()), 3))
    return image


def encode(image: np.ndarray, kind: str = "BMP", **options) -> bytes:
    """The image as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zip_folder(folder: Path, target: Path, prefix: str = "") -> Path:
    """All files below a folder in a zip; the folder itself is gone from the names."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


def cnmc_rows(shared: Path) -> list[dict[str, str]]:
    """Rows of the full list of C-NMC files (path, bytes, sha256)."""
    with open(shared / "data" / "cnmc_manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def cnmc_training(shared: Path) -> Manifest:
    """The manifest of all 10,661 training images as far as it can be known without them."""
    rows = [row for row in cnmc_rows(shared) if row["path"].startswith("C-NMC_training_data/")]
    paths = [row["path"] for row in rows]
    names = [parse_name(path.rsplit("/", 1)[1]) for path in paths]
    subjects = [name.subject for name in names]
    digests = [row["sha256"] for row in rows]
    unknown = [""] * len(rows)
    return Manifest(
        classes=("all", "hem"),
        id=[path.rsplit("/", 1)[1].removesuffix(".bmp") for path in paths],
        path=paths,
        label=[("all", "hem").index(name.label) for name in names],
        subject=subjects,
        group=join_groups(subjects, digests, unknown),
        phase=[path.split("/")[1] for path in paths],
        sha256=digests,
        pixels=unknown,
        phash=np.zeros(len(rows)),
        area=np.linspace(0.1, 0.2, len(rows)),
    )


def write_cnmc(folder: Path, rows: list[dict[str, str]], side: int = 24) -> Path:
    """Files with the names of C-NMC rows and synthetic pixels, equal if the digests are."""
    for row in rows:
        if row["path"].endswith(".bmp"):
            seed = int(row["sha256"][:12], 16)
            write(folder / row["path"], encode(cell(seed, side)))
    return folder


def small_cnmc(folder: Path, test_phases: bool = True) -> Path:
    """A C-NMC of 3 folds, 2 subjects a class and fold, 2 cells each, in TCIA's layout."""
    seed = 0
    for fold in range(3):
        for kind, marker in (("all", ""), ("hem", "H")):
            for subject in (2 * fold + 1, 2 * fold + 2):
                for number in (1, 2):
                    seed += 1
                    name = f"UID_{marker}{subject}_1_{number}_{kind}.bmp"
                    path = folder / "C-NMC_training_data" / f"fold_{fold}" / kind / name
                    write(path, encode(cell(seed)))
    if test_phases:
        table = ["Patient_ID,new_names,labels"]
        for number in range(1, 9):
            seed += 1
            kind, marker, label = ("all", "", 1) if number % 2 else ("hem", "H", 0)
            name = f"{number}.bmp"
            write(folder / "C-NMC_test_prelim_phase_data" / name, encode(cell(seed)))
            table.append(f"UID_{marker}{50 + number // 3}_1_{number}_{kind}.bmp,{name},{label}")
        write(folder / "C-NMC_test_prelim_phase_data_labels.csv", "\n".join(table) + "\n")
        for number in range(1, 4):
            seed += 1
            write(folder / "C-NMC_test_final_phase_data" / f"{number}.bmp", encode(cell(seed, 600)))
    return folder


def texts(dataset) -> list[str]:
    """The notes of a data set, as the log shows them."""
    return [str(note) for note in dataset.notes]
