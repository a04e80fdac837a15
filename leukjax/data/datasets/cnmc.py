"""C-NMC 2019: leukaemic and healthy lymphoblasts, from every layout in which it is handed on."""

import dataclasses
import re

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from ml_collections import ConfigDict

from leukjax.data import preprocess
from leukjax.data.archive import File, Files
from leukjax.data.builder import Builder
from leukjax.data.dataset import Entry, FileSource, Loaded, positive_class
from leukjax.data.datasets import cnmc_labels
from leukjax.data.datasets.cnmc_names import (
    CLASSES,
    FINAL,
    PRELIMINARY,
    PUBLISHED,
    SIDE,
    TRAINING,
    parse,
)
from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

_EXPECTED = (
    "C-NMC_training_data/fold_0/all/UID_1_1_1_all.bmp and the like, in folders or in zips, from "
    "TCIA or Kaggle"
)


@dataclasses.dataclass(kw_only=True)
class CnmcSource(FileSource):
    """C-NMC files; those of the final phase are cut to the size of the others."""

    def load(self, entry: Entry) -> Loaded:
        """As in `FileSource`; 600 px images of the final phase are centre-cropped, not resized."""
        loaded = super().load(entry)
        if entry.phase != FINAL:
            return loaded
        cropped = np.ascontiguousarray(preprocess.window(loaded.image, SIDE))
        return dataclasses.replace(loaded, image=cropped)

    def findings(self, manifest: Manifest, sides: Int[np.ndarray, "n"]) -> list[str]:
        """Compares the cells' size in the final phase with that in training.

        Nobody who published on them has said whether the larger final images show more background
        (then the crop is right) or larger cells.
        """
        final = sides[manifest.phase == FINAL]
        training = sides[np.isin(manifest.phase, TRAINING)]
        if not len(final) or not len(training):
            return []
        a, b = np.median(final), np.median(training)
        verdict = "the centre crop keeps the scale"
        if not 0.85 < a / b < 1.15:
            verdict = (
                "WARNING: the scales differ, so that predictions on the final phase rest on cells "
                "unlike those of training"
            )
        return [
            f"final images, centre-cropped to {SIDE} px: the cell's longer side is {a:.0f} px at "
            f"the median, {b:.0f} px in training (ratio {a / b:.2f}): {verdict}"
        ]


def source(data: ConfigDict) -> CnmcSource:
    """C-NMC 2019 below `data.root`: folders or zips of TCIA or Kaggle, whole or in part.

    Classes are ("all", "hem"), positive is all. Ids are the official names without suffix in
    training, "preliminary/17" and "final/17" in the test phases. Preliminary images without the
    labels file, and all final ones, have label -1 and are their own subjects.

    Raises:
      UserError: another layout; a name in a training folder that is not official, or that
        contradicts its folder; an image that is there twice; a labels file that is not consistent.
    """
    files = Files(data.root)
    notes = files.notes()
    placed, other = _place(files)
    if not placed:
        found = ", ".join(file.place for file in other[:3])
        raise UserError(
            f"data.root: {data.root} is not laid out as C-NMC 2019: found {found}; "
            f"expected {_EXPECTED}"
        )
    if other:
        notes.append(f"{len(other):,} files belong to no part of C-NMC: {other[0].place}, …")
    chosen = _once(placed, notes)
    preliminary = {file.name: file for id, (phase, file) in chosen.items() if phase == PRELIMINARY}
    patients = cnmc_labels.official_names(files, preliminary, notes)
    entries = []
    for id, (phase, file) in chosen.items():
        official = patients.get(file.name) if phase == PRELIMINARY else None
        if phase not in (PRELIMINARY, FINAL):
            official = file.name
        name = parse(official) if official else None
        label, subject = (CLASSES.index(name.label), name.subject) if name else (-1, id)
        entries.append(Entry(id, file.path, label, subject, phase))
    notes.extend(_counts(entries))
    if not any(entry.label >= 0 for entry in entries):
        raise UserError(
            f"data.root: {data.root} holds no labelled image of C-NMC: add the training folders "
            f"({_EXPECTED})"
        )
    return CnmcSource(
        name="cnmc",
        classes=CLASSES,
        positive=positive_class(data.positive, CLASSES, "all"),
        entries=entries,
        notes=notes,
        background="black",
        files=files,
    )


class Cnmc(Builder):
    """C-NMC 2019: cells of 73 + 28 subjects, leukaemic (all) or healthy (hem), on black."""

    VERSION = tfds.core.Version("1.0.0")
    CITATION = (
        "Gupta, A. & Gupta, R. (2019). ALL Challenge dataset of ISBI 2019 (C-NMC 2019). "
        "The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r."
    )

    make_source = staticmethod(source)


def _place(files: Files) -> tuple[list[tuple[str, str, File]], list[File]]:
    """(id, phase, file) of the images that belong to the data set; images that do not."""
    placed, other = [], []
    # The root itself may be a fold, and a zip may stand for the folder that it holds.
    root = files.root.resolve().name
    for file in files.files:
        if file.suffix == ".csv":
            continue
        parts = (root, *file.place.split("/")[:-1])
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
            name = parse(file.name)
            if name is None:
                raise UserError(
                    f"{file.path}: not a file name of C-NMC (UID_1_2_3_all.bmp, "
                    "UID_H1_2_3_hem.bmp): rename or remove it"
                )
            if name.label != kind:
                raise UserError(
                    f"{file.path}: its name says {name.label}, its folder {kind}: "
                    "restore the official folder"
                )
            placed.append((file.stem, fold, file))
        elif numbered and phase:
            placed.append((f"{phase}/{int(file.stem)}", phase, file))
        else:
            other.append(file)
    return placed, other


def _once(placed: list[tuple[str, str, File]], notes: list[str]) -> dict[str, tuple[str, File]]:
    """One file for each id: what is both unpacked and in a zip is taken unpacked."""
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
    """A sentence a phase: images and subjects found against those published."""
    sentences = []
    for phase, published in PUBLISHED.items():
        there = [entry for entry in entries if entry.phase == phase]
        total = sum(images for images, _ in published.values())
        if not there:
            sentences.append(f"{phase}: not there (published: {total:,} images)")
            continue
        if all(entry.label < 0 for entry in there):
            same = "as published" if len(there) == total else f"published: {total:,}"
            sentences.append(f"{phase}: {len(there):,} images without labels ({same})")
            continue
        parts, differs = [], False
        for name, (images, subjects) in published.items():
            of_class = [e for e in there if e.label == CLASSES.index(name)]
            people = len({entry.subject for entry in of_class})
            part = f"{name} {len(of_class):,} images of {people} subjects"
            if (len(of_class), people) != (images, subjects):
                part += f" (published: {images:,} of {subjects})"
                differs = True
            parts.append(part)
        verdict = "differs from the published counts" if differs else "as published"
        sentences.append(f"{phase}: {', '.join(parts)}: {verdict}")
    return sentences
