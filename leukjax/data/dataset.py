"""Data sets: images with labels and groups that can be scanned, split and prepared.

A data set of your own derives from `Dataset` and implements `image`, or from `FileDataset`, which
reads image files in folders and zips and needs only an ``__init__``. `datasets.register_dataset`
gives it a name.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from leukjax.data import cache, manifest_builder, records
from leukjax.data.archive import File, Files
from leukjax.data.decode import BadImage, decode
from leukjax.data.image_stats import sample_rows
from leukjax.data.manifest import Manifest
from leukjax.data.preprocess import Preprocessing
from leukjax.data.source import Entry, Loaded, Skipped, Source
from leukjax.errors import UserError


@dataclasses.dataclass(kw_only=True, repr=False, eq=False)
class Dataset(Source):
    """Images with labels and groups. The attributes are those of `Source`."""

    _scanned: tuple[Manifest, list[Skipped]] | None = dataclasses.field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._scanned[0] if self._scanned else self.entries)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {len(self):,} images, "
            f"classes={', '.join(self.classes)})"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def manifest(self) -> Manifest:
        """The table of the images, sorted by id. The first access reads every image."""
        return self.scan()

    @property
    def skipped(self) -> list[Skipped]:
        """The images that were left out."""
        self.scan()
        assert self._scanned is not None
        return self._scanned[1]

    def scan(self, cache_dir: str = "", threads: int = 8) -> Manifest:
        """Reads every image once and returns the manifest; see `manifest_builder.scan`.

        The manifest is kept in this object and in the cache folder, unless the images are in
        memory.

        Args:
          cache_dir: the cache folder; "" = $LEUKJAX_CACHE or the user's cache folder.
          threads: threads that read and decode.
        """
        if self._scanned is None:
            folder = None if self.in_memory else cache.root(cache_dir)
            self._scanned = manifest_builder.scan(self, folder, threads, self.bad_images)
        return self._scanned[0]

    def prepare(
        self,
        image_size: int,
        *,
        crop: int = 0,
        denoise: str = "none",
        cache_dir: str = "",
        threads: int = 8,
    ) -> records.Records:
        """Returns all images, preprocessed; row i of `manifest` is record i.

        Args:
          image_size: pixels per side.
          crop: side of a centre crop before the resize, in pixels; 0 = none.
          denoise: "none", "median", "gaussian", "bilateral" or "nlm".
          cache_dir: folder that keeps the prepared images; see `scan`.
          threads: threads that read and process images.

        Raises:
          ValueError: an image cannot be read, an argument is wrong, or the cache folder is full or
            cannot be written.
        """
        preprocessing = Preprocessing(image_size, crop, denoise)
        manifest = self.scan(cache_dir, threads)
        return records.prepare(self, manifest, self.skipped, preprocessing, cache_dir, threads)

    def subset(self, rows: Int[np.ndarray, "m"], name: str = "") -> "Subset":
        """Returns some images of this data set, by their rows in `manifest`."""
        return Subset(self, rows, name)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Subset:
    """Some images of a data set.

    Attributes:
      dataset: the data set.
      rows: int[m], rows of `dataset.manifest`.
      name: "train", "val", "test" or "".
    """

    dataset: Dataset
    rows: Int[np.ndarray, "m"]
    name: str = ""

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.size == 0:
            rows = rows.astype(np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise TypeError(f"rows: expected whole numbers int[m], got {rows.dtype}{rows.shape}")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.dataset):
            raise ValueError(f"rows: outside 0..{len(self.dataset) - 1}")
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        name = f"{self.name}, " if self.name else ""
        return f"Subset({name}{len(self):,} of {len(self.dataset):,} images of {self.dataset.name})"

    @property
    def manifest(self) -> Manifest:
        """The table of these images."""
        return self.dataset.manifest.take(self.rows)


_Make = TypeVar("_Make", bound=Callable[..., Dataset])
# Arguments of data sets whose config field has another name than data.ARGUMENT.
_FIELDS = {
    **{name: f"data.{name}_pattern" for name in ("subject", "label", "part", "source")},
    **{name: f"data.crop_{name}" for name in ("format", "margin", "size")},
}


def names_config_fields(make: _Make) -> _Make:
    """Decorates a factory: an error that begins with an argument names its config field instead."""

    @functools.wraps(make)
    def wrapped(data: ConfigDict) -> Dataset:
        try:
            return make(data)
        except UserError as error:
            argument, colon, text = str(error).partition(":")
            field = _FIELDS.get(argument, f"data.{argument}")
            if not colon or not hasattr(data, field.removeprefix("data.")):
                raise
            raise type(error)(f"{field}:{text}") from error

    return wrapped  # type: ignore[return-value]


@dataclasses.dataclass(kw_only=True, repr=False, eq=False)
class FileDataset(Dataset):
    """A data set whose images are files, in folders or in zips."""

    files: Files

    def file_sizes(self, manifest: Manifest) -> Int[np.ndarray, " n"]:
        sizes = {file.path: file.size for file in self.files.files}
        return np.array([sizes[path] for path in manifest.path.tolist()], np.int64)

    def read(self, entry: Entry) -> bytes:
        return self.files.read(entry.path)

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        return self.load(entry).image

    def load(self, entry: Entry) -> Loaded:
        data = self.read(entry)
        image, conversions = decode(data, entry.path)
        return Loaded(data, image, conversions)

    def stat_key(self) -> str:
        stamps = {file.path: file.stamp for file in self.files.files}
        # The path as well: two copies of a data set may agree in every name, size and time.
        root = os.path.realpath(Path(self.files.root))
        facts = (self.name, self.classes, self.background, root)
        digest = hashlib.sha256(repr(facts).encode())
        for entry in sorted(self.entries, key=lambda entry: entry.id):
            digest.update(repr((dataclasses.astuple(entry), stamps[entry.path])).encode())
        return digest.hexdigest()


def sampled_images(files: Files, images: Sequence[File]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields a few of the images, evenly spaced; those that cannot be decoded are left out."""
    for index in sample_rows(len(images)):
        path = images[index].path
        try:
            yield decode(files.read(path), path)[0]
        except BadImage:
            continue  # `Dataset.scan` reports it
