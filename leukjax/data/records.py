"""Records: the preprocessed images of a data set, in the cache folder or in memory."""

import dataclasses
import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8

from leukjax import storage
from leukjax.data import cache, manifest_builder, record_files
from leukjax.data.manifest import Manifest
from leukjax.data.preprocess import Preprocessing
from leukjax.data.record_files import RecordFiles
from leukjax.data.source import INFO, Note, Skipped, Source
from leukjax.errors import UserError

# Part of every key: raise it when `preprocess` or the layout of a folder of records changes.
FORMAT = 3

READ_AT_ONCE = 512


class Records(ABC):
    """The preprocessed images of a data set; row i of `manifest` is record i.

    Attributes:
      name: name of the data set.
      manifest: the table of the images.
      classes: class names; labels index them.
      positive: default class of precision, recall and F1; "" above two classes.
      synthetic: the images are drawn, not photographed; every score must say so.
      subjects_known: False if each image counts as its own subject.
      background: "black" or "bright".
      official_parts: `Manifest.phase` -> part of the published split; {} if there is none.
      attributes: column -> id -> value; see `Source`.
      notes: sentences for the log, on the data set and on the preprocessing.
      skipped: images that were left out.
      checksum: hex SHA-256 of all pixels in the order of the records.
      file_sizes: int64[n], bytes of each image's file; None if the images are not files.
      image_size: pixels per side.
    """

    def __init__(
        self,
        source: Source,
        manifest: Manifest,
        skipped: list[Skipped],
        *,
        checksum: str,
        image_size: int,
        preprocessing: str,
    ) -> None:
        """Takes over what is known of the data set; `preprocessing` is a sentence for the log."""
        self.name = source.name
        self.manifest = manifest
        self.classes = source.classes
        self.positive = source.positive
        self.synthetic = source.synthetic
        self.subjects_known = source.subjects_known
        self.background = source.background
        self.official_parts = dict(source.official_parts)
        self.attributes = source.attributes
        self.notes = [*source.notes, Note(INFO, preprocessing)]
        self.skipped = skipped
        self.file_sizes = source.file_sizes(manifest)
        self.checksum = checksum
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self):,} images of {self.image_size} px)"

    @abstractmethod
    def images(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n s s 3"]:
        """Returns a copy of the images of these records, in the order of `rows`. Thread-safe.

        Raises:
          IndexError: a row is not in 0..len-1.
          UserError: a record cannot be read.
        """

    @abstractmethod
    def damaged(self) -> UserError:
        """Returns the error to raise if the pixels are not those that were prepared."""

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

    def save_attributes(self, path: Path) -> None:
        """Writes the attributes of each image as CSV: id, then a column for each."""
        text = io.StringIO()
        writer = storage.csv_writer(text)
        writer.writerow(("id", *self.attributes))
        for id in self.manifest.id.tolist():
            writer.writerow((id, *(values.get(id, "") for values in self.attributes.values())))
        storage.write_atomic(path, text.getvalue())

    def save_skipped(self, path: Path) -> None:
        """Writes the images that were left out as CSV: id, path, reason."""
        text = io.StringIO()
        writer = storage.csv_writer(text)
        writer.writerow(("id", "path", "reason"))
        writer.writerows(dataclasses.astuple(skipped) for skipped in self.skipped)
        storage.write_atomic(path, text.getvalue())

    def _checked(self, rows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows outside 0..{len(self) - 1}")
        return rows


class MemoryRecords(Records):
    """Records of a data set in memory; nothing is written."""

    def __init__(
        self, source: Source, manifest: Manifest, pixels: UInt8[np.ndarray, "n s s 3"], **facts: Any
    ) -> None:
        """Holds `pixels`; `facts` are the other arguments of `Records`."""
        super().__init__(source, manifest, image_size=pixels.shape[1], **facts)
        self._pixels = pixels

    def images(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n s s 3"]:
        return self._pixels[self._checked(rows)]

    def damaged(self) -> UserError:
        return UserError(f"{self.name}: the images in memory were changed")


class StoredRecords(Records):
    """Records in ArrayRecord files.

    Attributes:
      folder: the folder of the files.
    """

    def __init__(
        self, source: Source, manifest: Manifest, skipped: list[Skipped], folder: Path
    ) -> None:
        """Opens what `record_files.write` wrote."""
        index = record_files.read_index(folder)
        names = ("checksum", "image_size", "preprocessing")
        super().__init__(source, manifest, skipped, **{name: index[name] for name in names})
        self.folder = folder
        self._names = tuple(index["files"])
        self._open()

    def _open(self) -> None:
        try:
            self._files = RecordFiles.of_tfds(self.folder, self._names)
        except (OSError, ValueError, RuntimeError) as error:
            raise self.damaged() from error
        if len(self._files) != len(self.manifest):
            raise self.damaged()

    def images(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n s s 3"]:
        rows, side = self._checked(rows), self.image_size
        pixels = np.empty((len(rows), side * side * 3), np.uint8)
        try:
            for image, row in zip(pixels, rows.tolist(), strict=True):
                image[:] = record_files.parse(self._files[row])[1]
        except Exception as error:  # array_record and protobuf have exceptions of their own
            raise self.damaged() from error
        return pixels.reshape(len(rows), side, side, 3)

    def damaged(self) -> UserError:
        return UserError(
            f"{self.folder}: the records are damaged. Delete the folder and start again"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes open the files themselves.
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def prepare(
    source: Source,
    manifest: Manifest,
    skipped: list[Skipped],
    preprocessing: Preprocessing,
    cache_dir: str = "",
    threads: int = 8,
) -> Records:
    """Returns the records of a scanned data set, prepared now or found in the cache.

    They are in CACHE/NAME/KEY; KEY is a hash of the manifest's content (ids, labels, subjects,
    groups, pixels), of the preprocessing and of the data set's version. A process that starts
    while another one prepares waits for it, and continues where a killed one stopped. Images in
    memory are prepared in memory.

    Raises:
      UserError: an image cannot be read or was changed after the scan, or the cache folder is full
        or cannot be written.
    """
    if source.in_memory:
        return _prepare_in_memory(source, manifest, skipped, preprocessing, threads)
    root = cache.root(cache_dir)
    folder = root / source.name / _key(source, manifest, preprocessing)

    def write(temporary: Path) -> None:
        try:
            record_files.write(temporary, source, manifest, preprocessing, threads)
        except manifest_builder.ChangedImage:
            manifest_builder.forget(source, root, source.bad_images)
            raise

    size = len(manifest) * (preprocessing.image_size**2 * 3 + 256)
    cache.make_once(folder, record_files.is_complete, write, size, resume=True)
    records = StoredRecords(source, manifest, skipped, folder)
    logging.info("records: %d images of %d px in %s", len(records), records.image_size, folder)
    return records


def _prepare_in_memory(
    source: Source,
    manifest: Manifest,
    skipped: list[Skipped],
    preprocessing: Preprocessing,
    threads: int,
) -> MemoryRecords:
    side = preprocessing.image_size
    pixels = np.empty((len(manifest), side, side, 3), np.uint8)
    sizes = np.empty((len(manifest), 2), np.int64)
    results = manifest_builder.preprocessed(source, manifest, preprocessing, threads)
    for row, (image, size) in enumerate(results):
        pixels[row], sizes[row] = image, size
    return MemoryRecords(
        source,
        manifest,
        pixels,
        skipped=skipped,
        checksum=hashlib.sha256(pixels.data).hexdigest(),
        preprocessing=preprocessing.describe(sizes),
    )


def _key(source: Source, manifest: Manifest, preprocessing: Preprocessing) -> str:
    content = {
        "format": FORMAT,
        "builder": f"{source.name} {source.version}",
        "manifest": manifest.checksum(),
        "background": source.background,
        **dataclasses.asdict(preprocessing),
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


class Stored:
    """Records in the cache, without their data set.

    Attributes:
      folder: the folder of the files.
      image_size: pixels per side.
    """

    def __init__(self, folder: Path) -> None:
        """Opens what `record_files.write` wrote; a damaged folder raises nearly any exception."""
        index = record_files.read_index(folder)
        self.folder = folder
        self.image_size = int(index["image_size"])
        self._files = RecordFiles.of_tfds(folder, index["files"])

    def __len__(self) -> int:
        return len(self._files)

    def image(self, row: int) -> tuple[str, UInt8[np.ndarray, "s s 3"]]:
        """Returns id and pixels of a record."""
        name, pixels = record_files.parse(self._files[row])
        return name, pixels.reshape(self.image_size, self.image_size, 3)


def find(name: str, checksum: str) -> Stored | None:
    """Returns records that this machine's own cache holds, or None; prepares nothing.

    Args:
      name: name of the data set, which may come from anyone.
      checksum: of the pixels, as in the index of the records.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):  # it becomes part of a path
        return None
    for folder in sorted((cache.root("") / name).glob("*")):
        try:
            stated = record_files.read_index(folder)["checksum"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if stated == checksum and record_files.is_complete(folder):
            return Stored(folder)
    return None
