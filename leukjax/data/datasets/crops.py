"""Crops: cells cut out of fields, at the boxes or points of annotations."""

import functools
import hashlib
import math
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data import annotations as reader
from leukjax.data import image_limits
from leukjax.data.annotation_formats import MAX_COCO_BYTES, Cell, Document
from leukjax.data.annotations import Annotations
from leukjax.data.archive import IMAGES, File, Files, native
from leukjax.data.columns import sort_labels
from leukjax.data.dataset import Dataset, names_config_fields
from leukjax.data.decode import MIN_SIDE, BadImage, decode
from leukjax.data.field_cache import Decoded, FieldCache
from leukjax.data.image_stats import find_background, sample_rows
from leukjax.data.parts import PART_NAMES, official_parts
from leukjax.data.path_pattern import search
from leukjax.data.source import INFO, WARNING, Entry, Loaded, Note
from leukjax.errors import UserError
from leukjax.storage import read_bytes

_NAMES = (".names", ".yaml", ".yml")


class Crops(Dataset):
    """Cells cut out of fields. Thread-safe: a field is decoded once for its cells."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        annotations: str | os.PathLike[str] = "",
        format: str = "auto",
        margin: float = 0.0,
        size: int = 0,
        subject: str = "",
        label: str = "",
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Reads the annotations; fields are decoded when their cells are needed.

        Ids are ``FIELD#0000``, ``FIELD#0001``, … in the order of the annotations; classes are the
        labels, sorted (as numbers if all are). A window that crosses the border of its field is cut
        there. Parts are named by the COCO files (``train.json``) or by folders of the fields; with
        train and test they are the official parts.

        Args:
          root: folder or zip with the fields.
          annotations: file or folder with the annotations. Default: below `root`.
          format: "coco" (one or several .json), "yolo" (a .txt per field), "voc" (a .xml per
            field), "points" (``x y class`` or ``x y`` per line of a .txt or .xyc per field), or
            "auto".
          margin: share of a box's width and height that is added on each of its sides.
          size: pixels; side of the window around a point, and the least side of a box's window.
          subject: regular expression, searched in the path of a field; its first group is the
            subject. Default: each field is one.
          label: regular expression of the class of the points that have none, searched as
            `subject` is.
          positive: class of precision, recall and F1. Default: the second of two.
          bad_images: "error" stops at a cell that cannot be cut out (its box is outside the field,
            or empty), "skip" leaves it out.

        Raises:
          ValueError: fields or annotations that cannot be read or do not fit together; fewer than
            two classes.
        """
        if format not in ("auto", *reader.FORMATS):
            raise UserError(f"format: {format!r} is none of auto, {', '.join(reader.FORMATS)}")
        if not 0 <= margin <= 10:
            raise UserError(f"margin: {margin} is not in 0..10")
        if not 0 <= size <= 10_000:
            raise UserError(f"size: {size} is not in 0..10,000 pixels")
        self._files = Files(os.fspath(root), suffixes=(*IMAGES, *reader.SUFFIXES))
        fields = [file for file in self._files.files if file.suffix in IMAGES]
        if not fields:
            raise UserError(f"root: {root} holds no image: give the folder of the fields")
        given = os.fspath(annotations) and Path(native(os.fspath(annotations))).expanduser()
        documents = _documents(self._files)
        if given:  # what names the classes may be in the root all the same
            documents = [d for d in documents if d.suffix in _NAMES] + _given(given)
        parsed = reader.read_annotations(documents, fields, format)
        if parsed.format == "points" and not size:
            raise UserError("size: give the side of the window around a point, in pixels")
        self._margin, self._size = margin, size
        self._cells: dict[str, Cell] = {}
        entries, classes = self._entries(fields, parsed, subject, label)
        self._field = FieldCache(self._decode)
        super().__init__(
            name="crops",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=[
                *_notes(entries, classes, fields, parsed, bool(subject)),
                *(Note(INFO, text) for text in self._files.notes()),
            ],
            background=find_background(self._sampled(entries))[0],
            official_parts=official_parts(entry.phase for entry in entries),
            bad_images=bad_images,
            config_fields={
                "data.root": str(self._files.root.absolute()),
                "data.annotations": str(given.absolute()) if given else "",
                "data.crop_format": format,
                "data.crop_margin": margin,
                "data.crop_size": size,
                "data.subject_pattern": subject,
                "data.label_pattern": label,
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
        )

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return self.load(entry).image

    def load(self, entry: Entry) -> Loaded:
        field, conversions = self._field(entry.path)
        left, top, right, bottom = window(
            self._cells[entry.id], field.shape[:2], self._margin, self._size
        )
        image_limits.take_pixels((right - left) * (bottom - top))
        image = np.ascontiguousarray(field[top:bottom, left:right])
        return Loaded(image.tobytes(), image, conversions)

    def stat_key(self) -> str:
        stamps = {file.path: file.stamp for file in self._files.files}
        root = os.path.realpath(self._files.root)
        facts = (self.name, self.classes, self.background, root, self._margin, self._size)
        digest = hashlib.sha256(repr(facts).encode())
        for entry in self.entries:
            digest.update(repr((entry, self._cells[entry.id], stamps[entry.path])).encode())
        return digest.hexdigest()

    def _decode(self, path: str) -> Decoded:
        return decode(self._files.read(path), path)

    def _entries(
        self, fields: list[File], annotations: Annotations, subject: str, label: str
    ) -> tuple[list[Entry], tuple[str, ...]]:
        used = [field for field in fields if annotations.cells.get(field.location)]
        locations = [field.location for field in used]
        subjects = search("subject", subject, locations) if subject else locations
        labels = search("label", label, locations) if label else [""] * len(used)
        named: list[tuple[str, File, str, str]] = []
        for field, of_field, field_label in zip(used, subjects, labels, strict=True):
            for number, cell in enumerate(annotations.cells[field.location]):
                if not (cell.label or field_label):
                    raise UserError(f"label: {cell.where} has no class: give a pattern that finds "
                                    "the class in the path of the field")  # fmt: skip
                id = f"{field.location}#{number:04d}"
                self._cells[id] = cell
                named.append((id, field, cell.label or field_label, of_field))
        classes = _classes({name for _, _, name, _ in named})
        codes = {name: code for code, name in enumerate(classes)}
        phases = {field.location: _phase(field, annotations) for field in used}
        entries = [
            Entry(id, field.path, codes[name], of_field, phases[field.location])
            for id, field, name, of_field in named
        ]
        return entries, classes

    def _sampled(self, entries: list[Entry]) -> list[np.ndarray]:
        """A few of the cells; every third of the usual number, because each needs a field."""
        images = []
        for row in sample_rows(len(entries))[::3]:
            try:
                images.append(self.image(entries[row]))
            except BadImage:
                continue  # `scan` reports it
        return images


@names_config_fields
def make(data: ConfigDict) -> Crops:
    """Returns the data set of the `data` section of a config."""
    return Crops(
        data.root,
        annotations=data.annotations,
        format=data.crop_format,
        margin=data.crop_margin,
        size=data.crop_size,
        subject=data.subject_pattern,
        label=data.label_pattern,
        positive=data.positive,
    )


def window(
    cell: Cell, shape: tuple[int, ...], margin: float, size: int
) -> tuple[int, int, int, int]:
    """Returns the window of a cell, cut at the border of its field.

    Args:
      cell: the cell.
      shape: height and width of the field in pixels.
      margin: share of the sides of a box that is added on each side.
      size: side of the window around a point, and the least side of a window, in pixels.

    Returns:
      left, top, right, bottom in pixels; right and bottom are exclusive.

    Raises:
      BadImage: the box is empty or outside the field, the window is smaller than MIN_SIDE, or the
        annotation states another size of the field.
    """
    height, width = shape[:2]
    if cell.field_size not in (None, (width, height)):
        stated = "x".join(map(str, cell.field_size or ()))
        raise BadImage(
            f"{cell.where}: its field has {width}x{height} pixels, and {stated} by the annotation: "
            "annotate the image that is there"
        )
    left, top, across, down = cell.box
    if cell.is_relative:
        left, top, across, down = left * width, top * height, across * width, down * height
    end = min(left + across, top + down)
    outside = left >= width or top >= height or end < 0
    if outside or (not cell.is_point and (end == 0 or min(across, down) <= 0)):
        raise BadImage(
            f"{cell.where}: {left:g} {top:g}, {across:g} wide, {down:g} high is empty or outside "
            f"the field of {width}x{height} pixels: correct it"
        )
    x0, x1 = _widened(left, across, margin, size, width)
    y0, y1 = _widened(top, down, margin, size, height)
    if min(x1 - x0, y1 - y0) < MIN_SIDE:
        raise BadImage(
            f"{cell.where}: the window has {x1 - x0}x{y1 - y0} pixels, and needs {MIN_SIDE} per "
            "side: raise data.crop_size or data.crop_margin"
        )
    return x0, y0, x1, y1


def _widened(start: float, side: float, margin: float, size: int, limit: int) -> tuple[int, int]:
    """Returns start and end along one axis, rounded to pixels and inside 0..limit."""
    added = margin * side + max(size - side * (1 + 2 * margin), 0) / 2
    low, high = math.floor(start - added + 0.5), math.floor(start + side + added + 0.5)
    return max(low, 0), min(high, limit)


def _documents(files: Files) -> list[Document]:
    return [
        Document(file.location, file.size, functools.partial(files.read, file.path))
        for file in files.files
        if file.suffix in reader.SUFFIXES
    ]


def _given(path: Path) -> list[Document]:
    """Returns the annotations of a file, a folder or a zip."""
    if not path.is_file() or path.suffix.lower() == ".zip":
        return _documents(Files(str(path), "annotations", reader.SUFFIXES))
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"annotations: {path} cannot be read ({error.strerror or error})"
        ) from error
    read = functools.partial(read_bytes, path, MAX_COCO_BYTES)
    return [Document(path.name, size, read)]


def _classes(labels: set[str]) -> tuple[str, ...]:
    if len(labels) < 2:
        raise UserError(
            f"annotations: all cells are of the class {', '.join(labels)}; two classes are needed"
        )
    return sort_labels(labels)


def _phase(field: File, annotations: Annotations) -> str:
    """Returns the word that names the part of a field: in its COCO file's path, or in its own."""
    words = field.location.lower().split("/")[:-1]
    if annotations.format == "coco":
        words += re.findall("[a-z]+", annotations.origins[field.location].lower())
    return next((word for word in reversed(words) if word in PART_NAMES), "")


def _notes(
    entries: list[Entry],
    classes: tuple[str, ...],
    fields: list[File],
    annotations: Annotations,
    has_subjects: bool,
) -> list[Note]:
    counts = Counter(entry.label for entry in entries)
    per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    used = len({entry.path for entry in entries})
    notes = [
        Note(
            INFO,
            f"{len(entries):,} cells ({per_class}) of {used:,} fields, by {annotations.format}",
        )
    ]
    if used < len(fields):
        notes.append(Note(INFO, f"{len(fields) - used:,} images have no annotated cell"))
    notes += [Note(WARNING, text) for text in annotations.unused]
    if not has_subjects:
        notes.append(
            Note(WARNING, "the fields are the subjects, because no patients are given: if one has "
                          "several fields, scores may be too high")
        )  # fmt: skip
    return notes
