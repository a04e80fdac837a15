"""The data of a training: prepared images, their split, and what is recorded of both."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax import distributed
from leukjax.data import datasets, duplicates
from leukjax.data import split as data_split
from leukjax.data.loader import Batches, Images
from leukjax.data.records import Records
from leukjax.data.source import INFO, WARNING, Note
from leukjax.data.split import Split
from leukjax.errors import UserError


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
        records = distributed.first(lambda: datasets.prepare(config.data))
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
          ValueError: they are of several data sets, or share images.
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
        used = part != ""
        pairs = set(zip(records.manifest.group[used].tolist(), part[used].tolist(), strict=True))
        is_leaky = len(pairs) > len({group for group, _ in pairs})
        notes = (Note(WARNING, "a group is in more than one split: scores are too good"),)
        split = Split(part, "image" if is_leaky else "subject", notes * is_leaky, is_leaky)
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
            "split_sha256": data_split.checksum(manifest, self.split),
        }

    def write(self, folder: Path) -> None:
        """Writes the tables of the data into a work directory, and logs every note on them."""
        manifest = self.records.manifest
        pairs = duplicates.identical_pairs(manifest) + duplicates.near_duplicates(manifest)
        self._log_notes(duplicates.describe(manifest, pairs))
        if jax.process_index() == 0:
            data_split.save_csv(manifest, self.split, folder / "split.csv")
            duplicates.save_csv(manifest, pairs, folder / "duplicates.csv")
            if self.records.skipped:
                self.records.save_skipped(folder / "skipped.csv")

    def _log_notes(self, on_duplicates: list[Note]) -> None:
        notes = [*self.records.notes, *on_duplicates, *self.split.notes]
        if self.records.skipped:
            left_out = f"{len(self.records.skipped)} images were left out: see skipped.csv"
            notes.append(Note(INFO, left_out))
        for note in notes:
            note.log()
        for row in data_split.shares(self.records.manifest, self.split):
            if not row["class"]:
                logging.info(
                    "split %s: %s has %d images (%.1f %%) of %d groups (%.1f %%)",
                    self.split.protocol,
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
        self, batches: Iterable[Any] | Callable[[int], Iterable[Any]], steps_per_epoch: int
    ) -> None:
        """Nothing is read.

        Args:
          batches: dictionaries with ``image`` uint8[b, s, s, 3] and ``label`` int[b], the same at
            every start; or a function of the first step, which a resumed run needs to be quick.
          steps_per_epoch: batches that count as an epoch.
        """
        self._batches, self.steps_per_epoch = batches, steps_per_epoch

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
            if not {"image", "label"} <= set(batch):
                raise ValueError(f"train: batch {step} needs the fields image and label")
            label = np.asarray(batch["label"], np.int32)
            yield {"image": np.asarray(batch["image"], np.uint8), "label": label}


def split_of(config: ConfigDict, records: Records) -> Split:
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
