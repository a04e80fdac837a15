"""Reads CSV, TSV and JSON lines as columns, line by line."""

import codecs
import csv
import dataclasses
import io
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leukjax.data.columns import Column, check_cells
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, open_regular

_DELIMITERS = ",;\t|"
_MAX_ROW = 2**20  # characters
_READ_ROWS = 10_000  # at once


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table as columns.

    Attributes:
      columns: name -> value of each row.
      lines: number of the line of each row.
    """

    columns: dict[str, list[str]]
    lines: Sequence[int]


def read_table(path: Path) -> Rows:
    """Returns the rows of a table; reads it line by line.

    Raises:
      UserError: it cannot be read, is too large, or has no row.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_TABLE_BYTES:
                raise ValueError(f"it has more than {MAX_TABLE_BYTES >> 20} MiB")
            is_utf16 = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            encoding = "utf-16" if is_utf16 else "utf-8-sig"
            lines = _Lines(io.TextIOWrapper(file, encoding, newline=""))
            read_rows = _json_rows if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows
            rows = read_rows(lines)
    except OSError as error:
        raise UserError(f"table: {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"table: {path} cannot be read ({str(error)[:200]})") from error
    if not rows.lines:
        raise UserError(f"table: {path} has no row below its header")
    return rows


class _Lines:
    """Lines of a file, of which one row may take `_MAX_ROW` characters."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._size = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_ROW)
        self._size += len(line)
        if self._size >= _MAX_ROW:
            raise ValueError(f"a row has more than {_MAX_ROW:,} characters")
        if not line:
            raise StopIteration
        return line

    def end_row(self) -> None:
        """Starts counting the characters of the next row."""
        self._size = 0


def _csv_rows(lines: _Lines) -> Rows:
    first = next(lines, "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise ValueError(f"two columns are called {repeated[0][:100]}")
    numbers = array("q")

    def rows() -> Iterator[list[str]]:
        for values in reader:
            lines.end_row()
            if not any(map(str.strip, values)):
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"line {reader.line_num} has {len(values)} values, the header has {len(header)}"
                )
            numbers.append(reader.line_num)
            check_cells(len(numbers), len(header))
            yield values

    columns = [Column() for _ in header]
    table = rows()
    while some := list(itertools.islice(table, _READ_ROWS)):
        for column, cells in zip(columns, zip(*some, strict=True), strict=True):
            column.extend(map(str.strip, cells))
    return Rows(dict(zip(header, (column.values for column in columns), strict=True)), numbers)


def _json_rows(lines: _Lines) -> Rows:
    numbers = array("q")
    names: dict[str, None] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for number, line in enumerate(lines, start=1):
            lines.end_row()
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON") from error
            if not isinstance(record, dict):
                raise ValueError(f"line {number} is not a JSON object")
            if not record.keys() <= names.keys():
                names.update(dict.fromkeys(record))
                "".join(record).encode()  # JSON can hold halves of characters, which no file can
            numbers.append(number)
            check_cells(len(numbers), len(names))
            yield record

    columns: dict[str, Column] = {}
    table, count = rows(), 0
    while some := list(itertools.islice(table, _READ_ROWS)):
        for name in names:
            if name not in columns:
                columns[name] = Column(count)
            columns[name].extend([_text(record.get(name)) for record in some])
        count = len(numbers)
    return Rows({name: column.values for name, column in columns.items()}, numbers)


def _text(value: object) -> str:
    """Returns text or a number of JSON as text; "" for anything else."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    text = str(value).strip()
    text.encode()
    return text
