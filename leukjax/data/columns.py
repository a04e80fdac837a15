"""Columns of tables: their roles, and the labels and attributes that they give."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from leukjax.data.source import INFO, WARNING, Entry, Note
from leukjax.errors import UserError

# What a column may be called, in order of preference; compared in lower case.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img_path",
             "img_name", "image_name", "id", "image_id"),
    "label": ("label", "labels", "class", "class_name", "target", "diagnosis", "cell_type"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "case", "case_id", "group"),
    "part": ("part", "split", "subset", "fold", "partition"),
    "source": ("source", "site", "hospital", "center", "centre", "scanner"),
}  # fmt: skip

MAX_VALUES = 32  # of an attribute: a column with more identifies people, or needs bands
MAX_CLASSES = 10_000
MAX_CELLS = 50_000_000  # rows times columns; each takes at least the 8 bytes of a reference
_FEW = 10_000


class Column:
    """Values of a column; equal ones are one object where there are few different ones."""

    def __init__(self, count: int = 0) -> None:
        self.values = [""] * count
        self._known: dict[str, str] = {}

    def extend(self, cells: Iterable[str]) -> None:
        """Appends cells."""
        known = self._known
        if len(known) <= _FEW:
            cells = (known.setdefault(cell, cell) for cell in cells)
        self.values.extend(cells)


def check_cells(rows: int, columns: int) -> None:
    """Raises a ValueError for a table that is too large to be held."""
    if rows * columns > MAX_CELLS:
        raise ValueError(f"it has more than {MAX_CELLS:,} values")


def find_columns(
    header: Sequence[str],
    given: str,
    where: str,
    *,
    images: Sequence[str] | None = None,
    needs_path: bool = True,
) -> dict[str, str]:
    """Returns the column of each role that a table has.

    Args:
      header: names of the columns of text.
      given: ``"path=ID, label=diagnosis"``; an empty name means that there is no such column.
      where: ``FIELD: PATH`` of the table, for messages.
      images: columns that hold images, one of which has the role "path"; None = paths are text.
      needs_path: whether a table without the role "path" is refused.

    Raises:
      UserError: `given` is malformed or names an unknown column; no column of paths or labels.
    """
    paths = header if images is None else images
    chosen = _given(given, header, paths)
    for role, names in COLUMNS.items():
        candidates = paths if role == "path" else header
        by_lower = {name.lower(): name for name in reversed(candidates)}
        if role not in chosen:
            match = next((by_lower[name] for name in names if name in by_lower), "")
            if role == "path" and images and not match:
                match = images[0]  # known by its type
            chosen[role] = "" if match in chosen.values() else match
    for role, kind in (("path", "images" if images is not None else "paths"), ("label", "labels")):
        if not chosen[role] and (role == "label" or needs_path):
            raise UserError(
                f"{where} has no column of {kind}; its columns are {listed(header)}; "
                f"name one with columns='{role}=…'"
            )
    return {role: name for role, name in chosen.items() if name}


def _given(given: str, header: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in given.split(","))):
        role, equals, name = (text.strip() for text in pair.partition("="))
        if not equals or role not in COLUMNS:
            raise UserError(
                f"columns: {pair!r} must read ROLE=COLUMN with a role of {', '.join(COLUMNS)}"
            )
        candidates = paths if role == "path" else header
        if name and name not in candidates:
            raise UserError(
                f"columns: the table has no column {name!r}; it has {listed(candidates)}"
            )
        chosen[role] = name
    return chosen


def find_classes(labels: Iterable[str], column: str, where: str) -> tuple[str, ...]:
    """Returns the different labels, sorted (as numbers if all are); "" is none.

    Raises:
      UserError: fewer than two, or more than `MAX_CLASSES`.
    """
    different = set(labels) - {""}
    if not 2 <= len(different) <= MAX_CLASSES:
        count = f"{len(different):,} class{'es' if len(different) > 1 else ''}"
        limit = "two" if len(different) < 2 else f"at most {MAX_CLASSES:,}"
        raise UserError(f"{where}: the column {column} has {count}; it needs {limit}")
    return sort_labels(different)


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns labels in their order as classes: by their numbers if all are numbers."""
    ordered = sorted(labels)
    if all(re.fullmatch("-?[0-9]{1,18}", label) for label in ordered):
        ordered.sort(key=int)
    return tuple(ordered)


def find_attributes(
    columns: Mapping[str, Sequence[str]], names: Mapping[str, str], ids: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Returns attributes, as `Source.attributes`: the sources, and the columns without a role.

    Args:
      columns: value of each row, by column.
      names: column of each role.
      ids: of each row.
    """
    taken = {"", "id", *(name for role, name in names.items() if role != "source")}
    if "source" in names:  # another column of that name is not the source
        taken |= {"source"} - {names["source"]}
    attributes = {}
    for name, values in columns.items():
        if name not in taken and 2 <= len(set(values) - {""}) <= MAX_VALUES:
            role = "source" if name == names.get("source") else name
            attributes[role] = dict(zip(ids, values, strict=True))
    return attributes


def describe(
    entries: Sequence[Entry], classes: Sequence[str], names: Mapping[str, str], title: str
) -> list[Note]:
    """Returns notes on the images of a table, and on what its columns lack."""
    counts = Counter(entry.label for entry in entries)
    per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    used = ", ".join(f"{role} from {name}" for role, name in names.items())
    notes = [Note(INFO, f"{len(entries):,} images ({per_class}) of {title}: {used}")]
    if counts[-1]:
        notes.append(Note(INFO, f"{counts[-1]:,} images have no label and are not used"))
    if "subject" not in names:
        notes.append(
            Note(WARNING, "the table has no subjects: each image counts as its own, and scores may "
                          "be too high")
        )  # fmt: skip
    return notes


def listed(names: Sequence[str]) -> str:
    """Returns names for a message, cut where they are too many."""
    text = ", ".join(names[:50])
    return text if len(text) <= 300 and len(names) <= 50 else f"{text[:300]}…"
