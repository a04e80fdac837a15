"""Prepared images: written once into the cache folder, read by row in any order ever after."""

import dataclasses
import hashlib
import importlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from leukjax import storage
from leukjax.data import cache, preprocess
from leukjax.data.builder import Builder
from leukjax.data.dataset import Skipped, Source
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import scan
from leukjax.data.record_files import RecordFiles
from leukjax.errors import UserError
from leukjax.storage import csv_writer, write_atomic

# Enters every key: raise it when `preprocess` or the layout of a folder of records changes.
FORMAT = 3

# data.name -> its module in leukjax.data and the TFDS builder there
_DATA_SETS = {
    "smears": ("synthetic.dataset", "Smears"),
    "cnmc": ("datasets.cnmc", "Cnmc"),
    "all_idb2": ("datasets.all_idb2", "AllIdb2"),
    "image_folder": ("datasets.image_folder", "ImageFolder"),
}

_INDEX = "index.json"
READ_AT_ONCE = 512


class Records:
    """The prepared images of a data set; row i of `manifest` is record i.

    Attributes:
      name: as in `data.name`.
      manifest: one row a record.
      classes: class names; labels index them.
      positive: class that precision, recall and F1 speak of; "" above two classes.
      synthetic: the images are drawn; every score must say so.
      subjects_known: False where each image counts as its own subject.
      background: "black" or "bright".
      notes: sentences for the log, on the source and on the preprocessing.
      skipped: images that were left out.
      checksum: hex SHA-256 of all pixels in the order of the records.
      file_sizes: int64[n], bytes of each image's file; None where the images are not files.
      folder: where the records lie.
      image_size: pixels a side.
    """

    def __init__(
        self,
        source: Source,
        manifest: Manifest,
        skipped: list[Skipped],
        folder: Path,
    ) -> None:
        """Opens what `prepare` wrote."""
        index = _read_index(folder)
        self._names = tuple(index["files"])
        self.name = source.name
        self.manifest = manifest
        self.classes = source.classes
        self.positive = source.positive
        self.synthetic = source.synthetic
        self.subjects_known = source.subjects_known
        self.background = source.background
        self.notes = [*source.notes, index["preprocessing"]]
        self.skipped = skipped
        self.file_sizes = source.file_sizes(manifest)
        self.checksum: str = index["checksum"]
        self.folder = folder
        self.image_size: int = index["image_size"]
        self._open()

    def _open(self) -> None:
        # Raw bytes, because parsing the example here and copying the pixels once is four times
        # as fast as TFDS' own decoding of the features.
        try:
            self._files = RecordFiles.of_tfds(self.folder, self._names)
        except (OSError, ValueError, RuntimeError) as error:
            raise self.damaged() from error
        if len(self._files) != len(self.manifest):
            raise self.damaged()

    def __len__(self) -> int:
        return len(self.manifest)

    def images(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n s s 3"]:
        """The images of these records, in the order of `rows`. Thread-safe.

        Raises:
          IndexError: a row is not in 0..len-1.
          UserError: a record cannot be read.
        """
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows outside 0..{len(self) - 1}")
        side = self.image_size
        pixels = np.empty((len(rows), side * side * 3), np.uint8)
        try:
            for image, row in zip(pixels, rows.tolist(), strict=True):
                image[:] = _parse(self._files[row])[1]
        except Exception as error:  # array_record and protobuf each have their own
            raise self.damaged() from error
        return pixels.reshape(len(rows), side, side, 3)

    def verify(self) -> None:
        """Reads every record and compares the pixels with the checksum of the preparation.

        Raises:
          UserError: they differ.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self), READ_AT_ONCE):
            stop = min(start + READ_AT_ONCE, len(self))
            digest.update(self.images(np.arange(start, stop)).data)
        if digest.hexdigest() != self.checksum:
            raise self.damaged()

    def damaged(self) -> UserError:
        """What to raise when the pixels are not those that were prepared."""
        return UserError(
            f"{self.folder}: the records are damaged: delete the folder and start again"
        )

    def save_skipped(self, path: Path) -> None:
        """Writes the images that were left out as CSV: id, path, reason."""
        text = io.StringIO()
        writer = csv_writer(text)
        writer.writerow(("id", "path", "reason"))
        writer.writerows(dataclasses.astuple(skipped) for skipped in self.skipped)
        write_atomic(path, text.getvalue())

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes open the files themselves.
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


class Stored:
    """Prepared images in the cache, without their source.

    Attributes:
      folder: where they are.
      image_size: pixels a side.
    """

    def __init__(self, folder: Path) -> None:
        """Opens what `prepare` wrote; what it raises on a damaged folder depends on the damage."""
        index = _read_index(folder)
        self.folder = folder
        self.image_size = int(index["image_size"])
        self._files = RecordFiles.of_tfds(folder, index["files"])

    def __len__(self) -> int:
        return len(self._files)

    def image(self, row: int) -> tuple[str, UInt8[np.ndarray, "s s 3"]]:
        """Id and pixels of a record."""
        name, pixels = _parse(self._files[row])
        return name, pixels.reshape(self.image_size, self.image_size, 3)


def find(name: str, checksum: str) -> Stored | None:
    """Images of a data set that this machine's own cache holds; nothing is prepared for it.

    Args:
      name: as in `data.name`.
      checksum: of the pixels, as the folder of the records states it.
    """
    if name not in _DATA_SETS:
        return None
    for folder in sorted((cache.root("") / name).glob("*")):
        try:
            stated = _read_index(folder)["checksum"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if stated == checksum and _is_whole(folder):
            return Stored(folder)
    return None


def _parse(record: bytes) -> tuple[str, UInt8[np.ndarray, " n"]]:
    """Id and pixels of a record."""
    features = tf_example_pb2.Example.FromString(record).features.feature
    name = features["id"].bytes_list.value[0].decode()
    return name, np.frombuffer(features["image"].bytes_list.value[0], np.uint8)


def prepare(data: ConfigDict) -> Records:
    """The records of a config's `data` section, prepared now or found in the cache.

    They lie in CACHE/<data.name>/<key>; the key is made of the manifest's content (ids, labels,
    subjects, groups, pixels), the preprocessing and the version of the builder. A process that
    comes while another one prepares waits for it.

    Raises:
      UserError: a wrong field, a missing or unreadable image, a cache folder that is full or
        cannot be written.
    """
    preprocess.check(data.denoise)
    if data.name not in _DATA_SETS:
        raise UserError(f"data.name: {data.name!r} is none of {', '.join(_DATA_SETS)}")
    module_name, class_name = _DATA_SETS[data.name]
    module = importlib.import_module(f"leukjax.data.{module_name}")
    return prepare_source(data, module.source(data), getattr(module, class_name))


def prepare_source(data: ConfigDict, source: Source, builder_class: type[Builder]) -> Records:
    """`prepare` for a source at hand; see there."""
    root = cache.root(data.cache_dir)
    manifest, skipped = scan(source, root, data.threads, data.bad_images)
    manifest = manifest.take(np.argsort(manifest.id))
    folder = root / data.name / _key(data, source, manifest, builder_class)

    def write(temporary: Path) -> None:
        _write(temporary, data, source, manifest, builder_class)

    size = len(manifest) * (data.image_size**2 * 3 + 256)
    cache.make_once(folder, _is_whole, write, size)
    records = Records(source, manifest, skipped, folder)
    logging.info("records: %d images of %d px in %s", len(records), records.image_size, folder)
    return records


def _key(data: ConfigDict, source: Source, manifest: Manifest, builder_class: type[Builder]) -> str:
    content = {
        "format": FORMAT,
        "builder": f"{builder_class.name} {builder_class.VERSION}",
        "manifest": manifest.checksum(),
        "background": source.background,
        "image_size": data.image_size,
        "crop": data.crop,
        "denoise": data.denoise,
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write(
    folder: Path,
    data: ConfigDict,
    source: Source,
    manifest: Manifest,
    builder_class: type[Builder],
) -> None:
    builder = builder_class(data=data, source=source, manifest=manifest, data_dir=folder)
    builder.download_and_prepare()
    shutil.rmtree(folder / "downloads", ignore_errors=True)  # TFDS makes it, empty
    index = {
        "checksum": builder.checksum,
        "image_size": data.image_size,
        "preprocessing": preprocess.describe(
            builder.sizes, data.image_size, data.crop, data.denoise
        ),
        "tfds": str(Path(builder.data_dir).relative_to(folder)),
        "files": {str(path.relative_to(folder)): _mark(path) for path in _files(folder)},
    }
    content = {"sha256": _digest(index), "index": index}
    write_atomic(folder / _INDEX, json.dumps(content, indent=1))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _mark(path: Path) -> str:
    """What tells a file from a damaged one, cheap enough for every start.

    Files of records are as large as the data, and ArrayRecord finds damage in them when it reads.
    """
    if ".array_record" in path.name:
        return f"{path.stat().st_size} bytes"
    return hashlib.sha256(storage.read_bytes(path, storage.MAX_JSON_BYTES)).hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder of records.

    Raises:
      OSError, ValueError, KeyError, TypeError: it is missing or damaged.
    """
    content = storage.read_json(folder / _INDEX)
    if content["sha256"] != _digest(content["index"]):
        raise ValueError(f"{folder / _INDEX}: its checksum differs")
    return content["index"]


def _digest(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index).encode()).hexdigest()


def _is_whole(folder: Path) -> bool:
    """The index is whole and every file that it names has its mark."""
    try:
        files = _read_index(folder)["files"]
        return all(_mark(folder / name) == mark for name, mark in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
