"""Predicts distorted images with a trained run, and keeps the predictions as files.

``RUN/robustness/predictions/<distortion>-<severity>.csv`` in the ordinary format, ``clean-0.csv``
for the images as they are, and ``as_published/`` for the second kind of background. Each file is
written whole or not at all, so that a start after a kill resumes.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from leukjax import storage
from leukjax.data.image_stats import foreground
from leukjax.data.parallel import progress
from leukjax.errors import UserError
from leukjax.images.distort import (
    DISTORTIONS,
    SEVERITIES,
    VERSION,
    Background,
    distort,
    seeds_of,
)
from leukjax.metrics import predictions
from leukjax.metrics.predictions import Predictions
from leukjax.predict.predictor import load
from leukjax.report.provenance import About
from leukjax.rundir import RunDir
from leukjax.training.training_data import records_of

CLEAN = "clean"
PARTS = ("val", "test")


@dataclasses.dataclass(frozen=True, order=True)
class Case:
    """One set of predictions: a distortion at a severity (0 = clean), on one kind of background."""

    background: Background
    distortion: str
    severity: int

    def path(self, folder: Path, first: Background) -> Path:
        """Returns its file below `folder`; those of the first kind of background are on top."""
        name = f"{self.distortion}-{self.severity}.csv"
        top = folder / "predictions"
        return top / name if self.background == first else top / self.background / name


@dataclasses.dataclass(frozen=True)
class PartImages:
    """The images of one part of a run.

    Attributes:
      pixels: the prepared images.
      cell: True inside the cell.
      clean: the run's own predictions for them.
      edge: kind of background.
      checksum: of the records.
      about: what every report must state.
    """

    pixels: UInt8[np.ndarray, "n s s 3"]
    cell: Bool[np.ndarray, "n s s"]
    clean: Predictions
    edge: Literal["black", "bright"]
    checksum: str
    about: About

    def backgrounds(self, wanted: str) -> tuple[Background, ...]:
        """Returns the kinds of background to measure: on bright fields there is only one."""
        if self.edge == "bright":
            return ("as_published",)
        both: tuple[Background, ...] = ("masked", "as_published")
        return both if wanted == "both" else tuple(kind for kind in both if kind == wanted)

    def take(self, rows: slice) -> "PartImages":
        """Returns these rows."""
        clean = self.clean.take(np.arange(len(self.clean))[rows])
        return dataclasses.replace(
            self, pixels=self.pixels[rows], cell=self.cell[rows], clean=clean
        )

    def distorted(self, case: Case) -> UInt8[np.ndarray, "n s s 3"]:
        """Returns the images of a case; they depend on the ids, not on order or batch."""
        if case.severity == 0:
            return self.pixels
        return distort(
            self.pixels,
            seeds_of(self.clean.id.tolist()),
            case.distortion,
            case.severity,
            edge=self.edge,
            background=case.background,
            cell=self.cell,
        )


def folder_of(run: Path, part: str) -> Path:
    """Returns the folder of a run's predictions under distortion."""
    return run / ("robustness" if part == "test" else f"robustness-{part}")


def make_cases(names: Sequence[str], backgrounds: Sequence[Background]) -> list[Case]:
    """Returns what is predicted, the clean images first.

    A distortion that ignores the background is measured once.
    """
    cases = [Case(backgrounds[0], CLEAN, 0)]
    for background in backgrounds:
        for name in names:
            if DISTORTIONS[name].masked or background == backgrounds[0]:
                cases += [Case(background, name, severity) for severity in SEVERITIES]
    return cases


def read_images(run: Path, part: str, overrides: Iterable[tuple[str, str]] = ()) -> PartImages:
    """Reads the images that a finished run was scored on.

    Raises:
      UserError: an unfinished run, changed data, or an override on which numbers depend.
    """
    config = config_of(run, overrides)
    folder = RunDir(run)
    table = folder.predictions(part)
    records = records_of(config)
    folder.check_same_data(
        records_sha256=records.checksum, classes=records.classes, image_size=records.image_size
    )
    if table.classes != records.classes:
        raise UserError(f"{run}/predictions/{part}.csv: has other classes than the data")
    row_of = {str(name): row for row, name in enumerate(records.manifest.id)}
    unknown = [str(name) for name in table.id if str(name) not in row_of]
    if unknown:
        raise UserError(f"{run}/predictions/{part}.csv: {unknown[0]} is not an image of the data")
    rows = np.array([row_of[str(name)] for name in table.id])
    manifest = records.manifest
    if not (
        np.array_equal(manifest.label[rows], table.labels)
        and np.array_equal(manifest.group[rows], table.group)
    ):
        raise UserError(f"{run}/predictions/{part}.csv: has other labels or groups than the data")
    pixels = records.images(rows)
    edge: Literal["black", "bright"] = "black" if records.background == "black" else "bright"
    about = About(
        data=records.name,
        part=part,
        classes=table.classes,
        positive=config.data.positive or records.positive,
        synthetic=records.synthetic,
        leaky=folder.is_leaky(),
        subjects_known=records.subjects_known,
        groups=config.split.groups,
    )
    cell = np.stack([foreground(image, edge) for image in pixels])
    return PartImages(pixels, cell, table, edge, records.checksum, about)


def predict(run: Path, images: PartImages, cases: Sequence[Case]) -> dict[Case, Path]:
    """Writes the predictions that do not exist yet, and returns the files of all cases.

    An access to the test part is recorded in the run's ledger.

    Raises:
      UserError: a run that cannot be loaded, or another process works in the folder.
    """
    part = images.about.part
    folder, first = RunDir(run).path(folder_of(run, part).name), cases[0].background
    paths = {case: case.path(folder, first) for case in cases}
    for path in paths.values():  # before anything is written or removed
        RunDir(folder).path(*path.relative_to(folder).parts)
    with RunDir(folder).lock():
        predictor = load(run)
        step = predictor.member.step
        _keep_or_remove(folder, step, images)
        missing = [case for case, path in paths.items() if not os.path.lexists(path)]
        if missing and part == "test":
            RunDir(run).record_test_access(step, by="robustness")
        for case in progress(missing, len(missing), f"distorting {run.name}", "sets"):
            probabilities = predictor.predict(images.distorted(case))
            dataclasses.replace(images.clean, probabilities=probabilities).write(paths[case])
    return paths


def config_of(run: Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the config of a finished run, with its data where the user says.

    Raises:
      UserError: no run, an unfinished one, an override on which numbers depend, or images in a
        folder that the user does not name.
    """
    folder = RunDir(run)
    folder.require("predictions/test.csv")
    return folder.config_with_data(overrides)


def read_case(images: PartImages, path: Path) -> Predictions:
    """Reads the predictions of a case, and checks that they are for the run's own images.

    Raises:
      UserError: they are damaged, or for other images.
    """
    table = predictions.read(path)
    predictions.check(path, table)
    clean = images.clean
    if table.classes != clean.classes or any(
        not np.array_equal(getattr(table, name), getattr(clean, name))
        for name in ("id", "group", "labels")
    ):
        raise UserError(f"{path}: is not for the images of the run; remove it and start again")
    return table


def _keep_or_remove(folder: Path, step: int, images: PartImages) -> None:
    """Removes predictions of another checkpoint, suite or data, so that they are never mixed."""
    ids = hashlib.sha256("\n".join(images.clean.id.tolist()).encode()).hexdigest()
    facts = {"suite": VERSION, "step": step, "records_sha256": images.checksum, "ids_sha256": ids}
    text = json.dumps(facts, indent=1) + "\n"
    with contextlib.suppress(OSError, ValueError):
        if storage.read_text(folder / "suite.json", 2**20) == text:
            return
    if (folder / "predictions").exists():
        logging.info("%s: of another checkpoint, suite or data; predicting again", folder)
        _remove_predictions(folder)
    RunDir(folder).write("suite.json", text)


def _remove_predictions(folder: Path) -> None:
    """Removes the files that a suite writes, and no others: the folder may be untrusted."""
    run = RunDir(folder)
    names = [f"{CLEAN}-0.csv"]
    names += [f"{name}-{severity}.csv" for name in DISTORTIONS for severity in SEVERITIES]
    for below in ((), ("masked",), ("as_published",)):
        subfolder = run.path("predictions", *below)
        for name in names:
            (subfolder / name).unlink(missing_ok=True)
