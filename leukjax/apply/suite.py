"""A trained run under the suite of distortions: its predictions on distorted images, as files.

``RUN/robustness/predictions/<distortion>-<severity>.csv`` in the ordinary format, ``clean-0.csv``
for the images as they are, and ``as_published/`` for the second kind of background. Each file is
there whole or not at all, so that a start after a kill goes on where it was.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.apply import model as models
from leukjax.data import records as data_records
from leukjax.data.measure import foreground
from leukjax.data.progress import progress
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
from leukjax.storage import read_text, write_atomic
from leukjax.train import finish, workdir

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
    if not (run / "predictions" / f"{part}.csv").is_file():
        raise UserError(
            f"{run}: has no predictions/{part}.csv; train to the end: python -m leukjax.main …"
        )
    table = predictions.read(run / "predictions" / f"{part}.csv")
    records = data_records.prepare(config.data)
    facts = _facts(run, records)
    row_of = {str(name): row for row, name in enumerate(records.manifest.id)}
    unknown = [str(name) for name in table.id if str(name) not in row_of]
    if unknown:
        raise UserError(f"{run}/predictions/{part}.csv: {unknown[0]} is no image of the data")
    images = records.images(np.array([row_of[str(name)] for name in table.id]))
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
        leaky=facts["protocol"] == "image",
    )


def predict(run: Path, part: str, found: Material, wanted: Sequence[Case]) -> dict[Case, Path]:
    """Write the predictions that are not there yet; returns where all of them are.

    Opening the test part is noted in the run's ledger.

    Raises:
      UserError: no run that can be loaded; or another process is at it.
    """
    folder, first = folder_of(run, part), wanted[0].background
    places = {case: case.path(folder, first) for case in wanted}
    with workdir.locked(folder):
        model = models.load(run)
        assert isinstance(model, models.Model)
        _keep_or_drop(folder, model.step, found)
        missing = [case for case, place in places.items() if not place.exists()]
        if missing and part == "test":
            finish.note_opening(run, model.step, by="robustness")
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
            answer = dataclasses.replace(found.table, probabilities=model.predict(images))
            answer.write(places[case])
    return places


def config_of(run: Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of a run, its data perhaps in another place.

    Raises:
      UserError: no run, or an override that changes more than places.
    """
    try:
        config = ConfigDict(json.loads(read_text(run / "config.json")))
    except FileNotFoundError as error:
        raise UserError(f"--workdir={run}: holds no run (no config.json)") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{run}/config.json: cannot be read ({error}); copy the run anew") from (
            error
        )
    for field, value in overrides:
        if field not in configs.FREE_TO_CHANGE or not field.startswith("data."):
            raise UserError(
                f"--config.{field}: a finished run keeps its config; only places and threads of "
                "the data may differ, as in --config.data.root=FOLDER"
            )
        configs.set_field(config, field, value)
    return config


def _facts(run: Path, records: data_records.Records) -> dict[str, Any]:
    """``data.json`` of a run, whose images must be those that are there now."""
    try:
        facts = json.loads(read_text(run / "data.json"))
        before, _ = facts["records_sha256"], facts["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run}/data.json: cannot be read ({error}); copy the run anew") from error
    if before != records.checksum:
        raise UserError(
            f"{run}: was trained on other images than those there now (records_sha256 differs); "
            "bring the data back, or train again"
        )
    return facts


def _keep_or_drop(folder: Path, step: int, found: Material) -> None:
    """Predictions of another checkpoint, suite or data are not mixed with new ones."""
    ids = hashlib.sha256("\n".join(found.table.id.tolist()).encode()).hexdigest()
    now = {"suite": VERSION, "step": step, "records_sha256": found.checksum, "ids_sha256": ids}
    path = folder / "suite.json"
    if path.exists() and read_text(path) == json.dumps(now, indent=1) + "\n":
        return
    if (folder / "predictions").exists():
        logging.info("%s: of another checkpoint, suite or data; predicting anew", folder)
        shutil.rmtree(folder / "predictions")
    write_atomic(path, json.dumps(now, indent=1) + "\n")
