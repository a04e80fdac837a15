"""Arrays with one row per image that are filled chunk by chunk, in memory or in files.

``NAME.npy`` holds an array and ``NAME.index.npy`` the checksum of each chunk of rows that is done.
A chunk counts if its checksum stands: a process may be killed at any moment, and damage is found.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from leukjax import storage

Form = tuple[tuple[int, ...], np.dtype]  # shape, with the rows first, and dtype


class StoredArrays:
    """Arrays of equal numbers of rows."""

    def __init__(self, folder: Path | None, forms: Mapping[str, Form], chunk: int) -> None:
        """Opens the files; those that are missing, or of another form, are made.

        Args:
          folder: of the files, locked by the caller; None = in memory.
          forms: of each array, by name.
          chunk: number of rows of a chunk; the last one may have fewer.
        """
        self._count, self._chunk = next(iter(forms.values()))[0][0], chunk
        chunks = -(-self._count // chunk)
        self._arrays: dict[str, _Array] = {}
        for name, (shape, dtype) in forms.items():
            values = _Array.open(folder, name, (shape, dtype))
            index = _Array.open(folder, f"{name}.index", ((chunks,), np.dtype(np.uint32)))
            self._arrays[name], self._arrays[f"{name}.index"] = values, index
        self._names = tuple(forms)
        self._chunks = chunks

    def rows(self, chunk: int) -> Int[np.ndarray, " m"]:
        """Returns the rows of a chunk."""
        return np.arange(chunk * self._chunk, min((chunk + 1) * self._chunk, self._count))

    def missing(self) -> list[int]:
        """Returns the chunks that some array lacks; reads everything."""
        return [
            chunk
            for chunk in range(self._chunks)
            if not all(self._is_done(name, chunk) for name in self._names)
        ]

    def write(self, chunk: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes the rows of a chunk, and then its checksums."""
        for name, array in values.items():
            self._arrays[name].write(chunk * self._chunk, array)
            digest = np.array([_checksum(array)], np.uint32)
            self._arrays[f"{name}.index"].write(chunk, digest)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays, read-only."""
        return {name: self._arrays[name].values for name in self._names}

    def _is_done(self, name: str, chunk: int) -> bool:
        rows = self._arrays[name].values[chunk * self._chunk : (chunk + 1) * self._chunk]
        stated = int(self._arrays[f"{name}.index"].values[chunk])
        # 0 marks a chunk that was never written; one in four billion is computed each time.
        return stated != 0 and stated == _checksum(rows)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


@dataclasses.dataclass(frozen=True, eq=False)
class _Array:
    """An array, and its file unless it is in memory.

    Attributes:
      values: read-only; a file is mapped into memory.
      path: of the file, or None.
    """

    values: np.ndarray
    path: Path | None

    @classmethod
    def open(cls, folder: Path | None, name: str, form: Form) -> "_Array":
        """Opens or makes an array of zeros."""
        if folder is None:
            return cls(np.zeros(*form), None)
        path = folder / f"{name}.npy"
        values = _mapped(path, form)
        if values is None:
            _make(path, form)
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(values, path)

    def write(self, row: int, rows: np.ndarray) -> None:
        """Writes rows, from `row` on."""
        if self.path is None:
            self.values[row : row + len(rows)] = rows
            return
        # Not through the mapping: on a full disk that ends the process, and this raises OSError.
        assert isinstance(self.values, np.memmap)
        size = self.values.dtype.itemsize * math.prod(self.values.shape[1:])
        with open(self.path, "r+b") as file:
            file.seek(self.values.offset + row * size)
            file.write(np.ascontiguousarray(rows, self.values.dtype).tobytes())


def _mapped(path: Path, form: Form) -> np.ndarray | None:
    """Returns the array of a file; None if there is none, or another one than is wanted."""
    if not os.path.lexists(path):
        return None
    try:
        if path.is_symlink():
            return None
        storage.open_regular(path).close()
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, SyntaxError, EOFError):
        return None
    is_same = (values.shape, values.dtype) == form and values.flags.c_contiguous
    return values if is_same and isinstance(values, np.memmap) else None


def _make(path: Path, form: Form) -> None:
    shape, dtype = form
    header: dict[str, object] = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with storage.open_atomic(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + dtype.itemsize * math.prod(shape))
