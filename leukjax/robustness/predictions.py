"""A trained run under the suite of distortions: its predictions on distorted images, as files.

``RUN/robustness/predictions/<distortion>-<severity>.csv`` in the ordinary format, ``clean-0.csv``
for the images as they are, and ``as_published/`` for the second kind of background. Each file is
there whole or not at all, so that a start after a kill goes on where it was.
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
from leukjax.data import datasets
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
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

CLEAN = "clean"
PARTS = ("val", "test")


@dataclasses.dataclass(frozen=True, order=True)
class Case:
    """One set of predictions: a distortion at a severity, on one kind of background."""

    background: Background
    distortion: str
    severity: int

    def path(self, folder: Path, first: Background) -> Path:
        """Its file below `folder`; those of the run's first kind of background lie on top."""
        name = f"{self.distortion}-{self.severity}.csv"
        where = folder / "predictions"
        return where / name if self.background == first else where / self.background / name


@dataclasses.dataclass(frozen=True)
class Material:
    """The images of one part of a run, and what is known of them."""

    images: UInt8[np.ndarray, "n s s 3"]
    cell: Bool[np.ndarray, "n s s"]
    table: Predictions  # the run's own, on the images as they are
    edge: Literal["black", "bright"]
    name: str
    synthetic: bool
    subjects_known: bool
    checksum: str
    positive: str
    leaky: bool

    def backgrounds(self, wanted: str) -> tuple[Background, ...]:
        """Which kinds of background are measured: on bright fields there is one only."""
        if self.edge == "bright":
            return ("as_published",)
        both: tuple[Background, ...] = ("masked", "as_published")
        return both if wanted == "both" else tuple(kind for kind in both if kind == wanted)


def folder_of(run: Path, part: str) -> Path:
    """Where a run's predictions under distortion lie."""
    return run / ("robustness" if part == "test" else f"robustness-{part}")


def cases(names: Sequence[str], backgrounds: Sequence[Background]) -> list[Case]:
    """What is predicted, the clean images first.

    Where a distortion ignores the background it is measured once.
    """
    wanted = [Case(backgrounds[0], CLEAN, 0)]
    for background in backgrounds:
        for name in names:
            if DISTORTIONS[name].masked or background == backgrounds[0]:
                wanted += [Case(background, name, severity) for severity in SEVERITIES]
    return wanted


def material(run: Path, part: str, overrides: Iterable[tuple[str, str]] = ()) -> Material:
    """The images that a finished run was scored on.

    Raises:
      UserError: an unfinished run, changed data, or an override that changes more than places.
    """
    config = config_of(run, overrides)
    folder = RunDir(run)
    table = folder.predictions(part)
    records = datasets.prepare(config.data)
    folder.check_same_data(
        records_sha256=records.checksum, classes=records.classes, image_size=records.image_size
    )
    if table.classes != records.classes:
        raise UserError(f"{run}/predictions/{part}.csv: has other classes than the data")
    row_of = {str(name): row for row, name in enumerate(records.manifest.id)}
    unknown = [str(name) for name in table.id if str(name) not in row_of]
    if unknown:
        raise UserError(f"{run}/predictions/{part}.csv: {unknown[0]} is no image of the data")
    rows = np.array([row_of[str(name)] for name in table.id])
    manifest = records.manifest
    if not (
        np.array_equal(manifest.label[rows], table.labels)
        and np.array_equal(manifest.group[rows], table.group)
    ):
        raise UserError(f"{run}/predictions/{part}.csv: has other labels or groups than the data")
    images = records.images(rows)
    edge: Literal["black", "bright"] = "black" if records.background == "black" else "bright"
    return Material(
        images=images,
        cell=np.stack([foreground(image, edge) for image in images]),
        table=table,
        edge=edge,
        name=records.name,
        synthetic=records.synthetic,
        subjects_known=records.subjects_known,
        checksum=records.checksum,
        positive=config.data.positive or records.positive,
        leaky=folder.data().get("protocol") == "image",
    )


def predict(run: Path, part: str, found: Material, wanted: Sequence[Case]) -> dict[Case, Path]:
    """Write the predictions that are not there yet; returns where all of them are.

    Opening the test part is noted in the run's ledger.

    Raises:
      UserError: no run that can be loaded; or another process is at it.
    """
    folder, first = RunDir(run).path(folder_of(run, part).name), wanted[0].background
    places = {case: case.path(folder, first) for case in wanted}
    for place in places.values():  # before anything is written or removed
        RunDir(folder).path(*place.relative_to(folder).parts)
    with RunDir(folder).lock():
        predictor = load(run)
        step = predictor.members[0].step
        _keep_or_drop(folder, step, found)
        missing = [case for case, place in places.items() if not os.path.lexists(place)]
        if missing and part == "test":
            RunDir(run).record_test_access(step, by="robustness")
        seeds = seeds_of(found.table.id.tolist())
        for case in progress(missing, len(missing), f"distorting {run.name}", "sets"):
            images = found.images
            if case.severity:
                images = distort(
                    images,
                    seeds,
                    case.distortion,
                    case.severity,
                    edge=found.edge,
                    background=case.background,
                    cell=found.cell,
                )
            answer = dataclasses.replace(found.table, probabilities=predictor.predict(images))
            answer.write(places[case])
    return places


def config_of(run: Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of a finished run, its data where the user says.

    Raises:
      UserError: no run, an unfinished one, an override that changes more than places, or images in
        a folder that the user does not name.
    """
    folder = RunDir(run)
    folder.require("predictions/test.csv")
    return folder.config_with_data(overrides)


def read_case(found: Material, path: Path) -> Predictions:
    """The predictions of a case, checked to be of the run's own images.

    Raises:
      UserError: they are damaged, or of other images.
    """
    table = predictions.read(path)
    predictions.check(path, table)
    ours = found.table
    if table.classes != ours.classes or any(
        not np.array_equal(getattr(table, name), getattr(ours, name))
        for name in ("id", "group", "labels")
    ):
        raise UserError(f"{path}: is not of the images of the run; remove it and start again")
    return table


def _keep_or_drop(folder: Path, step: int, found: Material) -> None:
    """Predictions of another checkpoint, suite or data are not mixed with new ones."""
    ids = hashlib.sha256("\n".join(found.table.id.tolist()).encode()).hexdigest()
    now = {"suite": VERSION, "step": step, "records_sha256": found.checksum, "ids_sha256": ids}
    path, text = folder / "suite.json", json.dumps(now, indent=1) + "\n"
    with contextlib.suppress(OSError, ValueError):
        if storage.read_text(path, 2**20) == text:
            return
    if (folder / "predictions").exists():
        logging.info("%s: of another checkpoint, suite or data; predicting again", folder)
        _remove_predictions(folder)
    write_atomic(path, text)


def _remove_predictions(folder: Path) -> None:
    """Remove the files that a suite writes, and no other: the folder may come from anyone."""
    run = RunDir(folder)
    names = [f"{CLEAN}-0.csv"]
    names += [f"{name}-{severity}.csv" for name in DISTORTIONS for severity in SEVERITIES]
    for below in ((), ("masked",), ("as_published",)):
        where = run.path("predictions", *below)
        for name in names:
            (where / name).unlink(missing_ok=True)
