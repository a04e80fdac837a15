"""Folders of prepared images: ArrayRecord files, and `index.json`, which lists and checks them."""

import bisect
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import UInt8
from tensorflow_datasets.proto import tf_example_pb2

from leukjax import storage

_INDEX = "index.json"
# No read-ahead, which helps sequential reading only, and no threads to hand a record to.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
# records-part_00002.array_record-00000-of-00001: the part, and its shard.
_SHARD = re.compile(r"-part_([0-9]+)\.array_record-([0-9]+)-of-[0-9]+$")


def write_index(folder: Path, facts: dict[str, Any]) -> None:
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
        self._files = [str(file) for file in files]
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
            reader = ArrayRecordReader(self._files[file], _READER_OPTIONS)
        reader.seek(number - (self._ends[file - 1] if file else 0))
        record = reader.read()
        idle.append(reader)  # not after an error: then the next read opens another reader
        return record


def _count(file: Path) -> int:
    reader = ArrayRecordReader(str(file), _READER_OPTIONS)
    try:
        return int(reader.num_records())
    finally:
        reader.close()
