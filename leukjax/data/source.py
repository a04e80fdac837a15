"""What a data set provides: a list of images, a way to read each of them, and notes for the log."""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8

from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

INFO, WARNING = "info", "warning"
_BACKGROUNDS, _BAD_IMAGES = ("black", "bright"), ("error", "skip")


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence on the data for the log and for reports.

    Attributes:
      level: `INFO` or `WARNING`.
      text: the sentence.
    """

    level: str
    text: str

    def __str__(self) -> str:
        return f"WARNING: {self.text}" if self.level == WARNING else self.text

    def log(self) -> None:
        """Writes the note to the log, at its level."""
        (logging.warning if self.level == WARNING else logging.info)("%s", self.text)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image before it is read; the fields are those of `Manifest`."""

    id: str
    path: str
    label: int
    subject: str
    phase: str = ""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An image that could not be decoded and was left out (`bad_images="skip"`)."""

    id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An image that was read once: its bytes, its pixels, and the conversions ("CMYK", …)."""

    data: bytes
    image: np.ndarray
    conversions: tuple[str, ...] = ()


@dataclasses.dataclass(kw_only=True, repr=False, eq=False)
class Source(ABC):
    """The images of a data set, as scanning and preparation see them; see `dataset.Dataset`.

    Attributes:
      name: name of the data set; lower-case letters, digits and underscores.
      classes: class names; `Entry.label` indexes them.
      entries: the images.
      positive: default class of precision, recall and F1; "" = the second of two, and none above
        two.
      notes: sentences for the log, as `Note` or text. A scan appends its findings.
      synthetic: the images are drawn, not photographed; every score must say so.
      subjects_known: False if each image counts as its own subject.
      background: "black" (foreground is every pixel above black) or "bright" (foreground is every
        pixel darker than Otsu's threshold).
      official_parts: `Entry.phase` -> "train", "val" or "test" of the published split; {} if the
        data set has none.
      attributes: column -> id -> value, as the sex or the site; the column `source` says where an
        image was taken. For scores by subgroup; no model sees them.
      bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.
      config_fields: fields with which a config makes the same data set, recorded by runs.
    """

    name: str
    classes: tuple[str, ...]
    entries: list[Entry]
    positive: str = ""
    notes: list[Note] = dataclasses.field(default_factory=list)
    synthetic: bool = False
    subjects_known: bool = True
    background: str = "black"
    official_parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    bad_images: str = "error"
    config_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    version: ClassVar[str] = "1.0.0"  # raise it if the meaning of prepared records changes
    citation: ClassVar[str] = ""
    in_memory: ClassVar[bool] = False  # nothing is written to the cache folder

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):  # it becomes the name of a folder
            raise ValueError(f"name: {self.name!r}; use lower-case letters, digits, underscores")
        for field, values in (("background", _BACKGROUNDS), ("bad_images", _BAD_IMAGES)):
            if getattr(self, field) not in values:
                raise ValueError(f"{field}: {getattr(self, field)!r} is none of {values}")
        self.classes = tuple(self.classes)
        second = self.classes[1] if len(self.classes) == 2 else ""
        self.positive = self.positive or second
        if self.positive and self.positive not in self.classes:
            raise UserError(
                f"positive: {self.positive!r} is none of the classes {', '.join(self.classes)}"
            )
        self.notes = [n if isinstance(n, Note) else Note(INFO, n) for n in self.notes]

    @abstractmethod
    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the decoded image at its native size. Called from several threads.

        Raises:
          BadImage: the image cannot be used; the message names it and the fix.
        """

    def read(self, entry: Entry) -> bytes:
        """Returns the bytes of the file; by default those of the pixels. Thread-safe."""
        return self.image(entry).tobytes()

    def load(self, entry: Entry) -> Loaded:
        """Returns bytes and pixels; data sets of files override this to read the file once.

        Raises:
          TypeError: `image` returns something other than uint8[h, w, 3].
        """
        image = self.image(entry)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise TypeError(
                f"{type(self).__name__}.image({entry.id!r}): expected uint8[h, w, 3], got "
                f"{image.dtype}{list(image.shape)}"
            )
        has_files = type(self).read is not Source.read
        return Loaded(self.read(entry) if has_files else image.tobytes(), image)

    def stat_key(self) -> str:
        """Returns a fingerprint of the data set that is computed without reading an image.

        It must change whenever an image or an entry may have changed, since the scan of all images
        is kept under it. By default it is "": every start scans all images again.
        """
        return ""

    def file_sizes(self, manifest: Manifest) -> Int[np.ndarray, " n"] | None:
        """Returns the bytes of each image's file, or None if the images are not files."""
        del manifest
        return None

    def findings(self, manifest: Manifest, sides: Int[np.ndarray, "n"]) -> list[Note]:
        """Returns what the pixels of this data set show, after a scan.

        Args:
          manifest: the scanned images.
          sides: int[n], longer side of the bounding box of each cell, in pixels of the source.
        """
        del manifest, sides
        return []
