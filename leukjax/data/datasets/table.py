"""Table: images listed in a CSV, TSV or JSON lines file, with labels, subjects and parts."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from leukjax.data.archive import File, Files, native
from leukjax.data.columns import (
    describe,
    find_attributes,
    find_classes,
    find_columns,
    listed,
)
from leukjax.data.dataset import FileDataset, names_config_fields, sampled_images
from leukjax.data.image_stats import find_background
from leukjax.data.parts import official_parts
from leukjax.data.source import Entry
from leukjax.data.table_file import Rows, read_table
from leukjax.errors import UserError

_LISTED = 3  # files that a message names


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
        means unlabelled. Ids are the paths below the root. If the part column has train, val and
        test (or validation, …), these are the official parts: ``split.protocol=official``. Every
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
          ValueError: a table that cannot be read, has no column of paths or labels, or lists
            missing or repeated images; fewer than two classes.
        """
        table_path = Path(native(os.fspath(table))).expanduser().absolute()
        rows = read_table(table_path)
        where = f"table: {table_path}"
        names = find_columns(list(rows.columns), columns, where, needs_path=not path_template)
        root_path = os.fspath(root) or str(table_path.parent)
        files = Files(root_path)
        located = _locate(rows, _locations(rows, names, path_template, files, table_path), files,
                          table_path)  # fmt: skip
        labels, subjects, parts = (
            rows.columns[names[role]] if role in names else [""] * len(located)
            for role in ("label", "subject", "part")
        )
        classes = find_classes(labels, names["label"], where)
        index = {"": -1, **{name: label for label, name in enumerate(classes)}}
        entries = [
            Entry(file.location, file.path, index[label], subject or file.location, part)
            for file, label, subject, part in zip(located, labels, subjects, parts, strict=True)
        ]
        background, _ = find_background(sampled_images(files, located))
        super().__init__(
            name="table",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=describe(entries, classes, names, table_path.name),
            subjects_known="subject" in names,
            background=background,
            official_parts=official_parts({entry.phase for entry in entries}),
            attributes=find_attributes(rows.columns, names, [e.id for e in entries]),
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


def _locate(rows: Rows, locations: Sequence[str], files: Files, table: Path) -> list[File]:
    """Returns the image of each row.

    Raises:
      UserError: images that are missing, or listed twice.
    """
    by_location = {file.location: file for file in files.files}
    missing = [
        f"{location} (line {rows.lines[row]})"
        for row, location in enumerate(locations)
        if location not in by_location
    ]
    first: dict[str, int] = {}
    for line, location in zip(rows.lines, locations, strict=True):
        if location in by_location and first.setdefault(location, line) != line:
            raise UserError(
                f"table: {table}: {location} is on the lines {first[location]} and {line}: "
                "remove one"
            )
    if missing:
        more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
        raise UserError(
            f"root: {files.root} lacks {len(missing):,} of the {len(locations):,} images of "
            f"{table}: {', '.join(missing[:_LISTED])}{more}. Change root or path_template"
        )
    return [by_location[location] for location in locations]


def _locations(
    rows: Rows, names: Mapping[str, str], template: str, files: Files, table: Path
) -> list[str]:
    """Returns the path of each row's image below the root."""
    if template:
        parts = re.split(r"{(.*?)}", template)  # text and names of columns in turn
        unknown = [name for name in parts[1::2] if name not in rows.columns]
        if unknown:
            raise UserError(
                f"path_template: {table} has no column {unknown[0]!r}; it has "
                f"{listed(list(rows.columns))}"
            )
        count = len(rows.lines)
        pieces = [
            itertools.repeat(part, count) if number % 2 == 0 else rows.columns[part]
            for number, part in enumerate(parts)
        ]
        paths = ["".join(path) for path in zip(*pieces, strict=True)]
    else:
        paths = rows.columns[names["path"]]
    above = files.root.absolute().as_posix().rstrip("/") + "/"
    locations = []
    for row, text in enumerate(paths):
        if not text:
            raise UserError(f"table: {table}: line {rows.lines[row]} has no path")
        path = os.path.normpath(text.replace("\\", "/"))
        locations.append(path.removeprefix(above))
    return locations
