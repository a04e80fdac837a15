"""Reads Parquet files in a process with limits, which pyarrow's readers of damaged files need.

A small file may ask for any amount of memory: pages unpack to what they like, and a dictionary or a
run of equal values repeats one value for ever. pyarrow 21 and later unpickles no type of a file.
"""

import atexit
import bisect
import contextlib
import dataclasses
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from leukjax.data.columns import Column
from leukjax.data.limited_process import Died, LimitedProcess, limit
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, open_regular

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 3 * 2**29  # of the process
MAX_SECONDS = 100  # of processor time, for one request
MAX_IMAGE_BYTES = 2**28
_MAX_LINE = 2**26
_MAX_TEXT = 2**17  # characters of one value
_TEXT_ROWS = 1024  # of one line
_BATCH_ROWS, _BATCH_BYTES = 256, 2**22  # of the images that are read at once

NO_IMAGE, TOO_LARGE = -1, -2


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a Parquet file holds.

    Attributes:
      rows: number of rows.
      text: names of the columns of text, numbers and classes.
      images: names of the columns of bytes, plain or in a field `bytes`.
    """

    rows: int
    text: list[str]
    images: list[str]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images of consecutive rows.

    Attributes:
      path: the file.
      start: row of the first.
      images: bytes of each; or `NO_IMAGE`, or `TOO_LARGE`: above `MAX_IMAGE_BYTES`.
    """

    path: str
    start: int
    images: list[bytes | int]


def read_layout(path: str) -> Layout:
    """Returns the columns of a file, from its footer.

    Raises:
      UserError: it cannot be read.
    """
    layouts: list[Layout] = []
    _ask({"read": "layout", "path": path}, lambda answer, _: layouts.append(Layout(**answer)), path)
    return layouts[0]


def read_text(path: str, columns: dict[str, Column]) -> None:
    """Appends the rows of a file to columns, by name; numbers of a class become its name.

    Raises:
      UserError: it cannot be read, or has more than `MAX_TABLE_BYTES` of text.
    """

    def take(answer: dict[str, Any], _: IO[bytes]) -> None:
        for column, cells in zip(columns.values(), answer["cells"], strict=True):
            column.extend(cells)

    _ask({"read": "text", "path": path, "columns": list(columns)}, take, path)


def read_images(path: str, column: str, row: int) -> Batch:
    """Returns the image of a row and some that follow it; reading in order is fast.

    Raises:
      UserError: the file cannot be read.
    """
    batches: list[Batch] = []

    def take(answer: dict[str, Any], out: IO[bytes]) -> None:
        images = [out.read(size) if size >= 0 else size for size in answer["sizes"]]
        batches.append(Batch(path, answer["start"], images))

    _ask({"read": "images", "path": path, "column": column, "row": row}, take, path)
    return batches[0]


_process: LimitedProcess | None = None
_owner = 0
_lock = threading.Lock()


def _ask(
    request: dict[str, Any], take: Callable[[dict[str, Any], IO[bytes]], None], path: str
) -> None:
    """Sends a request, and gives each line of the answer to `take`."""
    global _process, _owner
    with _lock:
        if _owner != os.getpid():  # the first one, or after a fork
            _process, _owner = None, os.getpid()
        try:
            process = _process = _process or LimitedProcess(__name__)
            with _closed_if_it_fails(process), process.asked():
                request["limits"] = MAX_SECONDS, MAX_BYTES
                process.to.write(json.dumps(request).encode() + b"\n")
                process.to.flush()
                size = 0
                while not (answer := _answer(process.out)).keys() & {"end", "error"}:
                    take(answer, process.out)
                    size += sum(map(len, itertools.chain(*answer.get("cells", ()))))
                    if size > MAX_TABLE_BYTES:
                        raise UserError(f"root: {path} has more than {size >> 20} MiB of text")
        except Died as error:
            raise UserError(
                f"root: {path} takes more than {MAX_BYTES >> 20} MiB or {MAX_SECONDS} s to read: "
                "it is damaged, or needs smaller row groups"
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"root: {path} is read in a process of its own, which cannot be started ({reason})"
            ) from error
    if "error" in answer:
        raise UserError(f"root: {path} cannot be read ({answer['error']})")


@contextlib.contextmanager
def _closed_if_it_fails(process: LimitedProcess) -> Iterator[None]:
    global _process
    try:
        yield
    except BaseException:
        process.close()
        _process = None
        raise


def _answer(out: IO[bytes]) -> dict[str, Any]:
    line = out.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise Died
    return json.loads(line)


@atexit.register
def _close() -> None:
    if _process and _owner == os.getpid():
        _process.close()


# What follows runs in the process.


def serve(stdin: IO[bytes], out: IO[bytes]) -> None:
    """Answers requests until stdin ends."""
    opened: _Opened | None = None
    for line in stdin:
        request = json.loads(line)
        limit(*request["limits"])
        end: dict[str, Any] = {"end": True}
        try:
            if opened is None or opened.is_another(request["path"]):
                opened = None  # closes the last one first
                opened = _Opened(request["path"])
            for answer, images in opened.answers(request):
                out.write(json.dumps(answer).encode() + b"\n")
                out.writelines(images)
        except Exception as error:  # pyarrow raises nearly anything on damaged files
            opened = None
            text = str(error) if not isinstance(error, OSError) else error.strerror or str(error)
            end = {"error": (" ".join(text.split()) or type(error).__name__)[:200]}
        out.write(json.dumps(end).encode() + b"\n")
        out.flush()


class _Opened:
    """An open file, and where its images are being read."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        file = open_regular(path)
        self._about = path, os.fstat(file.fileno()).st_mtime_ns
        self._file = pq.ParquetFile(
            file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True
        )
        self._schema = self._file.schema_arrow
        meta = self._file.metadata
        groups = [meta.row_group(group) for group in range(meta.num_row_groups)]
        self._starts = [0, *itertools.accumulate(group.num_rows for group in groups)]
        if self._starts[-1] != meta.num_rows or any(group.num_rows < 0 for group in groups):
            raise ValueError("its row groups have other numbers of rows than the file")
        repeated = [name for name, count in Counter(self._schema.names).items() if count > 1]
        if repeated:
            raise ValueError(f"two columns are called {repeated[0]}")
        self._column = ""
        self._next = self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def is_another(self, path: str) -> bool:
        """Whether a path is not this file, or the file was changed."""
        return self._about != (path, os.stat(path).st_mtime_ns)

    def answers(self, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Sequence[bytes]]]:
        """Yields the lines of an answer, each with the images that follow it."""
        if request["read"] == "layout":
            text = [field.name for field in self._schema if _is_text(field.type)]
            images = [field.name for field in self._schema if _is_image(field.type)]
            yield {"rows": self._starts[-1], "text": text, "images": images}, ()
        elif request["read"] == "text":
            yield from ((answer, ()) for answer in self._text(request["columns"]))
        else:
            start, images = self._images(request["column"], request["row"])
            sizes = [_size(image) for image in images]
            taken = [image for image, size in zip(images, sizes, strict=True) if size >= 0]
            yield {"start": start, "sizes": sizes}, taken  # type: ignore[misc]

    def _text(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        names = _class_names(self._schema.metadata)
        for batch in self._file.iter_batches(_TEXT_ROWS, columns=columns, use_threads=False):
            yield {"cells": [_cells(batch, name, names.get(name)) for name in columns]}

    def _images(self, column: str, row: int) -> tuple[int, list[bytes | None]]:
        """Returns a row's image and those that are read with it, and the row of the first."""
        group = bisect.bisect_right(self._starts, row) - 1
        if (column, group) != (self._column, self._group) or row < self._next:
            of_group = self._file.metadata.row_group(group)
            size = of_group.total_byte_size // max(1, of_group.num_rows)
            rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, size)))
            is_struct = not _is_bytes(self._schema.field(column).type)
            leaf = f"{column}.bytes" if is_struct else column
            self._batches = self._file.iter_batches(rows, [group], [leaf], use_threads=False)
            self._column, self._group, self._next = column, group, self._starts[group]
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"row group {group} has fewer rows than it states")
            start, self._next = self._next, self._next + batch.num_rows
            if row < self._next:
                return start, _bytes(batch, column)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer,
             types.is_floating, types.is_boolean, types.is_date, types.is_timestamp)  # fmt: skip
    return any(test(kind) for test in tests)


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_image(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Returns the names of the classes of each column, as the library `datasets` writes them."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            # JSON can hold halves of characters, which no file can.
            column: [str(name).encode().decode() for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    return {}


def _cells(batch: "pa.RecordBatch", column: str, names: list[str] | None) -> list[str]:
    """Returns the values of a column as text; "" where there is none."""
    import pyarrow as pa

    values = batch.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if names is not None and pa.types.is_integer(values.type):
        codes = [-1 if code is None else code for code in values.to_pylist()]
        if max(codes, default=0) >= len(names) or min(codes, default=0) < -1:
            raise ValueError(f"column {column}: {max(codes)} is none of its {len(names)} classes")
        return [names[code].strip() if code >= 0 else "" for code in codes]
    is_floating = pa.types.is_floating(values.type)
    cells = [(cell or "").strip() for cell in values.cast(pa.string()).to_pylist()]
    if any(len(cell) > _MAX_TEXT for cell in cells):
        raise ValueError(f"column {column}: a value has more than {_MAX_TEXT:,} characters")
    return ["" if cell == "nan" else cell for cell in cells] if is_floating else cells


def _bytes(batch: "pa.RecordBatch", column: str) -> list[bytes | None]:
    import pyarrow.compute as pc

    (values,) = batch.columns  # more if names of columns hold dots
    is_struct = not _is_bytes(values.type)
    return (pc.struct_field(values, "bytes") if is_struct else values).to_pylist()


def _size(image: bytes | None) -> int:
    if image is None:
        return NO_IMAGE
    return len(image) if len(image) <= MAX_IMAGE_BYTES else TOO_LARGE
