"""Predicts a part of a finished run's split again, with the best checkpoint."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from leukjax import runtime
from leukjax.data import datasets, groups
from leukjax.data import records as data_records
from leukjax.errors import UserError
from leukjax.metrics import predictions as tables
from leukjax.metrics.predictions import Predictions
from leukjax.predict.predictor import load
from leukjax.rundir import RunDir
from leukjax.training.training_data import split_of_run

_MAX_BATCH_BYTES = 2**26  # of a batch of a finished run, whatever its config says


def predict_again(
    folder: Path,
    part: str,
    *,
    tta: bool = False,
    by: str = "",
    overrides: Sequence[tuple[str, Any]] = (),
) -> Predictions:
    """Predicts a part of a finished run's split with its best checkpoint.

    Args:
      folder: the work directory.
      part: "val", "test" or "held_out"; an access to test is recorded before it is read.
      tta: average over the eight rotated and mirrored views of each image.
      by: the command that accesses test, for the run's ledger.
      overrides: where the data are now, for instance ``data.root``.

    Raises:
      UserError: no finished run, other images than it was trained with, or an empty part.
    """
    run = RunDir(folder)
    config = finished(folder, overrides)
    runtime.start(config)
    records = groups.regrouped(_records(config.data.to_json()), config.split.groups)
    split = split_of_run(run, records)
    rows = split.rows(part)
    if not len(rows):
        raise UserError(f"{folder}: its split has no part {part}")
    predictor = load(folder, tta=tta, batch_size=batch_size_of(config))
    if part == "test":
        run.record_test_access(predictor.members[0].step, by=by)
    manifest = records.manifest
    return Predictions(
        classes=records.classes,
        id=manifest.id[rows],
        subject=manifest.subject[rows],
        group=manifest.group[rows],
        labels=manifest.label[rows],
        probabilities=predictor.predict_records([records], rows),
    )


def finished(folder: Path, overrides: Sequence[tuple[str, Any]] = ()) -> ConfigDict:
    """Returns the config of a finished run whose images are to be read.

    Raises:
      UserError: no run, an unfinished one, an override on which numbers depend, or images in a
        folder that the user does not name.
    """
    run = RunDir(folder)
    run.require("summary.json")
    return run.config_with_data(overrides)


def batch_size_of(config: ConfigDict) -> int:
    """Returns the batch size of the run's own evaluation, bounded by memory."""
    wanted = config.train.eval_batch_size or config.train.batch_size
    return max(1, min(wanted, _MAX_BATCH_BYTES // (config.data.image_size**2 * 3)))


@functools.lru_cache(maxsize=1)
def _records(data: str) -> data_records.Records:
    """The records of a config's data section; members of an ensemble share them."""
    return datasets.prepare(ConfigDict(json.loads(data)))


def mean(members: Sequence[Predictions]) -> Predictions:
    """Averages the probabilities of several models for the same images.

    Raises:
      UserError: they have other classes, or are not of the same images in the same order.
    """
    first = members[0]
    for other in members[1:]:
        if other.classes != first.classes:
            raise UserError(
                f"members of an ensemble must have the same classes in the same order; one has "
                f"{', '.join(first.classes)}, another {', '.join(other.classes)}"
            )
        same = len(other) == len(first) and bool((other.id == first.id).all())
        if not same or not (other.labels == first.labels).all():
            raise UserError(
                "members of an ensemble must be scored on the same images; these have other "
                "splits or other data (folds of a cross-validation: its held-out part is scored "
                "by leukjax.crossval)"
            )
    average = tables.mean([member.probabilities for member in members])
    return dataclasses.replace(first, probabilities=average)
