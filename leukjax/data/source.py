"""What a data set provides: a list of images, a way to read each of them, and notes for the log."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from absl import logging
from jaxtyping import Int, UInt8

from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

INFO, WARNING = "info", "warning"


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
      positive: default class of precision, recall and F1; "" above two classes.
      notes: sentences for the log, as `Note` or text. A scan appends its findings.
      synthetic: the images are drawn, not photographed; every score must say so.
      subjects_known: False if each image counts as its own subject.
      background: "black" (foreground is every pixel above black) or "bright" (foreground is every
        pixel darker than Otsu's threshold).
      official_parts: `Entry.phase` -> "train", "val" or "test" of the published split; {} if the
        data set has none.
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
    bad_images: str = "error"
    config_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    version: ClassVar[str] = "1.0.0"  # raise it if the meaning of prepared records changes
    citation: ClassVar[str] = ""
    in_memory: ClassVar[bool] = False  # nothing is written to the cache folder

    def __post_init__(self) -> None:
        self.classes = tuple(self.classes)
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
        """Returns bytes and pixels; data sets of files override this to read the file once."""
        return Loaded(self.read(entry), self.image(entry))

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


def positive_class(requested: str, classes: tuple[str, ...], default: str) -> str:
    """Returns the class of precision and recall: the requested one, or the data set's own.

    Raises:
      UserError: there is no class of the requested name.
    """
    if requested and requested not in classes:
        raise UserError(f"positive: {requested!r} is none of the classes {', '.join(classes)}")
    return requested or default
