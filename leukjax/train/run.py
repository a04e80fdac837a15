"""A config becomes a run: data, split, model, state and steps, ready for the loop."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import models, runtime, sharding
from leukjax.data import duplicates
from leukjax.data import records as data_records
from leukjax.data import split as data_split
from leukjax.data.batches import Batches
from leukjax.data.measure import foreground
from leukjax.errors import UserError
from leukjax.images.augment import AugmentOptions
from leukjax.images.normalize import foreground_statistics
from leukjax.models.summary import Summary, table
from leukjax.train import optimizer, together, workdir
from leukjax.train import state as states
from leukjax.train.loss import LossOptions
from leukjax.train.step import EvalStep, StepOptions, TrainStep, make_eval_step, make_train_step


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
    train_batches: Batches
    state: states.TrainState
    train_step: TrainStep
    eval_step: EvalStep
    total_steps: int
    steps_per_epoch: int
    summary: Summary

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
        return make_batches(self.config, self.records, self.rows[part], size, training=False)


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
    records = together.first(lambda: data_records.prepare(config.data))
    split = data_split.make_split(
        records.manifest,
        config.split.protocol,
        config.split.seed,
        config.split.folds,
        config.split.fold,
    )
    rows = {part: split.rows(part) for part in data_split.PARTS}
    positive = _positive(config, records)
    train_batches = make_batches(
        config, records, rows["train"], config.train.batch_size, training=True
    )
    per_epoch = train_batches.steps_per_epoch
    total = max(1, round(config.train.epochs * per_epoch))
    module = models.create(
        config.model.name,
        len(records.classes),
        dtype=runtime.compute_dtype(config.compute_dtype),
        **{name: config.model[name] for name in config.model if name != "name"},
    )
    summary = table(module, config.data.image_size)
    logging.info("%s\n", summary.text())
    settings = make_settings(config, records, rows["train"], per_epoch, total)
    # All that can be wrong with config and data is known here; from now on files are written.
    facts = _facts(records, split)
    together.check_same(facts, "the prepared data")
    resumed = together.from_first(lambda: workdir.claim(folder, config, facts))
    _write_and_say(folder, records, split)

    transform = optimizer.make_transform(config.optimizer)
    init, shardings = states.make_init(
        module,
        transform,
        settings,
        image_size=config.data.image_size,
        ema=config.train.ema_decay > 0,
        mesh=mesh,
        rules=sharding.rules(config.mesh),
    )
    options = step_options(config, records.background)
    run = Run(
        config=config,
        workdir=folder,
        records=records,
        split=split,
        rows=rows,
        positive=positive,
        module=module,
        mesh=mesh,
        train_batches=train_batches,
        state=init(settings),
        train_step=make_train_step(module, transform, options, mesh, shardings),
        eval_step=make_eval_step(module, mesh, shardings),
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


def make_batches(
    config: ConfigDict,
    records: data_records.Records,
    rows: np.ndarray,
    batch_size: int,
    *,
    training: bool,
) -> Batches:
    """The batches of some rows, as the config has them, for this process."""
    return Batches(
        records,
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


def step_options(config: ConfigDict, background: str) -> StepOptions:
    """What of the config is compiled into the step."""
    return StepOptions(
        augment=AugmentOptions(
            **config.augment.to_dict(),
            background="black" if background == "black" else "edge",
        ),
        loss=LossOptions(config.loss.name, config.loss.label_smoothing, config.loss.focal_gamma),
        schedule=config.optimizer.schedule,
        final=config.optimizer.final,
        step_factor=config.optimizer.step_factor,
        accumulate=config.train.accumulate,
        ema_decay=config.train.ema_decay,
    )


def make_settings(
    config: ConfigDict,
    records: data_records.Records,
    rows: np.ndarray,
    steps_per_epoch: int,
    total_steps: int,
) -> states.Settings:
    """What of the config and the training part enters the step as values."""

    def steps(field: str) -> float:
        section, name = field.split(".")
        return float(
            configs.steps(
                config[section][name],
                steps_per_epoch=steps_per_epoch,
                batch_size=config.train.batch_size,
                field=field,
            )
        )

    mean, std = together.from_first(lambda: _statistics(config, records, rows))
    labels = records.manifest.label[rows]
    return states.Settings(
        seed=jnp.uint32(config.seed),
        mean=jnp.asarray(mean, jnp.float32),
        std=jnp.asarray(std, jnp.float32),
        class_weights=jnp.asarray(
            _class_weights(config.loss.class_weights, labels, records.classes), jnp.float32
        ),
        learning_rate=jnp.float32(config.optimizer.learning_rate),
        total_steps=jnp.float32(total_steps),
        warmup_steps=jnp.float32(steps("optimizer.warmup")),
        step_every=jnp.float32(max(1.0, steps("optimizer.step_every"))),
    )


def _statistics(
    config: ConfigDict, records: data_records.Records, rows: np.ndarray
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each colour, given or fitted on the training part."""
    given = {name: config.data[name] for name in ("mean", "std") if config.data[name] != "fit"}
    values = {name: _three(text, f"data.{name}") for name, text in given.items()}
    if "std" in values and not all(value > 0 for value in values["std"]):
        raise UserError(f"--config.data.std={config.data.std}: must be above 0")
    if len(values) < 2:
        chunks = np.array_split(rows, -(-len(rows) // 256))
        images = (image for chunk in chunks for image in records.images(chunk))
        rule = functools.partial(foreground, background=records.background)
        mean, std = foreground_statistics(images, rule)
        values = {"mean": mean, "std": std} | values
    mean, std = values["mean"], values["std"]
    logging.info("mean %s, standard deviation %s", np.round(mean, 4), np.round(std, 4))
    return [float(value) for value in mean], [float(value) for value in std]


def _three(text: str, field: str) -> np.ndarray:
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        values = np.zeros(0)
    if len(values) != 3 or not np.all((values >= 0) & (values <= 1)):
        raise UserError(f"--config.{field}={text}: must be 'fit' or three numbers in [0, 1]: r,g,b")
    return values


def _class_weights(text: str, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Weights with mean 1 over the classes; "balanced" is the inverse of the class counts."""
    if text == "none":
        return np.ones(len(classes))
    if text == "balanced":
        weights = 1.0 / np.bincount(labels, minlength=len(classes))
    else:
        try:
            weights = np.array([float(part) for part in text.split(",")])
        except ValueError:
            weights = np.zeros(0)
        if len(weights) != len(classes) or not np.all(weights > 0):
            raise UserError(
                f"--config.loss.class_weights={text}: must be none, balanced, or "
                f"{len(classes)} numbers above 0, for {', '.join(classes)}"
            )
    return weights / weights.mean()


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
        notes.append(f"{len(records.skipped)} images were left out: see skipped.csv")
    for note in notes:
        if note.startswith("WARNING: "):
            logging.warning("%s", note.removeprefix("WARNING: "))
        else:
            logging.info("%s", note)
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
