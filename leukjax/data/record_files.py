"""Folders of prepared images: ArrayRecord files, and `index.json`, which lists and checks them.

TFDS writes the files, without TensorFlow; they are read record by record.
"""

import bisect
import contextlib
import hashlib
import itertools
import json
import logging as standard_logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import UInt8
from tensorflow_datasets.proto import tf_example_pb2

from leukjax import storage
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import preprocessed
from leukjax.data.preprocess import Preprocessing
from leukjax.data.source import Source

# A folder is written shard by shard, and a preparation that was killed continues after the last
# whole one. TFDS keeps a shard in memory while it sorts it; above 1 GB it sorts in files, which
# needs TensorFlow.
SHARD_BYTES = 2**28  # of pixels
SHARD_IMAGES = 8192

_INDEX = "index.json"
# No read-ahead, which helps sequential reading only, and no threads to hand a record to.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# records-part_00002.array_record-00000-of-00001: the part, and its shard.
_SHARD = re.compile(r"-part_([0-9]+)\.array_record-([0-9]+)-of-[0-9]+$")


def write(
    folder: Path, source: Source, manifest: Manifest, preprocessing: Preprocessing, threads: int
) -> None:
    """Writes the images of a manifest, preprocessed, and the index of the folder.

    Whole shards of an earlier call with the same arguments are kept.
    """
    size = preprocessing.image_size
    shards = _shards(len(manifest), size)
    tally = _Tally()
    kept = _keep(folder, shards, tally)
    start = len(tally.sizes)
    if kept:
        logging.info("%s: %d images were prepared by an earlier start", source.name, start)
    rest = manifest.take(np.arange(start, len(manifest)))
    images = tally.count(preprocessed(source, rest, preprocessing, threads))
    for number in range(kept, len(shards)):
        tally.begin_shard()
        rows, name = shards[number], _shard_name(number)
        temporary = folder / f"{name}.tmp"
        Builder(source, manifest, rows, images, size, name, temporary).download_and_prepare()
        shutil.rmtree(temporary / "downloads", ignore_errors=True)  # TFDS creates it, empty
        _write_index(temporary, tally.of_shard(rows))
        os.rename(temporary, folder / name)
    next(images, None)  # runs the stream to its end, where it logs its rate
    facts = {
        "checksum": tally.checksum.hexdigest(),
        "image_size": size,
        "preprocessing": preprocessing.describe(np.array(tally.sizes, np.int64)),
    }
    _write_index(folder, facts)


class _Tally:
    """What is known of the images so far.

    Attributes:
      checksum: of the pixels of all images.
      sizes: original height and width of all images.
    """

    def __init__(self) -> None:
        self.checksum = hashlib.sha256()
        self.sizes: list[tuple[int, int]] = []
        self.begin_shard()

    def begin_shard(self) -> None:
        """From here on, images belong to the next shard."""
        self._of_shard = hashlib.sha256()

    def add(self, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Counts an image."""
        self.checksum.update(pixels.data)
        self._of_shard.update(pixels.data)
        self.sizes.append(size)

    def count(self, images: Iterable[tuple[np.ndarray, tuple[int, int]]]) -> Iterator[np.ndarray]:
        """Yields images, and counts them."""
        for image, size in images:
            self.add(image, size)
            yield image

    def of_shard(self, rows: range) -> dict[str, Any]:
        """What is kept of a shard whose images were all counted."""
        sizes = self.sizes[rows.start : rows.stop]
        return {"checksum": self._of_shard.hexdigest(), "sizes": sizes}


def _shards(images: int, image_size: int) -> list[range]:
    """The rows of each shard."""
    step = max(1, min(SHARD_IMAGES, SHARD_BYTES // (image_size**2 * 3)))
    return [range(images)[start : start + step] for start in range(0, images, step)]


def _shard_name(number: int) -> str:
    return f"part_{number:05d}"


def _keep(folder: Path, shards: Sequence[range], tally: _Tally) -> int:
    """Counts the images of the first whole shards, removes all else, and returns their number."""
    kept = 0
    for number, rows in enumerate(shards):
        images = _whole_shard(folder / _shard_name(number), rows)
        if images is None:
            break
        for pixels, size in images:
            tally.add(pixels, size)
        kept += 1
    for path in folder.iterdir():
        if path.name not in map(_shard_name, range(kept)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return kept


def _whole_shard(shard: Path, rows: range) -> list[tuple[np.ndarray, tuple[int, int]]] | None:
    """Returns images and original sizes of a shard; None if it is missing or damaged."""
    try:
        index = read_index(shard)
        files = RecordFiles.of_tfds(shard, index["files"])
        sizes = [(int(height), int(width)) for height, width in index["sizes"]]
        images = [parse(files[number])[1] for number in range(len(files))]
    except FileNotFoundError:
        return None
    except Exception as error:  # array_record and protobuf have exceptions of their own
        logging.warning("%s is damaged and is prepared again (%s)", shard, error)
        return None
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.data)
    same = digest.hexdigest() == index["checksum"] and len(images) == len(sizes) == len(rows)
    return list(zip(images, sizes, strict=True)) if same and is_complete(shard) else None


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Some rows of a manifest as preprocessed images.

    Examples are ``{image: uint8[S, S, 3], label: int64, subject, group, id: bytes}``; label -1 =
    unlabelled.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for a file of checksums beside the module, through a
    # package that it does not depend on (importlib_resources).
    url_infos = None

    def __init__(
        self,
        source: Source,
        manifest: Manifest,
        rows: range,
        images: Iterator[np.ndarray],
        image_size: int,
        split: str,
        data_dir: Path,
    ) -> None:
        """Sets up the builder; ``download_and_prepare()`` writes below `data_dir`.

        Args:
          source: the data set.
          manifest: the table of its images.
          rows: the rows to write.
          images: the images of these rows, in order; no more are taken.
          image_size: pixels per side.
          split: name of the only split, "part_" and the number of the shard.
          data_dir: the folder.
        """
        self._source, self._manifest, self._rows, self._images = source, manifest, rows, images
        self._size, self._split = image_size, split
        super().__init__(file_format="array_record", data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        side = self._size
        features = tfds.features.FeaturesDict(
            {
                # Without this encoding TFDS widens every pixel to an int64.
                "image": tfds.features.Tensor(
                    shape=(side, side, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                ),
                "label": tfds.features.ClassLabel(names=list(self._source.classes)),
                "subject": tfds.features.Text(),
                "group": tfds.features.Text(),
                "id": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self._source).__doc__ or self._source.name,
            citation=self._source.citation,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # record i is row i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        manifest = self._manifest
        # `rows` first: once they end, nothing may be taken from the images, which continue.
        for row, image in zip(self._rows, self._images, strict=False):
            yield (
                row,
                {
                    "image": image,
                    "label": int(manifest.label[row]),
                    "subject": str(manifest.subject[row]),
                    "group": str(manifest.group[row]),
                    "id": str(manifest.id[row]),
                },
            )

    def _log_download_bytes(self) -> None:
        """Logs nothing: nothing is downloaded."""

    def _log_download_done(self) -> None:
        """Logs nothing: the caller reports."""

    def download_and_prepare(self, **options: Any) -> None:
        """Runs TFDS' own, without its progress bars, its log and its look at a cloud bucket."""
        options.setdefault("download_config", tfds.download.DownloadConfig(try_download_gcs=False))
        tfds.disable_progress_bar()
        with _quiet():
            super().download_and_prepare(**options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS' information out of the log; warnings and our own lines stay."""

    def keep(record: standard_logging.LogRecord) -> bool:
        foreign = "tensorflow_datasets" in record.pathname or "array_record" in record.pathname
        return not foreign or record.levelno >= standard_logging.WARNING

    logger = logging.get_absl_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _write_index(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the index: `facts`, and a fingerprint of every file in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    index = {
        **facts,
        "files": {str(path.relative_to(folder)): _fingerprint(path) for path in files},
    }
    content = {"sha256": _digest(index), "index": index}
    storage.write_atomic(folder / _INDEX, json.dumps(content, indent=1))


def read_index(folder: Path) -> dict[str, Any]:
    """Returns the index of a folder of records.

    Raises:
      OSError, ValueError, KeyError, TypeError: it is missing or damaged.
    """
    content = storage.read_json(folder / _INDEX)
    if content["sha256"] != _digest(content["index"]):
        raise ValueError(f"{folder / _INDEX}: its checksum differs")
    return content["index"]


def is_complete(folder: Path) -> bool:
    """Returns whether the index is valid and every file that it names has its fingerprint."""
    try:
        files = read_index(folder)["files"]
        return all(_fingerprint(folder / name) == mark for name, mark in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _fingerprint(path: Path) -> str:
    """What tells a file from a damaged one, cheap enough to be computed at every start.

    The files of records are as large as the data, and ArrayRecord detects damage when it reads.
    """
    if ".array_record" in path.name:
        return f"{path.stat().st_size} bytes"
    return hashlib.sha256(storage.read_bytes(path, storage.MAX_JSON_BYTES)).hexdigest()


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()


def parse(record: bytes) -> tuple[str, UInt8[np.ndarray, " n"]]:
    """Returns id and pixels of a record.

    Parsing the example here and copying the pixels once is four times as fast as TFDS' decoding.
    """
    features = tf_example_pb2.Example.FromString(record).features.feature
    name = features["id"].bytes_list.value[0].decode()
    return name, np.frombuffer(features["image"].bytes_list.value[0], np.uint8)


class RecordFiles:
    """Records of several files, by their number over all files. Thread-safe.

    `ArrayRecordDataSource`, which TFDS opens, builds a list over all records of a file at every
    call: 4 ms in one of a million. A reader that seeks does not. It has a position, so only one
    thread at a time may use it.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int]):
        """`counts`: number of records in each file."""
        self._files = list(files)
        self._ends = list(itertools.accumulate(counts))
        self._idle: list[list[Any]] = [[] for _ in files]

    @classmethod
    def of_tfds(cls, folder: Path, names: Iterable[str]) -> "RecordFiles":
        """Opens the files that TFDS wrote below a folder, in the order of the records.

        TFDS' own descriptions are not read: it would import the class that they name.

        Args:
          folder: the folder that the names are relative to.
          names: paths below it; those of other files are ignored.

        Raises:
          ValueError: a name points outside the folder.
          RuntimeError: a file is damaged.
        """
        shards = {}
        for name in names:
            match = _SHARD.search(name)
            if match:
                if ".." in Path(name).parts or Path(name).is_absolute():
                    raise ValueError(f"{name}: points outside {folder}")
                shards[int(match[1]), int(match[2])] = folder / name
        files = [shards[number] for number in sorted(shards)]
        return cls(files, [_count(file) for file in files])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> bytes:
        """Returns the record; what a damaged file raises depends on the damage."""
        file = bisect.bisect_right(self._ends, number)
        idle = self._idle[file]
        try:
            reader = idle.pop()
        except IndexError:
            reader = _reader(self._files[file])
        reader.seek(number - (self._ends[file - 1] if file else 0))
        record = reader.read()
        idle.append(reader)  # not after an error: then the next read opens another reader
        return record


def _reader(file: Path) -> Any:
    # Imported late: predictions on new images and comparisons do without it.
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(file), _READER_OPTIONS)


def _count(file: Path) -> int:
    reader = _reader(file)
    try:
        return int(reader.num_records())
    finally:
        reader.close()
