"""Parquet: images with labels and subjects in Parquet files, as those of the Hugging Face hub."""

import hashlib
import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data import image_limits, parquet_file
from leukjax.data.archive import hidden, native
from leukjax.data.columns import (
    Column,
    check_cells,
    describe,
    find_attributes,
    find_classes,
    find_columns,
)
from leukjax.data.dataset import Dataset, names_config_fields
from leukjax.data.decode import BadImage, decode
from leukjax.data.image_stats import find_background, sample_rows
from leukjax.data.parquet_file import MAX_IMAGE_BYTES, NO_IMAGE, Batch
from leukjax.data.parts import official_parts, part_of
from leukjax.data.source import Entry, Loaded
from leukjax.errors import UserError

MAX_SHARDS = 10_000
MAX_ROWS = 10_000_000
# Batches that are kept: threads ask for images in order, or nearly so.
_KEPT, _KEPT_BYTES = 16, 2**26


class Parquet(Dataset):
    """Images in the rows of one Parquet file or several."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        columns: str = "",
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Reads all columns but the images, which are read when they are needed.

        Images are image files in a column of bytes, or in the field `bytes` of a column, as the
        library `datasets` writes them. Names of classes come from its metadata; else the labels are
        text or numbers. An empty label, or -1 with such metadata, means unlabelled. Without a part
        column, the first word of a file's name is the part (``train-00000-of-00002.parquet``). If
        there are train and test, these are the official parts. Every other column of text or
        numbers with 2 to 32 different values is an attribute, for scores by subgroup.

        Args:
          root: a file, or a folder with files (.parquet, in sub-folders as well).
          columns: ``"path=picture, label=diagnosis"`` names columns that
            `leukjax.data.columns.COLUMNS` does not find; "path" is the column of images. An empty
            name (``"subject="``) means that there is none.
          positive: class of precision, recall and F1. Default: the second of two.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          ValueError: files that cannot be read or differ in their columns, have no column of images
            or labels, or have fewer than two classes.
        """
        self._root = Path(native(os.fspath(root))).expanduser().absolute()
        self._paths = _shards(self._root)
        layouts = {name: parquet_file.read_layout(path) for name, path in self._paths.items()}
        first = next(iter(layouts.values()))
        where = f"root: {self._root}"
        names = find_columns(first.text, columns, where, images=first.images)
        rows = _read(self._paths, layouts, where)
        self._image = names.pop("path")
        self._batches: deque[Batch] = deque()
        self._lock = threading.Lock()
        parts = rows[names["part"]] if "part" in names else _parts_of_files(layouts)
        classes = find_classes(rows[names["label"]], names["label"], where)
        index = {"": -1, **{name: label for label, name in enumerate(classes)}}
        ids = [
            (f"{name}/{row:07d}", f"{name}[{row}]")
            for name, layout in layouts.items()
            for row in range(layout.rows)
        ]
        subjects = rows[names["subject"]] if "subject" in names else [""] * len(ids)
        entries = [
            Entry(id, path, index[label], subject or id, part)
            for (id, path), label, subject, part in zip(
                ids, rows[names["label"]], subjects, parts, strict=True
            )
        ]
        super().__init__(
            name="parquet",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=describe(entries, classes, {"image": self._image, **names}, self._root.name),
            subjects_known="subject" in names,
            background=find_background(self._sampled(entries))[0],
            official_parts=official_parts(parts),
            attributes=find_attributes(rows, names, [id for id, _ in ids]),
            bad_images=bad_images,
            config_fields={
                "data.root": str(self._root),
                "data.columns": columns,
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
        )

    def read(self, entry: Entry) -> bytes:
        name, row = re.fullmatch(r"(.*)\[([0-9]+)\]", entry.path, re.DOTALL).groups()  # type: ignore[union-attr]
        image = self._cell(self._paths[name], int(row))
        if isinstance(image, int):
            limit = f"has more than {MAX_IMAGE_BYTES >> 20} MiB"
            problem = "holds no image" if image == NO_IMAGE else limit
            raise BadImage(f"{entry.path}: {problem}: remove the row")
        image_limits.take_bytes(len(image))
        return image

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return self.load(entry).image

    def load(self, entry: Entry) -> Loaded:
        data = self.read(entry)
        image, conversions = decode(data, entry.path)
        return Loaded(data, image, conversions)

    def stat_key(self) -> str:
        facts: list[object] = [str(self._root), self._image]
        for name, path in self._paths.items():
            stat = os.stat(path)
            facts.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _cell(self, path: str, row: int) -> bytes | int:
        """Returns an image as `Batch.images`; keeps what is read with it for the next calls."""
        with self._lock:
            for batch in self._batches:
                if batch.path == path and 0 <= row - batch.start < len(batch.images):
                    return batch.images[row - batch.start]
            batch = parquet_file.read_images(path, self._image, row)
            self._batches.append(batch)
            while len(self._batches) > 1 and (
                len(self._batches) > _KEPT or sum(map(_size, self._batches)) > _KEPT_BYTES
            ):
                self._batches.popleft()
            return batch.images[row - batch.start]

    def _sampled(self, entries: list[Entry]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for row in sample_rows(len(entries)):
            try:
                yield self.load(entries[row]).image
            except BadImage:
                continue  # `Dataset.scan` reports it


@names_config_fields
def make(data: ConfigDict) -> Parquet:
    """Returns the data set of the `data` section of a config."""
    if not data.root:
        raise UserError("root: give the .parquet file, or the folder that holds the files")
    return Parquet(data.root, columns=data.columns, positive=data.positive)


def _size(batch: Batch) -> int:
    return sum(len(image) for image in batch.images if isinstance(image, bytes))


def _shards(root: Path) -> dict[str, str]:
    """Returns the path of each file by its name below the root, sorted by name."""
    try:
        if not root.is_dir():
            return {root.name: str(root)}
        paths = {}
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not hidden(name)]
            for name in names:
                if name.lower().endswith(".parquet") and not hidden(name):
                    path = os.path.join(folder, name)
                    paths[os.fsencode(os.path.relpath(path, root)).decode()] = path
    except UnicodeDecodeError as error:
        raise UserError(f"root: {root}: the name of a file is not UTF-8: rename it") from error
    if not 1 <= len(paths) <= MAX_SHARDS:
        raise UserError(
            f"root: {root} holds {len(paths):,} .parquet files; give a folder with 1 to "
            f"{MAX_SHARDS:,}, or a file"
        )
    return dict(sorted(paths.items()))


def _read(
    paths: dict[str, str], layouts: dict[str, parquet_file.Layout], where: str
) -> dict[str, list[str]]:
    """Returns all columns of text, over all files.

    Raises:
      UserError: the files differ in their columns, or have too many rows or none.
    """
    (first, layout), *others = layouts.items()
    for name, other in others:
        differ = {*layout.text, *layout.images} ^ {*other.text, *other.images}
        if differ:
            raise UserError(
                f"{where}: {name} and {first} differ in the column {min(differ)}: give a folder "
                "whose files have the same columns"
            )
    count = sum(other.rows for other in layouts.values())
    if not 1 <= count <= MAX_ROWS:
        raise UserError(f"{where} has {count:,} rows; 1 to {MAX_ROWS:,} are read")
    try:
        check_cells(count, len(layout.text))
    except ValueError as error:
        raise UserError(f"{where}: {error}: remove columns that are not needed") from error
    columns = {name: Column() for name in layout.text}
    end = 0
    for name, path in paths.items():
        parquet_file.read_text(path, columns)
        end += layouts[name].rows
        if any(len(column.values) != end for column in columns.values()):
            raise UserError(f"{where}: {name} has not as many rows as it states: it is damaged")
    return {name: column.values for name, column in columns.items()}


def _parts_of_files(layouts: dict[str, parquet_file.Layout]) -> list[str]:
    """Returns the part that the name of each row's file means; "" for none."""
    parts = []
    for name, layout in layouts.items():
        parts += [part_of(name.rsplit("/", 1)[-1])] * layout.rows
    return parts
