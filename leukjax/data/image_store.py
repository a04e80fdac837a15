"""All images of a data set in one memory-mapped file, decoded once and shared between processes.

Reading a record means finding, checking and parsing it each time; here a batch is a copy out of
the page cache, which all epochs, processes and later starts share.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8

from leukjax.data import cache
from leukjax.data.manifest import Manifest
from leukjax.data.records import READ_AT_ONCE, MemoryRecords, Records, StoredRecords
from leukjax.errors import UserError
from leukjax.storage import open_regular, read_json, write_atomic

_FILE = "pixels.npy"
_INDEX = "index.json"


class Decoded:
    """The images of `records.Records` in one file; `images` returns the same arrays.

    Attributes:
      manifest: the table of the images.
      folder: the folder of the file.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        """Opens what `decode` wrote."""
        self.manifest = manifest
        self.folder = folder
        self._open()

    def _open(self) -> None:
        path = self.folder / _FILE
        try:
            self._file = open_regular(path)  # first: NumPy would wait for a pipe
            self._array = np.load(path, mmap_mode="r")
            self._size = os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError) as error:
            raise self._lost(error) from error

    def __len__(self) -> int:
        return len(self.manifest)

    def images(self, rows: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n s s 3"]:
        """Returns a copy of the images of these records, in the order of `rows`. Thread-safe.

        Raises:
          IndexError: a row is not in 0..len-1.
          UserError: the file was cut short or its disk is gone.
        """
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows outside 0..{len(self) - 1}")
        # Reading a mapping beyond the end of its file ends the process by a signal (SIGBUS) that
        # nothing can turn into a message, so the size is checked first.
        try:
            size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._lost(error) from error
        if size < self._size:
            raise self._lost("it was cut short")
        return self._array[rows]

    def _lost(self, reason: object) -> UserError:
        return UserError(
            f"{self.folder / _FILE}: cannot be read ({reason}). Start again to write it again, or "
            "set data.cache to none"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes map the file themselves.
        return {"manifest": self.manifest, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def size_of(records: Records) -> int:
    """Returns the bytes of all images."""
    return len(records) * records.image_size**2 * 3


def decode(records: Records) -> Decoded | MemoryRecords:
    """Returns the images of these records, decoded now or found in the cache.

    The file is beside the records, is written once for all processes, and has the checksum of the
    preparation. At every start it is read whole and compared, which also brings it into memory, in
    the order of the disk. Records in memory are returned as they are.

    Raises:
      UserError: the records are damaged, or the cache folder is full or cannot be written.
    """
    if isinstance(records, MemoryRecords):
        return records
    assert isinstance(records, StoredRecords)
    folder = folder_of(records)
    assert folder is not None

    def whole(path: Path) -> bool:
        return _is_whole(path, records.checksum)

    size = size_of(records)
    cache.make_once(folder, whole, lambda temporary: _write(temporary, records), size + 4096)
    return Decoded(records.manifest, folder)


def folder_of(records: Records) -> Path | None:
    """Returns the folder in which `decode` keeps the images; None for records in memory."""
    if not isinstance(records, StoredRecords):
        return None
    return records.folder.with_name(f"{records.folder.name}-decoded")


def _write(folder: Path, records: Records) -> None:
    side = records.image_size
    shape = (len(records), side, side, 3)
    logging.info("decoding %d images once, %.2f GB", len(records), size_of(records) / 1e9)
    # Written, not mapped: a full disk then is an error and no signal.
    with (folder / _FILE).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        digest = hashlib.sha256()
        for start in range(0, len(records), READ_AT_ONCE):
            rows = np.arange(start, min(start + READ_AT_ONCE, len(records)))
            images = records.images(rows)
            digest.update(images.data)
            file.write(images.data)
    if digest.hexdigest() != records.checksum:
        raise records.damaged()
    write_atomic(folder / _INDEX, json.dumps({"checksum": records.checksum, "shape": shape}))


def _is_whole(folder: Path, checksum: str) -> bool:
    try:
        index = read_json(folder / _INDEX, 2**20)
        digest = hashlib.sha256()
        with open_regular(folder / _FILE) as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            if kind != np.uint8 or list(shape) != index["shape"]:
                return False
            while block := file.read(2**22):
                digest.update(block)
        return digest.hexdigest() == checksum == index["checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
