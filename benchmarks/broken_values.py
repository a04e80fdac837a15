"""JSON, tables and arrays that are well formed but wrong, and paths that are not regular files."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from broken_case import TEXTS, damage

# Texts that a terminal, a table, Matplotlib's math text, a page or a file system interprets.
ODD_TEXTS = ("\x1b[31mred\x1b[0m", "a\rb", "\x07", "\x9b2J", "\u202e", "$x_1$", "a_b^c", "$",
             "细胞", "=1+1", '"', ",", "<img src=x onerror=alert(1)>", "../../outside", "/dev/zero",
             "\ud800", "\0", "é" * 120, "x" * 70_000, "%s%n", "{}", "[0-9]", "-rf")  # fmt: skip

_SCALARS: tuple[Any, ...] = (None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-300, 1e308, -1e308,
            float("nan"), float("inf"), float("-inf"), 2**31, 2**63, 10**30, 10**400, "",
            [], {}, [[]], [None], {"": None}, [1, 2, 3], ["a", "a"], *TEXTS,
            *ODD_TEXTS)  # fmt: skip


def odd_value(random: np.random.Generator) -> Any:
    """Returns a JSON value of any type."""
    how = random.random()
    if how < 0.03:
        return nested(int(random.choice((40, 900, 100_000))))
    if how < 0.06:
        return [0.0] * 10**5
    return _SCALARS[int(random.integers(len(_SCALARS)))]


def nested(depth: int) -> Any:
    """Returns nested lists; beyond a thousand too deep for `json.dumps`, which `dump` handles."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def dump(value: Any) -> str:
    """Returns JSON of any value, including NaN and deep nesting."""
    try:
        return json.dumps(value, indent=1)
    except RecursionError:
        return "[" * 100_000 + "]" * 100_000


def change(value: Any, random: np.random.Generator) -> Any:
    """Returns a JSON value with one element changed, removed or of another type."""
    elements = list(_elements(value))
    if not elements or random.random() < 0.05:
        return odd_value(random)
    holder, key = elements[int(random.integers(len(elements)))]
    how = random.integers(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[str(random.choice(TEXTS))] = odd_value(random)
    elif how == 2 and isinstance(holder, list):
        holder.append(holder[key])
    elif how == 3 and isinstance(holder[key], dict):
        holder[key] = list(holder[key].items())
    elif how == 3 and isinstance(holder[key], list):
        holder[key] = dict(enumerate(holder[key]))
    elif how <= 4 and isinstance(holder[key], int | float):
        factors = (-1, 0, 1e3, 1e9, 1e300, float("nan"))
        holder[key] = holder[key] * factors[int(random.integers(len(factors)))]
    elif how == 5:
        holder[key] = [holder[key]]
    else:
        holder[key] = odd_value(random)
    return value


def _elements(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yields every (holder, key) of a JSON value, except below `nested`."""
    if not isinstance(value, dict | list) or depth > 50:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        yield from _elements(inner, depth + 1)


def change_json(data: bytes, random: np.random.Generator) -> bytes:
    """Returns JSON, or lines of JSON, with values changed, another encoding, or damage."""
    text = data.decode()
    try:
        values, lines = [json.loads(text)], False
    except ValueError:
        values, lines = [json.loads(line) for line in text.splitlines() if line], True
    if not values:
        return damage(data, random)
    for _ in range(random.integers(1, 4)):
        index = int(random.integers(len(values)))
        values[index] = change(values[index], random)
    if lines:
        text = "".join(dump(value).replace("\n", "") + "\n" for value in values)
    else:
        text = dump(values[0])
    if random.random() < 0.05:  # the first key twice
        text = text.replace("{", '{"classes": 3, ', 1)
    return _encode(text, random)


def _encode(text: str, random: np.random.Generator) -> bytes:
    encodings = ("utf-8", "utf-8-sig", "utf-16", "latin-1")
    encoding = str(random.choice(encodings, p=(0.79, 0.07, 0.07, 0.07)))
    data = text.encode(encoding, errors="replace")
    return damage(data, random) if random.random() < 0.15 else data


def read_table(data: bytes) -> list[list[str]]:
    """Returns the rows of a CSV file."""
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def change_table(rows: list[list[str]], random: np.random.Generator) -> bytes:
    """Returns a table as CSV with common mistakes: cells, rows or columns changed."""
    numbers = ("nan", "inf", "-1", "2", "1e308", "0", "1e-400", "0x1", "٠.٥", "1_0")
    for _ in range(random.integers(1, 4)):
        if not rows or not rows[0]:
            break
        how, row = random.integers(14), int(random.integers(len(rows)))
        column, cells = int(random.integers(len(rows[0]))), rows[row]
        if how == 0:
            rows.pop(row)
        elif how == 1:
            rows.insert(row, list(rows[int(random.integers(len(rows)))]))
        elif how == 2:
            rows = [other[:column] + other[column + 1 :] for other in rows]
        elif how == 3:
            rows = [[*other, *other[column : column + 1]] for other in rows]
        elif how == 4:
            rows[row] = cells[:-1]
        elif how == 5:
            rows = rows[:1]
        elif how == 6:
            rows[row] = [*cells, "more"]
        elif how == 7:
            rows.append([str(random.choice(TEXTS)) for _ in rows[0]])
        elif how == 8:
            rows[row] = [value.upper() for value in cells]
        elif how == 9:
            rows[row] = [f" {value} " for value in cells]
        elif how == 10 and cells:
            cells[0] = "../" + cells[0]
        elif column < len(cells):
            texts = numbers if how == 11 else (*TEXTS, *ODD_TEXTS, "x" * 200_000)
            cells[column] = str(texts[int(random.integers(len(texts)))])
    text = io.StringIO()
    delimiter = str(random.choice((",", ";", "\t"), p=(0.9, 0.05, 0.05)))
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return _encode(text.getvalue(), random)


def change_arrays(data: bytes, random: np.random.Generator) -> bytes:
    """Returns an .npz file with other values, shapes or types, or one that grows when read."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = str(random.choice(list(arrays)))
    value, how = arrays[name], random.integers(9)
    if how == 0:
        del arrays[name]
    elif how == 1:
        numbers = (np.nan, np.inf, 0, -1, 1e308)
        arrays[name] = np.full_like(value, numbers[int(random.integers(4 if value.ndim else 3))],
                                    dtype=np.float64)  # fmt: skip
    elif how == 2:
        arrays[name] = value[None]
    elif how == 3:
        arrays[name] = value.reshape(-1)[:-1]
    elif how == 4:
        kinds = ("complex64", "S8", "int8", "bool", "O")
        arrays[name] = value.astype("O" if value.dtype.kind == "U" else str(random.choice(kinds)))
    elif how == 5:
        arrays[name] = np.ascontiguousarray(value.T)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    if how == 6:
        return _bomb(arrays, name)
    return damage(file.getvalue(), random) if how == 7 else file.getvalue()


def _bomb(arrays: dict[str, np.ndarray], name: str) -> bytes:
    """Returns an .npz file of 60 kB whose member states 6.4 GB and holds 64 MB of zeros."""
    file, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (8 * 10**8,)}
    )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, value in arrays.items():
            content = io.BytesIO()
            np.save(content, value, allow_pickle=True)
            archive.writestr(
                f"{other}.npy",
                header.getvalue() + bytes(64 * 2**20) if other == name else content.getvalue(),
            )
    return file.getvalue()


SPECIAL = ("FIFO", "folder", "/dev/zero", "/dev/full", "/proc/self/mem", "nowhere", "itself",
           "12 GiB with a hole", "link outside", "missing")  # fmt: skip


def make_special(
    path: Path, random: np.random.Generator, outside: Path, kinds: Sequence[str] = SPECIAL
) -> str:
    """Replaces a file by something that is not a regular file.

    Args:
      path: of the file, which may be missing.
      random: decides.
      outside: a folder that no case may touch.
      kinds: of `SPECIAL`.

    Returns:
      The kind.
    """
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    kind = str(random.choice(kinds))
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "12 GiB with a hole":
        path.write_bytes(content)
        os.truncate(path, 12 * 2**30)
    elif kind == "link outside":
        (outside / path.name).write_bytes(content)
        path.symlink_to(outside / path.name)
    elif kind == "itself":
        path.symlink_to(path.name)
    elif kind != "missing":
        path.symlink_to(kind)
    return kind
