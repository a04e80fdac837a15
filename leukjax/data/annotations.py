"""Finds the cells of fields in annotations, by the paths of both."""

import dataclasses
from collections.abc import Iterator, Sequence

from leukjax.data.annotation_formats import (
    Cell,
    Document,
    parse_coco,
    parse_field,
    parse_names,
    rows,
    wrong,
)
from leukjax.data.archive import File
from leukjax.errors import UserError

SUFFIXES = (".json", ".txt", ".xml", ".xyc", ".names", ".yaml", ".yml")
FORMATS = {"coco": (".json",), "yolo": (".txt",), "voc": (".xml",), "points": (".txt", ".xyc")}
MAX_CELLS = 2_000_000
# Folders that tell images from their annotations, and nothing else.
_KINDS = {"images", "labels", "annotations", "jpegimages", "img", "im", "xyc", "xml", "txt"}
_LISTED = 3  # files that a message names

Located = tuple[Document, File, list[Cell]]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What the files say.

    Attributes:
      format: one of FORMATS.
      cells: location of a field -> its cells, in the order of the file.
      origins: location of a field -> location of its annotations.
      unused: sentences on what was left out.
    """

    format: str
    cells: dict[str, list[Cell]]
    origins: dict[str, str]
    unused: list[str]


def read_annotations(
    documents: Sequence[Document], fields: Sequence[File], format: str
) -> Annotations:
    """Reads the annotations of all fields.

    Args:
      documents: every file that may hold annotations or names of classes.
      fields: the images.
      format: one of FORMATS, or "auto".

    Raises:
      UserError: no annotations or two formats of them, a file that is damaged or too large, cells
        without a field, more than MAX_CELLS cells.
    """
    index = _Fields(fields)
    matched = [(d, index.of(d)) for d in documents if d.suffix in (".txt", ".xml", ".xyc")]
    if format == "auto":
        format = _find_format(documents, [document for document, field in matched if field])
    suffixes = FORMATS[format]
    unused: list[str] = []
    if format == "coco":
        located = _of_coco([d for d in documents if d.suffix in suffixes], index)
    else:
        names = parse_names(documents) if format == "yolo" else None
        located = (
            (document, field, parse_field(document, format, names))
            for document, field in matched
            if field and document.suffix in suffixes
        )
        lost = [d.location for d, field in matched if not field and d.suffix in suffixes]
        lost = [location for location in lost if not location.endswith("classes.txt")]
        unused = [f"{len(lost):,} files belong to no field: {_some(lost)}"] if lost else []
    cells, origins = _collected(located)
    if not any(cells.values()):
        raise UserError(
            f"annotations: no {format} annotation of a cell was found for the {len(fields):,} "
            "images: give the file or folder, or another format"
        )
    return Annotations(format, cells, origins, unused)


def _collected(located: Iterator[Located]) -> tuple[dict[str, list[Cell]], dict[str, str]]:
    """Returns the cells of each field, and where they are annotated."""
    cells: dict[str, list[Cell]] = {}
    origins: dict[str, str] = {}
    total = 0
    for document, field, field_cells in located:
        if field.location in origins:
            raise wrong(
                document.location,
                f"{field.location} is annotated in {origins[field.location]} too: remove one",
            )
        origins[field.location], cells[field.location] = document.location, field_cells
        total += len(field_cells)
        if total > MAX_CELLS:
            raise wrong(document.location, f"there are more than {MAX_CELLS:,} cells")
    return cells, origins


class _Fields:
    """Finds fields by the paths of annotations."""

    def __init__(self, fields: Sequence[File]) -> None:
        self._by_path: dict[str, File] = {field.location: field for field in fields}
        self._by_key: dict[tuple[str, ...], list[File]] = {}
        self._by_stem: dict[str, list[File]] = {}
        self._by_name: dict[str, list[File]] = {}
        for field in fields:
            self._by_key.setdefault(_key(field.location), []).append(field)
            self._by_stem.setdefault(field.stem, []).append(field)
            self._by_name.setdefault(field.name, []).append(field)

    def of(self, document: Document) -> File | None:
        """Returns the field of a file that annotates one, or None.

        ``labels/train/a.txt`` belongs to ``images/train/a.jpg``; else the name decides.
        """
        key = _key(document.location)
        matches = self._by_key.get(key) or self._by_stem.get(key[-1], [])
        if len(matches) > 1:
            listed = _some([field.location for field in matches])
            raise wrong(document.location, f"may belong to {listed}: rename them")
        return matches[0] if matches else None

    def named(self, name: str, folder: str) -> File | None:
        """Returns the field that a file in `folder` names, or None if none or several fit."""
        name = name.replace("\\", "/").removeprefix("./")
        for path in (f"{folder}/{name}".lstrip("/"), name):
            if path in self._by_path:
                return self._by_path[path]
        matches = self._by_name.get(name.rsplit("/", 1)[-1], [])
        return matches[0] if len(matches) == 1 else None


def _key(location: str) -> tuple[str, ...]:
    *folders, name = location.split("/")
    return (*(f for f in folders if f.lower() not in _KINDS), name.rsplit(".", 1)[0])


def _find_format(documents: Sequence[Document], of_fields: list[Document]) -> str:
    formats: dict[str, str] = {}
    for document in of_fields:
        if document.suffix == ".xml":
            formats.setdefault("voc", document.location)
        elif document.suffix == ".xyc":
            formats.setdefault("points", document.location)
        elif not {"yolo", "points"} & set(formats):
            columns = next((len(values) for _, values in rows(document)), 0)
            if columns:
                formats["yolo" if columns > 3 else "points"] = document.location
    for document in documents:
        if document.suffix == ".json":
            formats.setdefault("coco", document.location)
    if not formats:
        raise UserError(
            "annotations: none were found below root (.json, .xml, .txt or .xyc): give their file "
            "or folder"
        )
    if len(formats) > 1:
        listed = ", ".join(f"{name} ({location})" for name, location in formats.items())
        raise UserError(f"format: there are annotations of several formats: {listed}; choose one")
    return next(iter(formats))


def _of_coco(documents: list[Document], index: _Fields) -> Iterator[Located]:
    """Yields the field of each image that the files list."""
    for document in documents:
        images = parse_coco(document)
        folder = document.location.rpartition("/")[0]
        missing = []
        for name, cells in images:
            field = index.named(name, folder)
            if field is None:
                missing.append(name)
            else:
                yield document, field, cells
        if missing:
            raise UserError(
                f"root: lacks {len(missing):,} of the {len(images):,} images of "
                f"{document.location}, or has several of the name: {_some(missing)}"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(" ".join(name.split())[:200] for name in names[:_LISTED]) + more
