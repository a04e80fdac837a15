"""Table: images listed in a CSV, TSV or JSON lines file, with labels, subjects and parts."""

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ml_collections import ConfigDict

from leukjax.data.archive import File, Files, native
from leukjax.data.dataset import FileDataset, names_config_fields, sampled_images
from leukjax.data.image_stats import find_background
from leukjax.data.parts import official_parts
from leukjax.data.source import INFO, WARNING, Entry, Note
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, read_bytes

# What a column may be called, in order of preference; compared in lower case.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img_path",
             "img_name", "image_name", "id", "image_id"),
    "label": ("label", "labels", "class", "class_name", "target", "diagnosis", "cell_type"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "case", "case_id", "group"),
    "part": ("part", "split", "subset", "fold", "partition"),
    "source": ("source", "site", "hospital", "center", "centre", "scanner"),
}  # fmt: skip
_DELIMITERS = ",;\t|"
MAX_VALUES = 32  # of an attribute: a column with more identifies people, or needs bands
_LISTED = 3  # files that a message names


class Row(NamedTuple):
    """A row of a table: the number of its line, and its values by column."""

    line: int
    values: Mapping[str, str]


class Table(FileDataset):
    """Images listed in a table."""

    def __init__(
        self,
        table: str | os.PathLike[str],
        root: str | os.PathLike[str] = "",
        *,
        columns: str = "",
        path_template: str = "",
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Reads the table and finds its images.

        Classes are the values of the label column, sorted (as numbers if all are); an empty label
        means unlabelled. Ids are the paths below the root. If the part column has train and test
        (or validation, …), these are the published parts: ``split.protocol=given``. Every
        other column of 2 to `MAX_VALUES` different values is an attribute, for scores by
        subgroup.

        Args:
          table: CSV with a header and any of the delimiters , ; tab |, or JSON lines (.jsonl,
            .ndjson); UTF-8, or UTF-16 with a byte order mark.
          root: folder or zip with the images. Default: the folder of the table.
          columns: ``"path=ID, label=diagnosis"`` names columns that `COLUMNS` does not find; an
            empty name (``"subject="``) means that there is none.
          path_template: path of an image below the root, from columns in braces, as
            ``"images/{label}/{ID}.png"``. Default: the path column as it is.
          positive: class of precision, recall and F1. Default: the second of two.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          UserError: a table that cannot be read, has no column of paths or labels, or lists missing
            or repeated images; fewer than two classes.
        """
        table_path = Path(native(os.fspath(table))).expanduser().absolute()
        rows, header = _read(table_path)
        names = _columns(header, columns, table_path, needs_path=not path_template)
        root_path = os.fspath(root) or str(table_path.parent)
        files = Files(root_path)
        located = _locate(rows, names, path_template, files, table_path)
        classes = _classes(rows, names, table_path)
        entries = [
            Entry(
                id=file.location,
                path=file.path,
                label=classes.index(label) if (label := _value(row, names, "label")) else -1,
                subject=_value(row, names, "subject") or file.location,
                phase=_value(row, names, "part"),
            )
            for row, file in located
        ]
        background, _ = find_background(sampled_images(files, [file for _, file in located]))
        super().__init__(
            name="table",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=_notes(entries, classes, names, table_path),
            subjects_known="subject" in names,
            background=background,
            official_parts=official_parts({entry.phase for entry in entries}),
            attributes=_attributes(located, header, names),
            bad_images=bad_images,
            config_fields={
                "data.table": str(table_path),
                "data.root": str(files.root.absolute()),
                "data.columns": columns,
                "data.path_template": path_template,
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
            files=files,
        )


@names_config_fields
def make(data: ConfigDict) -> Table:
    """Returns the data set of the `data` section of a config."""
    if not data.table:
        raise UserError("table: give the table that lists the images")
    return Table(
        data.table,
        data.root,
        columns=data.columns,
        path_template=data.path_template,
        positive=data.positive,
    )


def _read(path: Path) -> tuple[list[Row], list[str]]:
    """Returns rows and header."""
    try:
        text = _decode(read_bytes(path, MAX_TABLE_BYTES))
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            rows = _json_rows(text)
            header = list(dict.fromkeys(name for row in rows for name in row.values))
        else:
            rows, header = _csv_rows(text)
    except OSError as error:
        raise UserError(f"table: {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"table: {path} cannot be read ({str(error)[:200]})") from error
    if not rows:
        raise UserError(f"table: {path} has no row below its header")
    return rows, header


def _decode(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _csv_rows(text: str) -> tuple[list[Row], list[str]]:
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise ValueError(f"two columns are called {repeated[0]}")
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            raise ValueError(
                f"line {reader.line_num} has {len(values)} values, the header has {len(header)}"
            )
        cells = (value.strip() for value in values)
        rows.append(Row(reader.line_num, dict(zip(header, cells, strict=True))))
    return rows, header


def _json_rows(text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON") from error
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is not a JSON object")
        values = {}
        for name, value in record.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                values[str(name)] = str(value).strip()
            elif value is None:
                values[str(name)] = ""
        rows.append(Row(number, values))
    return rows


def _columns(header: list[str], given: str, table: Path, *, needs_path: bool) -> dict[str, str]:
    """Returns the column of each role that the table has."""
    chosen: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in given.split(","))):
        role, equals, name = (text.strip() for text in pair.partition("="))
        if not equals or role not in COLUMNS:
            raise UserError(
                f"columns: {pair!r} must read ROLE=COLUMN with a role of {', '.join(COLUMNS)}"
            )
        if name and name not in header:
            raise UserError(f"columns: {table} has no column {name!r}; it has {', '.join(header)}")
        chosen[role] = name
    by_lower = {name.lower(): name for name in reversed(header)}
    for role, names in COLUMNS.items():
        if role not in chosen:
            match = next((by_lower[name] for name in names if name in by_lower), "")
            chosen[role] = "" if match in chosen.values() else match
    for role in ("path", "label"):
        if not chosen[role] and (role == "label" or needs_path):
            raise UserError(
                f"table: {table} has no column of {role}s; its columns are {', '.join(header)}; "
                f"name one with columns='{role}=…'"
            )
    return {role: name for role, name in chosen.items() if name}


def _value(row: Row, names: Mapping[str, str], role: str) -> str:
    return row.values.get(names[role], "") if role in names else ""


def _locate(
    rows: list[Row], names: Mapping[str, str], template: str, files: Files, table: Path
) -> list[tuple[Row, File]]:
    """Returns each row with its image.

    Raises:
      UserError: images that are missing, or listed twice.
    """
    by_location = {file.location: file for file in files.files}
    located, missing = [], []
    lines: dict[str, int] = {}
    for row in rows:
        location = _location(row, names, template, files, table)
        if location not in by_location:
            missing.append(f"{location} (line {row.line})")
            continue
        if location in lines:
            raise UserError(
                f"table: {table}: {location} is on the lines {lines[location]} and {row.line}: "
                "remove one"
            )
        lines[location] = row.line
        located.append((row, by_location[location]))
    if missing:
        more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
        raise UserError(
            f"root: {files.root} lacks {len(missing):,} of the {len(rows):,} images of {table}: "
            f"{', '.join(missing[:_LISTED])}{more}. Change root or path_template"
        )
    return located


def _location(row: Row, names: Mapping[str, str], template: str, files: Files, table: Path) -> str:
    """Returns the path of a row's image below the root."""
    if template:
        unknown = [name for name in re.findall(r"{(.*?)}", template) if name not in row.values]
        if unknown:
            raise UserError(
                f"path_template: {table} has no column {unknown[0]!r}; it has "
                f"{', '.join(row.values)}"
            )
        text = re.sub(r"{(.*?)}", lambda match: row.values[match[1]], template)
    else:
        text = _value(row, names, "path")
    if not text:
        raise UserError(f"table: {table}: line {row.line} has no path")
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute():
        root = PurePosixPath(files.root.absolute().as_posix())
        path = path.relative_to(root) if path.is_relative_to(root) else path
    return os.path.normpath(path.as_posix())


def _classes(rows: list[Row], names: Mapping[str, str], table: Path) -> tuple[str, ...]:
    labels = {_value(row, names, "label") for row in rows} - {""}
    if len(labels) < 2:
        raise UserError(
            f"table: {table}: the column {names['label']} has {len(labels)} class; it needs two"
        )
    if all(re.fullmatch("-?[0-9]{1,18}", label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _attributes(
    located: list[tuple[Row, File]], header: list[str], names: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Returns the values of the columns that have no role, and of the sources, by id."""
    taken = {"", "id", *(name for role, name in names.items() if role != "source")}
    attributes = {}
    for name in header:
        values = {file.location: row.values.get(name, "") for row, file in located}
        if name not in taken and 2 <= len(set(values.values()) - {""}) <= MAX_VALUES:
            attributes["source" if name == names.get("source") else name] = values
    return attributes


def _notes(
    entries: list[Entry], classes: tuple[str, ...], names: Mapping[str, str], table: Path
) -> list[Note]:
    counts = Counter(entry.label for entry in entries)
    per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    used = ", ".join(f"{role} from {name}" for role, name in names.items())
    notes = [Note(INFO, f"{len(entries):,} images ({per_class}) of {table.name}: {used}")]
    if counts[-1]:
        notes.append(Note(INFO, f"{counts[-1]:,} images have no label and are not used"))
    if "subject" not in names:
        notes.append(
            Note(WARNING, "the table has no subjects: each image counts as its own, and scores may "
                          "be too high")
        )  # fmt: skip
    return notes
