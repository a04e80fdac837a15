"""What a data set module gives: a list of images and a way to read each."""

import dataclasses
import hashlib
import os
from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Int, UInt8

from leukjax.data.archive import Files
from leukjax.data.decode import decode
from leukjax.data.manifest import Manifest
from leukjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image of a source, before it is read; fields as in `Manifest`."""

    id: str
    path: str
    label: int
    subject: str
    phase: str = ""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An image that could not be decoded and was left out (`data.bad_images = skip`)."""

    id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An image read once: its bytes, its pixels, and what had to be converted ("CMYK", …)."""

    data: bytes
    image: np.ndarray
    conversions: tuple[str, ...] = ()


@dataclasses.dataclass(kw_only=True)
class Source(ABC):
    """A data set as a list of images and a way to read each.

    Attributes:
      name: as in `data.name`.
      classes: class names; `Entry.label` indexes them.
      positive: class that precision, recall and F1 speak of by default; "" above two classes.
      entries: the images.
      notes: sentences for the log: counts found against published ones, what is missing. A scan
        appends what it found in the pixels.
      synthetic: the images are drawn; every score must say so.
      subjects_known: False where each image is its own subject for want of better knowledge.
      background: "black" (foreground = pixels above black) or "bright" (foreground = pixels darker
        than Otsu's threshold).
    """

    name: str
    classes: tuple[str, ...]
    positive: str
    entries: list[Entry]
    notes: list[str] = dataclasses.field(default_factory=list)
    synthetic: bool = False
    subjects_known: bool = True
    background: str = "black"

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """The file's bytes (for drawn images: the pixels' bytes). Thread-safe."""

    @abstractmethod
    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded image at its native size. Thread-safe.

        Raises:
          BadImage: the file is no image that can be used; names the file and the mend.
        """

    @abstractmethod
    def stat_key(self) -> str:
        """Hex fingerprint of the source, without reading an image: entries, place, sizes, times."""

    def file_sizes(self, manifest: Manifest) -> Int[np.ndarray, " n"] | None:
        """Bytes of the file of each image; None where the images are not files."""
        del manifest
        return None

    def load(self, entry: Entry) -> Loaded:
        """Bytes and pixels; a source of files overrides this to read the file once."""
        return Loaded(self.read(entry), self.image(entry))

    def findings(self, manifest: Manifest, sides: Int[np.ndarray, "n"]) -> list[str]:
        """Sentences on what the pixels of this data set show, said after a scan.

        Args:
          manifest: the scanned images.
          sides: int[n], longer side of each cell's box, pixels of the source.
        """
        del manifest, sides
        return []


@dataclasses.dataclass(kw_only=True)
class FileSource(Source):
    """A source whose images are files, in folders or in zips."""

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
        # The place as well: two copies of a data set may agree in every name, size and time.
        place = os.path.realpath(self.files.root)
        about = (self.name, self.classes, self.background, place)
        digest = hashlib.sha256(repr(about).encode())
        for entry in sorted(self.entries, key=lambda entry: entry.id):
            digest.update(repr((dataclasses.astuple(entry), stamps[entry.path])).encode())
        return digest.hexdigest()


def positive_class(requested: str, classes: tuple[str, ...], default: str) -> str:
    """The class that precision and recall speak of: `data.positive`, or the data set's own.

    Raises:
      UserError: there is no class of the requested name.
    """
    if requested and requested not in classes:
        raise UserError(f"data.positive: {requested!r} is none of the classes {', '.join(classes)}")
    return requested or default
