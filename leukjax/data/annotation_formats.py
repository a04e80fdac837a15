"""Parses files that say where the cells of fields are: COCO, YOLO, Pascal VOC, lists of points.

The files come from strangers: their size is bounded, and reading them executes nothing.
"""

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from leukjax.errors import UserError

MAX_COCO_BYTES = 2**27  # all fields of a data set
MAX_FIELD_BYTES = 2**22  # one field
MAX_NAMES_BYTES = 2**18
_MAX_COORDINATE = 1e6  # pixels

Size = tuple[int, int]  # width and height in pixels


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a field.

    Attributes:
      label: name of its class; "" if the annotation has none.
      box: left, top, width, height; of a point the width and height are 0.
      where: the place in the annotations, for messages: "a.txt: line 3".
      is_point: the box is a point.
      is_relative: the box is in shares of the field's sides, else in pixels.
      field_size: width and height of the field in pixels, if the annotation states them.
    """

    label: str
    box: tuple[float, float, float, float]
    where: str
    is_point: bool = False
    is_relative: bool = False
    field_size: Size | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    """A file of annotations.

    Attributes:
      location: its path, relative and posix.
      size: bytes.
      read: returns its content.
    """

    location: str
    size: int
    read: Callable[[], bytes]

    @property
    def suffix(self) -> str:
        """The last suffix of the path with its dot, in lower case."""
        return "." + self.location.rsplit(".", 1)[-1].lower()

    def text(self, limit: int) -> str:
        """Returns the content as text.

        Raises:
          UserError: it has more than `limit` bytes, or is not UTF-8.
        """
        if self.size > limit:
            raise wrong(self.location, f"has {self.size:,} bytes; at most {limit:,} are read")
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise wrong(self.location, f"is not UTF-8 ({error})") from error


def wrong(where: str, what: str) -> UserError:
    """Returns the error on a place in the annotations."""
    return UserError(f"annotations: {where}: {what}")


def parse_coco(document: Document) -> list[tuple[str, list[Cell]]]:
    """Returns the file name and the cells of each image that a COCO file lists."""
    name = document.location
    text = document.text(MAX_COCO_BYTES)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(name, f"is not JSON ({str(error)[:100]})") from error
    labels = {
        _id(category, "id", f"{name}: category"): _one_line(str(category.get("name", "")))
        for category in _records(content, "categories", name)
    }
    images: dict[int | str, tuple[str, Size | None, list[Cell]]] = {}
    for image in _records(content, "images", name):
        key = _id(image, "id", f"{name}: image")
        if key in images:
            raise wrong(name, "has two images of one id")
        sides = (image.get("width"), image.get("height"))
        size = sides if all(type(side) is int and side > 0 for side in sides) else None
        images[key] = (str(image.get("file_name", "")), size, [])  # type: ignore[assignment]
    for number, annotation in enumerate(_records(content, "annotations", name)):
        id = annotation.get("id")
        where = f"{name}: annotation {id if isinstance(id, int) else number}"
        key, category = (_id(annotation, key, where) for key in ("image_id", "category_id"))
        if key not in images or not labels.get(category):
            raise wrong(where, f"no image {key!r:.40} or no category {category!r:.40}")
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise wrong(where, "has no bbox of left, top, width, height")
        _, size, cells = images[key]
        cells.append(Cell(labels[category], _box(box, where), where, field_size=size))
    return [(file_name, cells) for file_name, _, cells in images.values()]


def _records(content: Any, key: str, name: str) -> list[dict]:
    records = content.get(key) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise wrong(name, f"is no COCO file: it has no list {key!r}")
    return records


def _id(record: dict, key: str, where: str) -> int | str:
    id = record.get(key)
    if not isinstance(id, int | str):
        raise wrong(where, f"{key} is {type(id).__name__}, and must be a number or text")
    return id


def parse_field(document: Document, format: str, names: Mapping[str, str] | None) -> list[Cell]:
    """Returns the cells of a file that annotates one field.

    Args:
      document: the file.
      format: "yolo", "voc" or "points".
      names: YOLO's classes by their numbers; None = the numbers are the names.
    """
    if format == "voc":
        return _voc(document)
    cells = []
    for number, values in rows(document):
        where = f"{document.location}: line {number}"
        if format == "yolo":
            if len(values) not in (5, 6):
                raise wrong(where, f"has {len(values)} values; a box is: class x y width height")
            if names and values[0] not in names:
                raise wrong(where, f"class {values[0]:.40} is none of the {len(names)} named")
            x, y, width, height = _box(values[1:5], where)
            box = (x - width / 2, y - height / 2, width, height)
            label = names[values[0]] if names else values[0]
            cells.append(Cell(label, box, where, is_relative=True))
        else:
            if len(values) not in (2, 3):
                raise wrong(where, f"has {len(values)} values; a point is: x y, or x y class")
            point = _box([*values[:2], 0, 0], where)
            cells.append(Cell(values[2] if len(values) == 3 else "", point, where, is_point=True))
    return cells


def rows(document: Document) -> Iterator[tuple[int, list[str]]]:
    """Yields number and values of each line that is not empty, a header left out."""
    for number, line in enumerate(document.text(MAX_FIELD_BYTES).splitlines(), start=1):
        values = re.split(r"[\s,;]+", line.strip(" \t,;"))
        if values != [""] and not (number == 1 and [v.lower() for v in values[:2]] == ["x", "y"]):
            yield number, values


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE, which could define entities that grow without bound."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a DOCTYPE")


def _voc(document: Document) -> list[Cell]:
    name = document.location
    if document.size > MAX_FIELD_BYTES:
        raise wrong(name, f"has {document.size:,} bytes; at most {MAX_FIELD_BYTES:,} are read")
    data = document.read()
    try:
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise wrong(name, f"is no XML that is read ({error})") from error
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    known = all(re.fullmatch("[1-9][0-9]{0,6}", side) for side in sides)
    cells = []
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{name}: object {number}"
        label = _one_line(element.findtext("name", ""))
        corners = [element.findtext(f"bndbox/{c}", "") for c in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = _box(corners, where)
        if not label:
            raise wrong(where, "has no name")
        size = (int(sides[0]), int(sides[1])) if known else None
        box = (left, top, right - left, bottom - top)
        cells.append(Cell(label, box, where, field_size=size))
    return cells


def _box(values: Sequence[Any], where: str) -> tuple[float, float, float, float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong(where, f"{str(values)[:60]} are not numbers") from error
    if not all(math.isfinite(n) and abs(n) <= _MAX_COORDINATE for n in numbers):
        raise wrong(where, f"{str(values)[:60]} are no coordinates")
    left, top, width, height = numbers
    return left, top, width, height


def parse_names(documents: Sequence[Document]) -> dict[str, str] | None:
    """Returns the names of YOLO's classes by their numbers, or None if no file names them."""
    names_of: dict[str, dict[str, str]] = {}
    for document in documents:
        base = document.location.rsplit("/", 1)[-1]
        if document.suffix in (".yaml", ".yml"):
            names = _yaml_names(document)
        elif base == "classes.txt" or document.suffix == ".names":
            lines = document.text(MAX_NAMES_BYTES).split("\n")
            names = {str(k): line.strip() for k, line in enumerate(lines) if line.strip()}
        else:
            continue
        if names:
            names_of[document.location] = names
    if not names_of:
        return None
    first, *others = names_of
    for other in others:
        if names_of[other] != names_of[first]:
            raise wrong(other, f"names other classes than {first}: remove one of them")
    return names_of[first]


def _yaml_names(document: Document) -> dict[str, str]:
    text = document.text(MAX_NAMES_BYTES)
    try:  # BaseLoader makes text of everything, and follows no tag
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).split("\n", 1)[0][:100]
        raise wrong(document.location, f"is no YAML that is read ({line})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if names is None:
        return {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise wrong(document.location, "its names are no list of names")
    return {number: _one_line(name) for number, name in names.items()}


def _one_line(name: str) -> str:
    return " ".join(name.split())
