"""A config becomes a run: data, split, model, state and steps, ready for the loop."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import distributed, runtime, sharding
from leukjax.data import datasets, duplicates
from leukjax.data import records as data_records
from leukjax.data import split as data_split
from leukjax.data.loader import Batches, Images
from leukjax.data.source import INFO, Note
from leukjax.errors import UserError
from leukjax.models.summary import Summary, table
from leukjax.storage import write_atomic
from leukjax.training import pretrained as initial
from leukjax.training import state as states
from leukjax.training import workdir
from leukjax.training.compiled_functions import make_module, programs
from leukjax.training.data_placement import Residence, settle
from leukjax.training.fine_tuning import FineTuning
from leukjax.training.hyperparameters import make_settings, step_options, warn
from leukjax.training.step import EvalStep, TrainStep


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that training needs, built once."""

    config: ConfigDict
    workdir: Path
    records: data_records.Records
    split: data_split.Split
    rows: dict[str, np.ndarray]  # part -> rows of the records
    positive: str
    module: nn.Module
    mesh: Mesh
    residence: Residence
    train_batches: Batches
    initial: initial.Initial
    init: Callable[[states.Settings], states.TrainState]
    settings: states.Settings
    form: states.TrainState  # shapes, dtypes and shardings of the state; no arrays
    train_steps: dict[int, TrainStep]  # number of steps a call -> the compiled function
    eval_step: EvalStep
    total_steps: int
    steps_per_epoch: int
    summary: Summary

    def fresh_state(self) -> states.TrainState:
        """The state that the run starts from: random, or with the values of `init.weights`.

        The caller owns it: the run keeps no state, so that a restored one has the devices' memory
        to itself.
        """
        return self.initial.place(self.init(self.settings))

    @property
    def training_flops(self) -> float:
        """FLOPs of a training step an image: forward, and twice that backward."""
        return 3.0 * self.summary.flops

    def steps(self, field: str) -> int:
        """A duration field of the config in steps, at least 1."""
        section, name = field.split(".")
        return max(1, self._duration(self.config[section][name], field))

    def _duration(self, text: str, field: str) -> int:
        return configs.steps(
            text,
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.config.train.batch_size,
            field=field,
        )

    def eval_batches(self, part: str) -> Batches:
        """All images of a part, once each, in the order of the records."""
        size = self.config.train.eval_batch_size or self.config.train.batch_size
        images, rows = self.residence.images, self.rows[part]
        return make_batches(self.config, images, rows, size, training=False)


def assemble(config: ConfigDict, folder: Path) -> tuple[Run, bool]:
    """Prepare the data, split it, claim the work directory, build model, state and steps.

    Returns:
      The run, and whether the work directory holds an earlier start of it.

    Raises:
      UserError: whatever in config, data or folder stands against it; nothing is half-written.
    """
    runtime.log_start()
    mesh = sharding.make_mesh(config.mesh, config.train.batch_size)
    _check_eval_batch(config, mesh)
    records = distributed.first(lambda: datasets.prepare(config.data))
    split = split_of(config, records)
    rows = {part: split.rows(part) for part in (*data_split.PARTS, data_split.HELD_OUT)}
    positive = _positive(config, records)
    residence = settle(config, records, mesh)
    train_batches = make_batches(
        config, residence.images, rows["train"], config.train.batch_size, training=True
    )
    per_epoch = train_batches.steps_per_epoch
    total = max(1, round(config.train.epochs * per_epoch))
    module = make_module(config, len(records.classes), jax.default_backend())
    summary = table(module, config.data.image_size)
    logging.info("%s\n", summary.text())
    start = initial.find(config, module, records.classes, folder)
    _check_fine_tuning(config, module)
    settings = make_settings(config, records, rows["train"], per_epoch, total, start.statistics())
    warn(config, settings)
    # All that can be wrong with config and data is known here; from now on files are written.
    facts = _facts(records, split) | ({"init": dict(start.facts)} if start.facts else {})
    numerics = runtime.chosen_numerics()
    facts |= {"numerics": numerics} if numerics else {}
    distributed.check_same(facts, "the prepared data")
    resumed = distributed.from_first(lambda: workdir.claim(folder, config, facts))
    _write_and_say(folder, records, split)
    if start.mapped is not None and jax.process_index() == 0:
        write_atomic(folder / "weights.csv", start.mapped.csv())

    options = step_options(config, records.background)
    compiled = programs(module, config, options, settings, mesh, residence.sharding)
    run = Run(
        config=config,
        workdir=folder,
        records=records,
        split=split,
        rows=rows,
        positive=positive,
        module=module,
        mesh=mesh,
        residence=residence,
        train_batches=train_batches,
        initial=start,
        init=compiled.init,
        settings=jax.device_get(settings),  # the state's own copy is donated by the first step
        form=compiled.form,
        train_steps=compiled.train_steps,
        eval_step=compiled.eval_step,
        total_steps=total,
        steps_per_epoch=per_epoch,
        summary=summary,
    )
    return run, resumed


def _check_eval_batch(config: ConfigDict, mesh: Mesh) -> None:
    size, devices = config.train.eval_batch_size, mesh.shape["data"]
    if size % devices:
        raise UserError(
            f"--config.train.eval_batch_size={size}: not divisible by the {devices} devices of the "
            "mesh's data axis; change it, or leave it at 0 for train.batch_size"
        )


def _check_fine_tuning(config: ConfigDict, module: nn.Module) -> None:
    fine_tuning = FineTuning.of(config.optimizer)
    if fine_tuning.freezes:
        shapes = initial.shapes(module, config.data.image_size)
        logging.info("%s", fine_tuning.check(shapes["params"]))


def split_of(config: ConfigDict, records: data_records.Records) -> data_split.Split:
    """The split that a config asks for."""
    options = config.split
    return data_split.make_split(
        records.manifest,
        options.protocol,
        options.seed,
        options.folds,
        options.fold,
        options.held_out,
        official_parts=records.official_parts,
    )


def make_batches(
    config: ConfigDict,
    images: Images,
    rows: np.ndarray,
    batch_size: int,
    *,
    training: bool,
) -> Batches:
    """The batches of some rows, as the config has them, for this process."""
    return Batches(
        images,
        rows,
        batch_size,
        seed=config.seed,
        training=training,
        sampling=config.data.sampling if training else "as_is",
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
    )


def _positive(config: ConfigDict, records: data_records.Records) -> str:
    chosen = config.data.positive or records.positive
    if chosen and chosen not in records.classes:
        raise UserError(
            f"--config.data.positive={chosen}: no such class; one of {', '.join(records.classes)}"
        )
    return chosen


def _facts(records: data_records.Records, split: data_split.Split) -> dict[str, Any]:
    """What makes the data of a run, for the comparison at resume and for the reader."""
    manifest = records.manifest
    return {
        "images": len(manifest),
        "subjects": len(set(manifest.subject.tolist())),
        "groups": len(set(manifest.group.tolist())),
        "classes": list(records.classes),
        "protocol": split.protocol,
        "records_sha256": records.checksum,
        "split_sha256": data_split.checksum(manifest, split),
    }


def _write_and_say(folder: Path, records: data_records.Records, split: data_split.Split) -> None:
    """The tables of the data in the work directory, and every note on them in the log."""
    manifest = records.manifest
    pairs = duplicates.identical_pairs(manifest) + duplicates.near_duplicates(manifest)
    notes = [*records.notes, *duplicates.describe(manifest, pairs), *split.notes]
    if records.skipped:
        notes.append(Note(INFO, f"{len(records.skipped)} images were left out: see skipped.csv"))
    for note in notes:
        note.log()
    for row in data_split.shares(manifest, split):
        if not row["class"]:
            logging.info(
                "split %s: %s has %d images (%.1f %%) of %d groups (%.1f %%)",
                split.protocol,
                row["part"],
                row["images"],
                100 * float(row["image_share"]),
                row["groups"],
                100 * float(row["group_share"]),
            )
    if jax.process_index() == 0:
        data_split.save_csv(manifest, split, folder / "split.csv")
        duplicates.save_csv(manifest, pairs, folder / "duplicates.csv")
        if records.skipped:
            records.save_skipped(folder / "skipped.csv")
