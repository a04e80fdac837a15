"""A finished run's best epoch, once more on some part of its split."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import runtime
from leukjax.apply import model as applied
from leukjax.data import records as data_records
from leukjax.data import split as data_split
from leukjax.errors import UserError
from leukjax.metrics.predictions import Predictions
from leukjax.storage import read_text
from leukjax.train import finish
from leukjax.train.run import split_of

# Fields that a run's own config may be changed in: where its data lie, how they are read.
_FREE = ("data.root", "data.cache_dir", "data.threads", "runtime.compilation_cache")


def config_of(folder: Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """The config of a finished run.

    Raises:
      UserError: there is no run, it is not finished, its config is not of this version, or a field
        is to be changed that numbers depend on.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder}: holds no run; give the folder of a finished run")
    if not (folder / "summary.json").exists():
        raise UserError(f"--workdir={folder}: the run is not finished; start it again to go on")
    try:
        config = ConfigDict(json.loads(read_text(folder / "config.json")))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: cannot be read ({error})") from error
    for field, value in overrides:
        if field not in _FREE:
            raise UserError(
                f"--config.{field}: the config is that of the run; what may change: "
                f"{', '.join(_FREE)}"
            )
        configs.set_field(config, field, value)
    configs.check(config)
    return config


def predict_again(
    folder: Path,
    part: str,
    *,
    tta: bool = False,
    by: str = "",
    overrides: Sequence[tuple[str, str]] = (),
) -> Predictions:
    """The best epoch of a finished run on a part of its split.

    Args:
      folder: the work directory.
      part: "val", "test" or "held_out"; an opening of test is noted before it is read.
      tta: mean probability over the eight dihedral views of each image.
      by: who opens test, for the run's ledger.
      overrides: changes of where the data lie.

    Raises:
      UserError: no finished run, other images than it was trained with, or an empty part.
    """
    config = config_of(folder, overrides)
    runtime.start(config)
    records = _records(config.data.to_json())
    split = split_of(config, records)
    facts = json.loads(read_text(folder / "data.json"))
    ours = {
        "records_sha256": records.checksum,
        "split_sha256": data_split.checksum(records.manifest, split),
    }
    for name, checksum in ours.items():
        if facts[name] != checksum:
            raise UserError(
                f"--workdir={folder}: the run had other data or another split ({name} differs); "
                "give the same images by --config.data.root"
            )
    rows = split.rows(part)
    if not len(rows):
        raise UserError(f"--workdir={folder}: its split has no part {part}")
    batch_size = config.train.eval_batch_size or config.train.batch_size
    model = applied.load(folder, tta=tta, batch_size=batch_size)
    assert isinstance(model, applied.Model)  # one folder, one model
    if part == "test":
        finish.note_opening(folder, model.step, by=by)
    manifest = records.manifest
    return Predictions(
        classes=records.classes,
        id=manifest.id[rows],
        subject=manifest.subject[rows],
        group=manifest.group[rows],
        labels=manifest.label[rows],
        probabilities=model.predict(records.images(rows)),
    )


@functools.lru_cache(maxsize=1)
def _records(data: str) -> data_records.Records:
    """The records of a config's data section; members of an ensemble share them."""
    return data_records.prepare(ConfigDict(json.loads(data)))


def mean(members: Sequence[Predictions]) -> Predictions:
    """The mean probability of several models of the same images.

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
    stacked = np.stack([member.probabilities for member in members])
    average = np.asarray(stacked.mean(axis=0, dtype=np.float64), np.float32)
    return dataclasses.replace(first, probabilities=average)
