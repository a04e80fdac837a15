"""`Predictor`: one trained run, or an ensemble of several, ready to classify images."""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from absl import logging
from flax import linen as nn
from jaxtyping import Float, Float32, Int, UInt8

from leukjax.data import archive, image_limits
from leukjax.data import class_map as maps
from leukjax.data.class_map import ClassMap
from leukjax.data.dataset import Dataset, Subset
from leukjax.data.decode import MIN_SIDE, decode
from leukjax.data.parallel import map_in_order
from leukjax.data.records import Records
from leukjax.errors import UserError
from leukjax.metrics import thresholds
from leukjax.metrics.evaluation import Evaluation, score
from leukjax.metrics.predictions import Predictions, mean
from leukjax.predict import recorded
from leukjax.predict.external import ExternalPredictions, notes_of, own_test
from leukjax.predict.member import Member, Outputs, concatenate, overlapped, restore
from leukjax.rundir import RunDir

NOT_FINITE = "the network gives no finite probability"
PathLike = str | os.PathLike[str]
Image = PathLike | UInt8[np.ndarray, "h w 3"]
# One image as each member of a predictor sees it.
Prepared = tuple[UInt8[np.ndarray, "s s 3"], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """One trained run, or several that predict together. Made by `load`.

    The probabilities of several runs are averaged in float64.

    Attributes:
      members: the runs.
      tta: average over the eight rotated and mirrored views of each image.
      threads: threads that read and prepare images.
    """

    members: tuple[Member, ...]
    tta: bool = False
    threads: int = 8

    def __post_init__(self) -> None:
        """Raises UserError if the members have different classes."""
        first, *others = self.members
        for other in others:
            if other.classes != first.classes:
                raise UserError(
                    f"{other.workdir} has the classes {', '.join(other.classes)} and "
                    f"{first.workdir} {', '.join(first.classes)}; an ensemble needs the same "
                    "classes in the same order"
                )

    def __repr__(self) -> str:
        runs = ", ".join(f"{member.workdir} (step {member.step})" for member in self.members)
        return f"Predictor({runs}: {', '.join(self.classes)})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.members[0].classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def positive(self) -> str:
        """The positive class of precision and recall; "" above two classes."""
        return self.members[0].positive

    @property
    def image_size(self) -> int:
        """Side of the prepared images of the first member, in pixels."""
        return self.members[0].image_size

    @property
    def batch_size(self) -> int:
        """Images per dispatch."""
        return min(member.batch_size for member in self.members)

    @property
    def member(self) -> Member:
        """The only member.

        Raises:
          ValueError: there are several.
        """
        if len(self.members) > 1:
            raise UserError(f"one run is needed, and the predictor has {len(self.members)}")
        return self.members[0]

    @property
    def workdirs(self) -> tuple[Path, ...]:
        """The work directories of the members."""
        return tuple(member.workdir for member in self.members)

    def prepare(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Prepared:
        """Prepares an image of any size for each member, as its run prepared its own images."""
        ready: dict[tuple, np.ndarray] = {}
        for member in self.members:
            if member.recipe not in ready:
                ready[member.recipe] = member.preprocess(rgb)
        return tuple(ready[member.recipe] for member in self.members)

    def predict(
        self, images: Iterable[Image] | UInt8[np.ndarray, "n s s 3"]
    ) -> Float[np.ndarray, "n c"]:
        """Returns probabilities, one row per image.

        Args:
          images: files and arrays uint8[h, w, 3] of any size, which are prepared as the runs
            prepared their own images; or one array uint8[n, S, S, 3] of prepared images.

        Returns:
          float32[n, classes] of one run; the float64 mean of several.

        Raises:
          ValueError: a file that cannot be read or is no image (`BadImage`), an array of another
            shape or dtype, or a network that gives no finite probability.
        """
        return self._check_finite(self._outputs(images))

    def features(
        self, images: Iterable[Image] | UInt8[np.ndarray, "n s s 3"]
    ) -> Float32[np.ndarray, "n d"]:
        """Returns the inputs of the classification head, one row per image; of several runs side
        by side. Images and errors as in `predict`.

        Raises:
          ValueError: a model that does not sow them.
        """
        for member in self.members:
            member.require_features()
        return np.concatenate([outputs.features for outputs in self._outputs(images)], axis=1)

    def evaluate(
        self,
        data: Dataset | Subset | Records,
        *,
        threshold: float | None = None,
        class_map: ClassMap | None = None,
    ) -> Evaluation:
        """Predicts labelled images and scores the predictions.

        Args:
          data: a data set, a subset of one, or prepared records.
          threshold: predict the positive class where its probability reaches it; None = predict the
            class with the largest probability.
          class_map: for an external test, on another data set: the class of the runs for each class
            of `data`, as a mapping or as a CSV file with the columns theirs,ours. Images of classes
            that it does not list, and unlabelled ones, are left out and counted.

        Returns:
          Scores by image and by subject with intervals over groups; printing it prints a table.
          With a class map an `ExternalTest`, which has the scores of the runs' own test beside
          them.

        Raises:
          ValueError: images without a label, a class that the runs do not have, or a network that
            gives no finite probability.
        """
        dataset = data.dataset if isinstance(data, Subset) else data
        if class_map is not None:
            return self.external_predictions(data, class_map).test(threshold)
        predictions = self.predict_dataset(data)
        split = data.name if isinstance(data, Subset) else ""
        name = f"{dataset.name}, {split}" if split else dataset.name
        notes = notes_of(dataset)
        return score(predictions, self.positive, threshold=threshold, name=name, notes=notes)

    def external_predictions(
        self,
        data: Dataset | Subset | Records,
        class_map: ClassMap | None,
        cache_dir: str = "",
    ) -> ExternalPredictions:
        """Predicts the images of another data set that have a class of the runs.

        Args:
          data: the data set.
          class_map: as in `evaluate`; None = the names of its classes are those of the runs.
          cache_dir: folder that keeps the prepared images; see `Dataset.scan`.
        """
        _require_images(data)
        dataset = data.dataset if isinstance(data, Subset) else data
        ours_of = maps.resolve(class_map, dataset.classes, self.classes)
        records = self._records(dataset, cache_dir)
        manifest = records[0].manifest
        rows = data.rows if isinstance(data, Subset) else np.arange(len(manifest))
        mapped = maps.apply(ours_of, manifest.label, dataset.classes, self.classes, rows)
        outputs = self._batched(self._record_batches(records, mapped.rows))
        predictions = Predictions(
            classes=self.classes,
            id=manifest.id[mapped.rows],
            subject=manifest.subject[mapped.rows],
            group=manifest.group[mapped.rows],
            labels=mapped.labels,
            probabilities=self._check_finite(outputs),
        )
        own_predictions, no_own = own_test(self.members, tta=self.tta)
        return ExternalPredictions(
            predictions,
            mapped,
            ours_of,
            outputs,
            records[0],
            self.positive,
            own_predictions,
            no_own,
        )

    def predict_dataset(self, data: Dataset | Subset | Records) -> Predictions:
        """Predicts labelled images in their order.

        Raises:
          ValueError: as `evaluate`.
        """
        _require_images(data)
        dataset = data.dataset if isinstance(data, Subset) else data
        unknown = sorted(set(dataset.classes) - set(self.classes))
        if unknown:
            raise UserError(
                f"the data have the class {unknown[0]!r}, which the run does not know; its classes "
                f"are {', '.join(self.classes)}; a class_map says which of them it is"
            )
        records = self._records(dataset)
        if isinstance(data, Subset) and data.name == "test":
            self._record_test_access(records)
        manifest = records[0].manifest
        rows = data.rows if isinstance(data, Subset) else np.arange(len(manifest))
        unlabelled = int((manifest.label[rows] < 0).sum())
        if unlabelled or not len(rows):
            raise UserError(
                f"{unlabelled:,} of {len(rows):,} images have no label; give labelled ones"
            )
        label_of = np.array([self.classes.index(name) for name in dataset.classes], np.int32)
        return Predictions(
            classes=self.classes,
            id=manifest.id[rows],
            subject=manifest.subject[rows],
            group=manifest.group[rows],
            labels=label_of[manifest.label[rows]],
            probabilities=self.predict_records(records, rows),
        )

    def predict_records(
        self, records: Sequence[Records], rows: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n c"]:
        """Returns probabilities of prepared records, batch by batch.

        Args:
          records: `Records`, one for each member.
          rows: rows of their manifests.

        Raises:
          ValueError: a network gives no finite probability.
        """
        return self._check_finite(self._batched(self._record_batches(records, rows)))

    def submit(
        self, columns: Sequence[UInt8[np.ndarray, "n s s 3"]]
    ) -> Callable[[], list[Outputs]]:
        """Dispatches up to `batch_size` prepared images; the returned function waits for them.

        Args:
          columns: the images as each member sees them.

        Returns:
          A function that returns the outputs of each member.
        """
        pending = [
            member.submit(images, tta=self.tta)
            for member, images in zip(self.members, columns, strict=True)
        ]
        return lambda: [wait() for wait in pending]

    def choose_threshold(self, max_error: float) -> thresholds.ConfidenceThreshold:
        """Chooses the confidence below which to abstain (`thresholds.choose_confidence`).

        It is chosen on the validation predictions of the runs, at their temperatures.

        Raises:
          ValueError: the runs were validated on different images (one run may have trained on what
            another is validated on), `tta` is set (validation has no views), or no threshold keeps
            the share of wrong answers below `max_error`.
        """
        if self.tta:
            raise UserError(
                "max_error is chosen on validation predictions, which are made without tta; set "
                "only one of them"
            )
        try:
            val = recorded.predictions(self.members, "val")
        except UserError as error:
            raise UserError(f"max_error: {error}") from error
        return thresholds.choose_confidence(val.labels, val.probabilities, val.group, max_error)

    def _outputs(self, images: Iterable[Image] | UInt8[np.ndarray, "n s s 3"]) -> list[Outputs]:
        if isinstance(images, str | os.PathLike):
            raise UserError(f"{images}: give a list of images, as in predict([{str(images)!r}])")
        if isinstance(images, Dataset | Subset):
            raise TypeError("images: got a data set; use evaluate or predict_dataset")
        if isinstance(images, np.ndarray):
            self._check_prepared(images)
            return [member.outputs(images, tta=self.tta) for member in self.members]
        prepared = map_in_order(self._read, images, self.threads)
        return self._batched(_columns(prepared, self.batch_size))

    def _read(self, image: Image) -> Prepared:
        with image_limits.one_image():
            return self.prepare(read(image))

    def _record_test_access(self, records: Sequence[Records]) -> None:
        """Adds a line to the ledger of each run that was trained on the same images."""
        for member, source in zip(self.members, records, strict=True):
            run = RunDir(member.workdir)
            try:
                if run.data()["records_sha256"] == source.checksum:
                    run.record_test_access(member.step, by="Predictor.evaluate")
            except UserError as error:  # a read-only folder, or one without data.json
                logging.warning("the access to test is not recorded: %s", error)

    def _check_prepared(self, images: np.ndarray) -> None:
        sizes = {member.image_size for member in self.members}
        shapes = {(size, size, 3) for size in sizes}
        if images.dtype != np.uint8 or {images.shape[1:]} != shapes:
            side = " or ".join(f"[n, {size}, {size}, 3]" for size in sorted(sizes))
            raise UserError(
                f"images: {images.dtype}{list(images.shape)}; an array of prepared images is "
                f"uint8{side}; give images of other sizes as a list, one image as [image], and "
                "values in [0, 1] as (255 * x).astype('uint8')"
            )

    def _batched(self, batches: Iterable[Sequence[np.ndarray]]) -> list[Outputs]:
        """The outputs of each member for a stream of batches."""
        parts = list(overlapped(self.submit(columns) for columns in batches))
        if not parts:
            return [
                member.outputs(np.zeros((0, member.image_size, member.image_size, 3), np.uint8))
                for member in self.members
            ]
        return [concatenate(list(column)) for column in zip(*parts, strict=True)]

    def _record_batches(
        self, records: Sequence[Records], rows: Int[np.ndarray, " n"]
    ) -> Iterator[list[np.ndarray]]:
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            ready: dict[int, np.ndarray] = {}
            for source in records:
                if id(source) not in ready:
                    ready[id(source)] = source.images(part)
            yield [ready[id(source)] for source in records]

    def _records(self, data: Dataset | Records, cache_dir: str = "") -> list[Records]:
        """The records of a data set for each member; members of one recipe share them."""
        ready: dict[tuple, Records] = {}
        for member in self.members:
            size, crop, denoise, background = recipe = member.recipe[1:5]
            if isinstance(data, Dataset):
                if data.background != background:  # as the run prepares images, and `predict`
                    data = copy.copy(data)
                    data.background = background
                if recipe not in ready:
                    ready[recipe] = data.prepare(
                        size,
                        crop=crop,
                        denoise=denoise,
                        cache_dir=cache_dir,
                        threads=self.threads,
                    )
            elif data.image_size == size:
                ready[recipe] = data
            else:
                raise UserError(
                    f"the records have {data.image_size} px and {member.workdir} {size} px"
                )
        return [ready[member.recipe[1:5]] for member in self.members]

    def _check_finite(self, outputs: Sequence[Outputs]) -> Float[np.ndarray, "n c"]:
        """The mean probabilities, all of them finite."""
        for member, output in zip(self.members, outputs, strict=True):
            bad = ~np.isfinite(output.probabilities).all(axis=1)
            if bad.any():
                raise UserError(
                    f"{member.workdir}: {NOT_FINITE} for {bad.sum():,} of {len(bad):,} images; "
                    "its checkpoint is damaged: copy the run again, or train again"
                )
        if len(outputs) == 1:
            return outputs[0].probabilities
        return mean([output.probabilities for output in outputs])


def load(
    runs: PathLike | Sequence[PathLike],
    step: int | str = "best",
    *,
    model: nn.Module | None = None,
    tta: bool = False,
    calibrated: bool = False,
    batch_size: int = 32,
    threads: int = 8,
) -> Predictor:
    """Loads a trained run, or several as an ensemble.

    Args:
      runs: a work directory, or a list of them.
      step: ``best`` (on validation), ``latest``, or a number of optimizer steps.
      model: the Flax module of the runs; None = made from the config of each.
      tta: average over the eight rotated and mirrored views of each image.
      calibrated: divide logits by the temperature that fits the run's validation predictions.
      batch_size: images per dispatch; raised to a multiple of the number of devices.
      threads: threads that read and prepare images.

    Raises:
      ValueError: no run there, none with a finished checkpoint, a damaged one, or class lists that
        differ.
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if not folders:
        raise UserError("no run is given; give the work directory of one")
    members = [
        restore(Path(run), step, module=model, batch_size=batch_size, calibrated=calibrated)
        for run in folders
    ]
    return Predictor(tuple(members), tta, threads)


def read(image: Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a file, or an array after a check of its dtype and shape.

    Raises:
      UserError: a file that cannot be read or is no image (`BadImage`), or another array.
    """
    if not isinstance(image, np.ndarray):
        try:
            return decode(archive.read_file(Path(image), str(image)), str(image))[0]
        except OSError as error:
            raise UserError(f"{image}: cannot be read ({error.strerror or error})") from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"images: {image.dtype}{list(image.shape)}; an image is uint8[h, w, 3]")
    if min(image.shape[:2]) < MIN_SIDE:
        raise UserError(f"images: {list(image.shape)}; the minimum is {MIN_SIDE} pixels per side")
    return image


def _require_images(data: Dataset | Subset | Records) -> None:
    if not isinstance(data, Dataset | Subset | Records):
        raise TypeError(
            "data: expected a Dataset, as lj.Arrays(images, labels), a Subset, as split.test, or "
            f"Records; got {type(data).__name__}"
        )


def _columns(prepared: Iterator[Prepared], size: int) -> Iterator[list[np.ndarray]]:
    """Batches of images, as each member sees them."""
    while batch := list(islice(prepared, size)):
        yield [np.stack(column) for column in zip(*batch, strict=True)]
