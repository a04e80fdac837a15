"""The data of a training: prepared images, their split, and what is recorded of both."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax import distributed
from leukjax.data import datasets, duplicates, groups
from leukjax.data import split as data_split
from leukjax.data.loader import Batches, Images
from leukjax.data.manifest import Manifest
from leukjax.data.records import Records
from leukjax.data.source import INFO, Note
from leukjax.data.split import Split
from leukjax.errors import UserError
from leukjax.rundir import RunDir
from leukjax.training.python_parts import check_batch


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Prepared images and their split.

    Attributes:
      records: the prepared images.
      split: the split of each record.
      positive: the class that precision, recall and F1 describe; "" above two classes.
      config_fields: fields that describe a data set that was given in Python; None if it was made
        from the config.
    """

    records: Records
    split: Split
    positive: str
    config_fields: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, config: ConfigDict) -> "TrainingData":
        """Prepares and splits the data set of a config.

        Raises:
          UserError: what is wrong with the config or the data.
        """
        records = distributed.first(lambda: records_of(config))
        positive = config.data.positive or records.positive
        if positive and positive not in records.classes:
            raise UserError(
                f"--config.data.positive={positive}: no such class; "
                f"one of {', '.join(records.classes)}"
            )
        return cls(records, split_of(config, records), positive)

    @classmethod
    def from_subsets(
        cls, config: ConfigDict, train: Any = None, val: Any = None, test: Any = None
    ) -> "TrainingData":
        """Prepares the data set of some subsets; images of none of them are not used.

        Args:
          config: says how images are prepared.
          train: a `Subset`, or a `Dataset` for all of its images.
          val: validation images, of the same data set.
          test: test images, of the same data set.

        Raises:
          ValueError: they are of several data sets, share images or groups, or lack a class.
        """
        first = next(subset for subset in (train, val, test) if subset is not None)
        dataset = getattr(first, "dataset", first)
        records = dataset.prepare(
            config.data.image_size,
            crop=config.data.crop,
            denoise=config.data.denoise,
            cache_dir=config.data.cache_dir,
            threads=config.data.threads,
        )
        part = np.full(len(records.manifest), "", dtype="<U8")
        for name, subset in (("train", train), ("val", val), ("test", test)):
            if subset is None:
                continue
            if getattr(subset, "dataset", subset) is not dataset:
                raise ValueError(f"{name}: must be a subset of the same data set as the others")
            rows = subset.rows if hasattr(subset, "rows") else np.arange(len(part))
            if (part[rows] != "").any():
                raise ValueError(f"{name}: shares images with {part[rows][part[rows] != ''][0]}")
            part[rows] = name
        split = Split(part, "subject")
        _check_given(records.manifest, split, val is not None)
        name = dataset.name if dataset.name in datasets.list_datasets() else datasets.CUSTOM
        fields = {**dataset.config_fields, "data.name": name}
        return cls(records, split, records.positive, fields)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; labels index them."""
        return self.records.classes

    def rows(self, split: str) -> np.ndarray:
        """Rows of the records that belong to "train", "val", "test" or "held_out"."""
        return self.split.rows(split)

    def rows_by_split(self) -> dict[str, np.ndarray]:
        """The rows of every split, empty ones included."""
        return {name: self.rows(name) for name in (*data_split.PARTS, data_split.HELD_OUT)}

    def facts(self) -> dict[str, Any]:
        """What makes the data of a run, for the comparison at resume and for readers."""
        manifest = self.records.manifest
        return {
            "images": len(manifest),
            "subjects": len(set(manifest.subject.tolist())),
            "groups": len(set(manifest.group.tolist())),
            "classes": list(self.classes),
            "protocol": self.split.protocol,
            "records_sha256": self.records.checksum,
            "split_sha256": data_split.checksum(manifest, self._compared_split()),
        }

    def _compared_split(self) -> Split:
        """The split that must not change: `fit` may be given test images after the training."""
        if self.config_fields is None:
            return self.split
        part = np.where(self.split.part == "test", "", self.split.part)
        return dataclasses.replace(self.split, part=part)

    def write(self, folder: Path) -> None:
        """Writes the tables of the data into a work directory, and logs every note on them."""
        manifest = self.records.manifest
        pairs = duplicates.identical_pairs(manifest) + duplicates.near_duplicates(manifest)
        log_notes(self.records, self.split, duplicates.describe(manifest, pairs))
        if jax.process_index() == 0:
            data_split.save_csv(manifest, self.split, folder / "split.csv")
            duplicates.save_csv(manifest, pairs, folder / "duplicates.csv")
            if self.records.attributes:
                self.records.save_attributes(folder / "attributes.csv")
            if self.records.skipped:
                self.records.save_skipped(folder / "skipped.csv")


def log_notes(records: Records, split: Split, on_duplicates: Sequence[Note] = ()) -> None:
    """Logs what is known of the images, and the size of each part."""
    notes = [*records.notes, *on_duplicates, *split.notes]
    if records.skipped:
        left_out = f"{len(records.skipped)} images were left out: see skipped.csv"
        notes.append(Note(INFO, left_out))
    for note in notes:
        note.log()
    for row in data_split.shares(records.manifest, split):
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


class GivenBatches:
    """Training batches that were given in Python, in place of `Batches`.

    Attributes:
      steps_per_epoch: as given.
    """

    def __init__(
        self,
        batches: Iterable[Any] | Callable[[int], Iterable[Any]],
        steps_per_epoch: int,
        image_size: int,
        num_classes: int,
        devices: int,
    ) -> None:
        """Nothing is read.

        Args:
          batches: dictionaries with ``image`` uint8[b, s, s, 3] and ``label`` int[b], the same at
            every start; or a function of the first step, which a resumed run needs to be quick.
          steps_per_epoch: batches that count as an epoch.
          image_size: pixels per side.
          num_classes: labels are below it.
          devices: the length of a batch is a multiple of it.
        """
        self._batches, self.steps_per_epoch = batches, steps_per_epoch
        self._expected = (image_size, num_classes, devices)

    def iterate(self, start: int, stop: int, *, images: bool = True) -> Iterator[dict[str, Any]]:
        """Yields the batches of the steps from `start` to before `stop`.

        Raises:
          ValueError: there are too few, or one lacks a field.
        """
        del images  # they always bring them
        if callable(self._batches):
            source = iter(self._batches(start))
        else:
            source = itertools.islice(iter(self._batches), start, None)
        for step in range(start, stop):
            batch = next(source, None)
            if batch is None:
                raise ValueError(f"train: ended after {step} batches, and the run needs {stop}")
            if isinstance(batch, Mapping):
                batch = {name: np.asarray(value) for name, value in batch.items()}
            check_batch(batch, *self._expected, name=f"train: batch {step}")
            yield {"image": batch["image"], "label": batch["label"].astype(np.int32)}


def _check_given(manifest: Manifest, split: Split, is_run: bool) -> None:
    """Raises ValueError if subsets share a group, or if one of a run's lacks a class."""
    crossing = data_split.crossing_groups(manifest, split)
    if crossing:
        used = np.isin(manifest.group, crossing[:1])
        parts = " and ".join(sorted(set(split.part[used].tolist()) - {""}))
        raise ValueError(
            f"{len(crossing):,} groups are in two subsets, as {crossing[0]!r} in {parts}: scores "
            "would be too high. Split with lj.split_by_group"
        )
    for name in ("train", "val", "test") if is_run else ():
        labels = manifest.label[split.part == name]
        if (labels < 0).any():
            raise ValueError(f"{name}: has images without a label")
        lacking = sorted(set(range(len(manifest.classes))) - set(labels.tolist()))
        if not len(labels) or not lacking:
            continue
        named = ", ".join(repr(manifest.classes[label]) for label in lacking)
        if len(manifest.classes) == 2:
            raise ValueError(
                f"{name}: has no image of the class {named}, so scores by class are undefined; "
                "take another seed of the split, or more data"
            )
        logging.warning("%s: has no image of %s", name, named)


def records_of(config: ConfigDict) -> Records:
    """The prepared images of a config, with the groups that it asks for."""
    return groups.regrouped(datasets.prepare(config.data), config.split.groups)


def split_of(config: ConfigDict, records: Records) -> Split:
    """The split that a config asks for, of what `records_of` returns."""
    options, sources = config.split, records.attributes.get("source", {})
    split = data_split.make_split(
        records.manifest,
        options.protocol,
        options.seed,
        options.folds,
        options.fold,
        options.held_out,
        official_parts=records.official_parts,
        file=options.file,
        crossing=options.crossing,
        sources=sources,
    )
    return groups.with_embargo(records.manifest, split, options.groups, sources)


def split_of_run(run: RunDir, records: Records) -> Split:
    """The split that a finished run records in its split.csv.

    Raises:
      UserError: the file is damaged, or the images are not those of the run.
    """
    parts = run.split()
    manifest, data = records.manifest, run.data()
    part = np.array([parts.get(name, ("",) * 4)[3] for name in manifest.id.tolist()], "<U8")
    split = Split(part, data.get("protocol", ""))
    run.check_same_data(
        records_sha256=records.checksum,
        split_sha256=data_split.checksum(manifest, split),
        classes=records.classes,
        image_size=records.image_size,
    )
    return split


def make_batches(
    config: ConfigDict, images: Images, rows: np.ndarray, batch_size: int, *, training: bool
) -> Batches:
    """The batches of some rows for this process, as the config says."""
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
