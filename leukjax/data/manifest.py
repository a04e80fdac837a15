"""The manifest: a table with one row per image, its label, its group and its checksums."""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, csv_writer, read_bytes, write_atomic

UNLABELLED = -1

_TEXT = ("id", "path", "subject", "group", "phase", "sha256", "pixels")
_ROWS_AT_ONCE = 20_000
_COLUMNS = ("id", "path", "label", "subject", "group", "phase", "sha256", "pixels", "phash", "area")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Images as columns of equal length. A scan returns the rows sorted by id.

    Attributes:
      classes: class names; `label` indexes them.
      id: str[n], unique.
      path: str[n], relative to the root; "archive.zip!member" in a zip; "" if there is no file.
      label: int32[n]; -1 = unlabelled.
      subject: str[n], the person (or slide, or field) that the image is of.
      group: str[n], subjects joined by identical images: the unit of splits and statistics.
      phase: str[n], part of the data set in its official release ("fold_0", "final", …) or "".
      sha256: str[n], hex digest of the file's bytes.
      pixels: str[n], hex digest of shape and decoded RGB pixels.
      phash: uint64[n], perceptual hash (leukjax.data.image_stats).
      area: float32[n], share of the image at source resolution that is foreground, in [0, 1].
    """

    classes: tuple[str, ...]
    id: np.ndarray
    path: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    group: np.ndarray
    phase: np.ndarray
    sha256: np.ndarray
    pixels: np.ndarray
    phash: np.ndarray
    area: np.ndarray

    def __post_init__(self) -> None:
        for name in _TEXT:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.str_))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "label", np.asarray(self.label, dtype=np.int32))
        object.__setattr__(self, "phash", np.asarray(self.phash, dtype=np.uint64))
        object.__setattr__(self, "area", np.asarray(self.area, dtype=np.float32))
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        if not _increases(self.id) and len(np.unique(self.id)) != len(self.id):
            raise ValueError("ids are not unique")
        if len(self) and not -1 <= self.label.min() <= self.label.max() < len(self.classes):
            raise ValueError(f"labels outside -1..{len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def group_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted unique group names str[g], and the index of each row's group int[n]."""
        names, codes = np.unique(self.group, return_inverse=True)
        return names, codes.reshape(-1)

    def take(self, rows: Int[np.ndarray, "m"]) -> "Manifest":
        """Returns the manifest of these rows, in their order."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return Manifest(classes=self.classes, **columns)

    def checksum(self) -> str:
        """Returns a hex digest of what determines training: ids, labels, subjects, groups, pixels.

        It does not depend on the order of the rows, on paths and on the encoding of the files.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        order = slice(None) if _increases(self.id) else np.argsort(self.id)
        columns = (self.id, self.subject, self.group, self.pixels, self.label)
        for row in zip(*(column[order].tolist() for column in columns), strict=True):
            digest.update("{}\0{}\0{}\0{}\0{}\n".format(*row).encode())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes the manifest as CSV; its first line, a comment, holds the class names."""
        text = io.StringIO()
        text.write("#" + json.dumps({"classes": self.classes}) + "\n")
        writer = csv_writer(text)
        writer.writerow(_COLUMNS)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            columns = {name: getattr(self, name)[rows].tolist() for name in _COLUMNS}
            columns["phash"] = [f"{value:016x}" for value in columns["phash"]]
            # 9 significant digits restore a float32 exactly.
            columns["area"] = [f"{value:.9g}" for value in columns["area"]]
            writer.writerows(zip(*columns.values(), strict=True))
        write_atomic(path, text.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Reads what `save` wrote.

        Raises:
          UserError: the file is missing or not a manifest.
        """
        try:
            return cls.parse(read_bytes(path, MAX_TABLE_BYTES), path)
        except OSError as error:
            raise _unreadable(path, error) from error

    @classmethod
    def parse(cls, content: bytes, path: Path) -> "Manifest":
        """Returns the manifest whose file has this content; `path` is for messages.

        Raises:
          UserError: it is not a manifest.
        """
        # Imported here: only commands that read images need it.
        import pyarrow
        from pyarrow import csv

        try:
            end = content.index(b"\n") + 1
            classes = json.loads(content[:end].decode().removeprefix("#"))["classes"]
            table = csv.read_csv(
                pyarrow.BufferReader(pyarrow.py_buffer(content)[end:]),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(_COLUMNS, pyarrow.string()),
                    include_columns=_COLUMNS,
                    null_values=[],
                ),
            )
            columns: dict = {name: _array(table[name]) for name in _COLUMNS}
            columns["label"] = [int(value) for value in columns["label"].tolist()]
            columns["phash"] = [int(value, 16) for value in columns["phash"].tolist()]
            columns["area"] = [float(value) for value in columns["area"].tolist()]
            return cls(classes=tuple(classes), **columns)
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise _unreadable(path, error) from error


def _array(column: Any) -> np.ndarray:
    """Returns a column of text as str[n]; block by block, as lists of text need much memory."""
    blocks = [block.to_numpy(zero_copy_only=False).astype(np.str_) for block in column.chunks]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.str_)


def _increases(ids: np.ndarray) -> bool:
    """Returns whether text is in order and unique, as a scan returns it."""
    return bool((ids[1:] > ids[:-1]).all())


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a readable manifest ({error}). Delete it and start again")


def natural(text: str) -> tuple:
    """Returns a sort key that puts 3 before 20, and H2 before H10."""
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def join_groups(
    subject: Sequence[str] | np.ndarray,
    sha256: Sequence[str] | np.ndarray,
    pixels: Sequence[str] | np.ndarray,
) -> np.ndarray:
    """Joins subjects that share an identical image, by bytes or by pixels.

    Args:
      subject: str[n].
      sha256: str[n], digests of the bytes; "" = not known.
      pixels: str[n], digests of the decoded pixels; "" = not known.

    Returns:
      str[n], the group of each row: the name of the subject, or the joined names ("H2+H4+H5");
      above eight members the first name and the number of the others.
    """
    names, owner = np.unique(np.asarray(subject, dtype=np.str_), return_inverse=True)
    parent = list(range(len(names)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for digests in (sha256, pixels):
        first: dict[str, int] = {}
        for code, digest in zip(owner.tolist(), np.asarray(digests).tolist(), strict=True):
            if digest:
                a, b = find(first.setdefault(digest, code)), find(code)
                parent[max(a, b)] = min(a, b)

    members: dict[int, list[str]] = {}
    for i, name in enumerate(names.tolist()):
        members.setdefault(find(i), []).append(name)
    title = {root: joined_name(sorted(group, key=natural)) for root, group in members.items()}
    by_subject = np.array([title[find(i)] for i in range(len(names))], dtype=np.str_)
    return by_subject[owner.reshape(-1)] if len(names) else np.zeros(0, np.str_)


def joined_name(members: list[str]) -> str:
    """Returns the name of a group of several: all names, or the first and the number of others."""
    if len(members) > 8:
        return f"{members[0]}+{len(members) - 1} others"
    return "+".join(members)
