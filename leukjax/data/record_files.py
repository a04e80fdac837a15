"""Single records out of ArrayRecord files, at a cost that does not grow with how many they hold."""

import bisect
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

# No reading ahead, which helps reading in order only, and no threads to hand a record to.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


# smears-part_00002.array_record-00000-of-00001: the part, and the shard of it.
_SHARD = re.compile(r"-part_([0-9]+)\.array_record-([0-9]+)-of-[0-9]+$")


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
    def of_tfds(cls, folder: Path, names: Iterable[str]) -> "RecordFiles":
        """The files that TFDS wrote below a folder, in the order of the records.

        TFDS' own descriptions are not read: it would import the class that they name.

        Args:
          folder: where the names begin.
          names: paths below it; those of other files are left out.

        Raises:
          ValueError: a name leads out of the folder.
          RuntimeError: a file is damaged.
        """
        found = {}
        for name in names:
            match = _SHARD.search(name)
            if match:
                if ".." in Path(name).parts or Path(name).is_absolute():
                    raise ValueError(f"{name}: leads out of {folder}")
                found[int(match[1]), int(match[2])] = folder / name
        files = [found[place] for place in sorted(found)]
        return cls(files, [_count(file) for file in files])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

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


def _count(file: Path) -> int:
    reader = ArrayRecordReader(str(file), _OPTIONS)
    try:
        return int(reader.num_records())
    finally:
        reader.close()
