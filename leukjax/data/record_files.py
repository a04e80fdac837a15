"""Single records out of ArrayRecord files, at a cost that does not grow with how many they hold."""

import bisect
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

# No reading ahead, which helps reading in order only, and no threads to hand a record to.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class RecordFiles:
    """Records of files that are read as one, by their number over all files. Thread-safe.

    `ArrayRecordDataSource`, which TFDS opens, makes a list over all records of a file at every
    call: 4 ms in one of a million. A reader that goes to the record (`seek`) does not. It
    remembers where it is, so no two threads may use one at a time.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int]):
        """`counts`: how many records each file holds."""
        self._files = [str(file) for file in files]
        self._ends = list(itertools.accumulate(counts))
        self._idle: list[list[Any]] = [[] for _ in files]

    @classmethod
    def of_tfds(cls, folder: Path, split: str) -> "RecordFiles":
        """The files of a split of a prepared data set."""
        parts = tfds.builder_from_directory(folder).info.splits[split].file_instructions
        return cls([folder / os.path.basename(p.filename) for p in parts], [p.take for p in parts])

    def __getitem__(self, number: int) -> bytes:
        """The record; what it raises on a damaged file depends on the damage."""
        file = bisect.bisect_right(self._ends, number)
        idle = self._idle[file]
        try:
            reader = idle.pop()
        except IndexError:
            reader = ArrayRecordReader(self._files[file], _OPTIONS)
        reader.seek(number - (self._ends[file - 1] if file else 0))
        record = reader.read()
        idle.append(reader)  # not after an error: another reader starts afresh
        return record
