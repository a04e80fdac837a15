"""Cnmc: leukaemic and healthy lymphoblasts of C-NMC 2019, from every layout in circulation."""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from leukjax.data import preprocess
from leukjax.data.archive import File, Files
from leukjax.data.dataset import FileDataset, names_config_fields
from leukjax.data.manifest import Manifest
from leukjax.data.source import INFO, WARNING, Entry, Loaded, Note
from leukjax.errors import UserError

# label 0 = all, 1 = hem: the order of `classes` here, and the reverse of the labels file, where
# 1 = all and 0 = hem.
CLASSES = ("all", "hem")
OF_LABELS_FILE = {"1": "all", "0": "hem"}

TRAINING = ("fold_0", "fold_1", "fold_2")
PRELIMINARY = "preliminary"
FINAL = "final"

# phase -> class -> (images, subjects); "" where the labels were never published.
PUBLISHED: dict[str, dict[str, tuple[int, int]]] = {
    "fold_0": {"all": (2397, 19), "hem": (1130, 9)},
    "fold_1": {"all": (2418, 11), "hem": (1163, 3)},
    "fold_2": {"all": (2457, 17), "hem": (1096, 14)},
    PRELIMINARY: {"all": (1219, 13), "hem": (648, 15)},
    FINAL: {"": (2586, 17)},
}

# The official split; the final phase has no labels and no part.
OFFICIAL_PARTS = {
    "fold_0": "train",
    "fold_1": "train",
    "fold_2": "val",
    PRELIMINARY: "test",
}

# Pixels per side of all images but those of the final phase, and of these.
SIDE, FINAL_SIDE = 450, 600

_NAME = re.compile(r"UID_([Hh]?)([0-9]+)_([0-9]+)_([0-9]+)_(all|hem)\.bmp")
_PRELIMINARY_IMAGES = sum(images for images, _ in PUBLISHED[PRELIMINARY].values())
_EXPECTED = (
    "C-NMC_training_data/fold_0/all/UID_1_1_1_all.bmp and the like, in folders or in zips, from "
    "TCIA or Kaggle"
)


class Cnmc(FileDataset):
    """C-NMC 2019: cells of 73 + 28 subjects, leukaemic (all) or healthy (hem), on black."""

    citation = (
        "Gupta, A. & Gupta, R. (2019). ALL Challenge dataset of ISBI 2019 (C-NMC 2019). "
        "The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r."
    )

    def __init__(self, root: str, *, positive: str = "") -> None:
        """Lists C-NMC 2019 below `root`: folders or zips of TCIA or Kaggle, whole or in part.

        Classes are ("all", "hem"). Ids are the official names without suffix in training,
        "preliminary/17" and "final/17" in the test phases. Preliminary images without the labels
        file, and all final ones, have label -1 and are their own subjects. The positive class is
        all unless `positive` names the other.

        Raises:
          UserError: another layout; a name in a training folder that is not official, or that
            contradicts its folder; an image that is there twice; an inconsistent labels file.
        """
        files = Files(root)
        notes = files.notes()
        placed, other = _place(files)
        if not placed:
            listed = ", ".join(file.location for file in other[:3])
            raise UserError(
                f"root: {root} is not laid out as C-NMC 2019: found {listed}; expected {_EXPECTED}"
            )
        if other:
            notes.append(f"{len(other):,} files belong to no part of C-NMC: {other[0].location}, …")
        chosen = _once(placed, notes)
        preliminary = {
            file.name: file for id, (phase, file) in chosen.items() if phase == PRELIMINARY
        }
        patients = _official_names(files, preliminary, notes)
        entries = []
        for id, (phase, file) in chosen.items():
            official = patients.get(file.name) if phase == PRELIMINARY else None
            if phase not in (PRELIMINARY, FINAL):
                official = file.name
            name = parse_name(official) if official else None
            label, subject = (CLASSES.index(name.label), name.subject) if name else (-1, id)
            entries.append(Entry(id, file.path, label, subject, phase))
        notes.extend(_counts(entries))
        if not any(entry.label >= 0 for entry in entries):
            raise UserError(
                f"root: {root} holds no labelled image of C-NMC: add the training folders "
                f"({_EXPECTED})"
            )
        super().__init__(
            name="cnmc",
            classes=CLASSES,
            positive=positive or "all",
            entries=entries,
            notes=[Note(INFO, text) for text in notes],
            background="black",
            official_parts=OFFICIAL_PARTS,
            files=files,
            config_fields={"data.root": str(files.root.absolute()), "data.positive": positive},
        )

    def load(self, entry: Entry) -> Loaded:
        """As in `FileDataset`; 600 px images of the final phase are centre-cropped, not resized."""
        loaded = super().load(entry)
        if entry.phase != FINAL:
            return loaded
        cropped = np.ascontiguousarray(preprocess.window(loaded.image, SIDE))
        return dataclasses.replace(loaded, image=cropped)

    def findings(self, manifest: Manifest, sides: Int[np.ndarray, "n"]) -> list[Note]:
        """Compares the size of the cells in the final phase with that in training.

        No publication says whether the larger final images show more background (then the crop is
        right) or larger cells.
        """
        final = sides[manifest.phase == FINAL]
        training = sides[np.isin(manifest.phase, TRAINING)]
        if not len(final) or not len(training):
            return []
        a, b = np.median(final), np.median(training)
        sizes = (
            f"final images, centre-cropped to {SIDE} px: the longer side of the cell is {a:.0f} px "
            f"at the median, {b:.0f} px in training (ratio {a / b:.2f})"
        )
        if 0.85 < a / b < 1.15:
            return [Note(INFO, f"{sizes}: the centre crop keeps the scale")]
        return [
            Note(
                WARNING,
                f"{sizes}: the scales differ, so predictions on the final phase are made on cells "
                "unlike those of training",
            )
        ]


@names_config_fields
def make(data: ConfigDict) -> Cnmc:
    """Returns the data set of the `data` section of a config."""
    return Cnmc(data.root, positive=data.positive)


@dataclasses.dataclass(frozen=True)
class Name:
    """The parts of an official file name.

    Attributes:
      subject: "1", "H3": "1" and "H1" are two people, "h3" and "H3" are one.
      source_image: number of the field that the cell was cut from.
      cell: number of the cell in it.
      label: "all" or "hem".
    """

    subject: str
    source_image: int
    cell: int
    label: str


def parse_name(name: str) -> Name | None:
    """Parses `UID_H3_1_2_hem.bmp`; None if it is no official name.

    The marker H is there if and only if the class is hem; the files of one subject have a small h.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    marker, subject, source_image, cell, label = match.groups()
    if bool(marker) != (label == "hem"):
        return None
    return Name(f"{marker.upper()}{int(subject)}", int(source_image), int(cell), label)


def _place(files: Files) -> tuple[list[tuple[str, str, File]], list[File]]:
    """Returns (id, phase, file) of the images of the data set, and the other images."""
    placed, other = [], []
    # The root itself may be a fold, and a zip may replace the folder that it holds.
    root = files.root.absolute().name
    for file in files.files:
        if file.suffix == ".csv":
            continue
        parts = (root, *file.location.split("/")[:-1])
        folders = [part.lower().removesuffix(".zip") for part in parts]
        fold = next((part for part in reversed(folders) if part in TRAINING), None)
        kind = next((part for part in reversed(folders) if part in CLASSES), None)
        numbered = re.fullmatch(r"[0-9]+\.bmp", file.name)
        phase = next(
            (
                phase
                for folder in reversed(folders)
                for part, phase in (("prelim", PRELIMINARY), ("final", FINAL))
                if part in folder
            ),
            None,
        )
        if fold and kind:
            name = parse_name(file.name)
            if name is None:
                raise UserError(
                    f"{file.path}: not a file name of C-NMC (UID_1_2_3_all.bmp, "
                    "UID_H1_2_3_hem.bmp): rename or remove it"
                )
            if name.label != kind:
                raise UserError(
                    f"{file.path}: its name is of class {name.label}, its folder of class {kind}: "
                    "restore the official folder"
                )
            placed.append((file.stem, fold, file))
        elif numbered and phase:
            placed.append((f"{phase}/{int(file.stem)}", phase, file))
        else:
            other.append(file)
    return placed, other


def _once(placed: list[tuple[str, str, File]], notes: list[str]) -> dict[str, tuple[str, File]]:
    """Returns one file for each id: of a file that is also in a zip, the unpacked one."""
    chosen: dict[str, tuple[str, File]] = {}
    both = 0
    for id, phase, file in sorted(placed, key=lambda item: (item[2].zipped, item[2].path)):
        if id not in chosen:
            chosen[id] = (phase, file)
        elif file.zipped and not chosen[id][1].zipped and chosen[id][0] == phase:
            both += 1
        else:
            raise UserError(
                f"{file.path}: the same image is at {chosen[id][1].path} too: remove one of them"
            )
    if both:
        notes.append(f"{both:,} images are both unpacked and in a zip: the unpacked ones are read")
    return chosen


def _counts(entries: list[Entry]) -> list[str]:
    """Returns one sentence per phase: images and subjects, compared with the published ones."""
    sentences = []
    for phase, published in PUBLISHED.items():
        present = [entry for entry in entries if entry.phase == phase]
        total = sum(images for images, _ in published.values())
        if not present:
            sentences.append(f"{phase}: not there (published: {total:,} images)")
            continue
        if all(entry.label < 0 for entry in present):
            same = "as published" if len(present) == total else f"published: {total:,}"
            sentences.append(f"{phase}: {len(present):,} images without labels ({same})")
            continue
        parts, differs = [], False
        for name, (images, subjects) in published.items():
            of_class = [e for e in present if e.label == CLASSES.index(name)]
            people = len({entry.subject for entry in of_class})
            part = f"{name} {len(of_class):,} images of {people} subjects"
            if (len(of_class), people) != (images, subjects):
                part += f" (published: {images:,} of {subjects})"
                differs = True
            parts.append(part)
        verdict = "differs from the published counts" if differs else "as published"
        sentences.append(f"{phase}: {', '.join(parts)}: {verdict}")
    return sentences


def _official_names(files: Files, preliminary: dict[str, File], notes: list[str]) -> dict[str, str]:
    """Returns the official name of each preliminary file, from the labels CSV; {} without one.

    Args:
      files: everything below the root.
      preliminary: the preliminary images by file name.
      notes: gets a sentence if the file is missing, or names images that are missing.

    Raises:
      UserError: the CSV cannot be read, a row is inconsistent, an image has two rows or none.
    """
    tables = [
        file for file in files.files if file.suffix == ".csv" and "label" in file.name.lower()
    ]
    if not tables:
        if preliminary:
            notes.append(
                f"{len(preliminary):,} preliminary images are not labelled: "
                "C-NMC_test_prelim_phase_data_labels.csv is missing"
            )
        return {}
    path = tables[0].path
    official = _read_labels(path, {files.read(file.path): file.path for file in tables})
    missing = sorted(set(preliminary) - set(official))
    if missing:
        raise UserError(
            f"{path}: has no row for {missing[0]} ({len(missing)} such images): "
            "download the file again or remove the images"
        )
    absent = len(set(official) - set(preliminary))
    if absent:
        notes.append(f"{absent:,} of {len(official):,} rows of {path} name images that are missing")
    return official


def _read_labels(path: str, contents: Mapping[bytes, str]) -> dict[str, str]:
    """Returns the official name of each file in a labels CSV; `contents` are all such tables."""
    if len(contents) > 1:
        other = next(name for name in contents.values() if name != path)
        raise UserError(f"{path}: differs from {other}: remove the wrong one")
    try:
        text = next(iter(contents)).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: no readable CSV ({error}): download it again") from error
    official: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        line = f"{path}: line {number}"
        try:
            patient, name, label = (
                row[column].strip() for column in ("Patient_ID", "new_names", "labels")
            )
        except (KeyError, AttributeError) as error:
            raise UserError(
                f"{line} lacks one of the columns Patient_ID, new_names, labels: download it again"
            ) from error
        parsed = parse_name(patient)
        if parsed is None or OF_LABELS_FILE.get(label) != parsed.label:
            raise UserError(
                f"{line}: {patient!r} with label {label!r} is no pair of C-NMC "
                "(1 = all, 0 = hem): download it again"
            )
        numbered = re.fullmatch(r"([0-9]{1,9})\.bmp", name)
        if numbered is None or not 1 <= int(numbered[1]) <= _PRELIMINARY_IMAGES:
            raise UserError(
                f"{line}: {name!r} is none of the preliminary files 1.bmp to "
                f"{_PRELIMINARY_IMAGES}.bmp: correct the row"
            )
        if name in official:
            raise UserError(f"{line}: {name} has two rows: remove one")
        official[name] = patient
    return official
