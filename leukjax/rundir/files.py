"""Bounded reading of the files of a work directory, which may come from an untrusted source.

Every file must be a regular file of bounded size. Functions raise OSError or ValueError, and
`reason` turns either into a short clause.
"""

import csv
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leukjax import storage
from leukjax.metrics.predictions import MAX_ROWS
from leukjax.rundir.schema import MAX_TEXT

MAX_JSON = 4 * 2**20  # bytes of a JSON file
MAX_LOG = 64 * 2**20  # bytes of a file with one JSON object per line
MAX_TABLE = 256 * 2**20  # bytes of a CSV


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a CSV.

    Raises:
      OSError: it cannot be read.
      ValueError: it is empty, too large or no CSV, or a row or value has the wrong length.
    """
    reader = csv.reader(io.StringIO(storage.read_text(path, MAX_TABLE), newline=""))
    try:
        header = next(reader, [])
        if not header:
            raise ValueError("is empty")
        rows: list[list[str]] = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError("a row has more or fewer columns than the header")
            if any(len(value) > MAX_TEXT for value in row):
                raise ValueError(f"a value has more than {MAX_TEXT:,} characters")
            if len(rows) == MAX_ROWS:
                raise ValueError(f"has more than {MAX_ROWS:,} rows")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return header, rows


def read_arrays(path: Path, largest: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns arrays of an .npz, whose sizes are checked before anything is allocated.

    Args:
      path: the file.
      largest: the largest shape of each array that is read.

    Raises:
      Exception: a damaged file, or an array that is missing or larger; zip, header and arrays
        raise their own.
    """
    with storage.open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return {key: _array(archive, key, shape) for key, shape in largest.items()}


def _array(archive: zipfile.ZipFile, key: str, largest: tuple[int, ...]) -> np.ndarray:
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key}: has a compression that no run writes")
    form: Any = np.lib.format
    with archive.open(entry) as file:
        if form.read_magic(file) != (1, 0):
            raise ValueError(f"{key}: another version of the format")
        shape, fortran, dtype = form.read_array_header_1_0(file)
        if len(shape) != len(largest) or any(
            not 0 <= size <= most for size, most in zip(shape, largest, strict=True)
        ):
            raise ValueError(f"{key}: has the shape {shape}, and at most {largest} is allowed")
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise ValueError(f"{key}: holds {dtype}, which is not numeric")
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{key}: holds another number of values than its header states")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError(f"{key}: holds values that are not finite")
    return array


def reason(error: object) -> str:
    """Returns what is wrong, in one line of bounded length."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, AttributeError | TypeError | RecursionError):
        return "must be a JSON object of fields and values"
    return short(str(error) or type(error).__name__)


def short(text: str) -> str:
    """Returns a text, cut off after 300 characters."""
    return text if len(text) <= 300 else f"{text[:300]}…"
