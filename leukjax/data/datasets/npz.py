"""Npz: images in a NumPy archive, in the layout of MedMNIST or as images, labels and groups."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data.archive import native
from leukjax.data.dataset import Dataset, names_config_fields
from leukjax.data.image_stats import find_background
from leukjax.data.parts import PARTS, official_parts
from leukjax.data.source import INFO, WARNING, Entry, Note
from leukjax.data.zips import open_zip
from leukjax.errors import UserError

MAX_SMALL_BYTES = 2**28  # of labels, groups and class names
MAX_IMAGE_BYTES = 2**27  # of one image
MAX_IMAGES = 10_000_000  # of one array
_HEADER_CHARACTERS = 10_000
_SAMPLED = 32  # images that the background is found from


@dataclasses.dataclass(frozen=True)
class Member:
    """An array of the archive that is not read yet."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype


class Npz(Dataset):
    """Images in one .npz file.

    Either ``train_images``, ``train_labels``, … for train, val and test (MedMNIST), or ``images``,
    ``labels`` and, if there are any, ``groups`` and ``classes``.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, positive: str = "", bad_images: str = "error"
    ) -> None:
        """Reads the headers, labels and groups; images are read when they are needed.

        Images are uint8[n, h, w, 3], or uint8[n, h, w] in grey; labels are whole numbers or text,
        [n] or [n, 1]. Class names are the sorted labels, or those of ``classes``. Parts of the file
        are the published ones: ``split.protocol=given``.

        Args:
          root: the file.
          positive: class of precision, recall and F1. Default: the second of two.
          bad_images: without effect: there is nothing to decode.

        Raises:
          ValueError: a file that cannot be read, another layout, arrays that do not fit together.
        """
        self._path = Path(native(os.fspath(root))).expanduser().absolute()
        self._members = _members(self._path)
        self._images: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()
        names = {part: f"{part}_images" for part in PARTS if f"{part}_images" in self._members}
        self._names = names or {"": "images"}
        labels = {part: self._small(_prefixed(part, "labels")) for part in self._names}
        for part, name in self._names.items():
            self._check(part, name, len(labels[part]))
        classes, codes = self._classes(labels)
        entries = []
        for part, name in self._names.items():
            groups = self._groups(part, len(codes[part]))
            for index, label in enumerate(codes[part]):
                id = f"{part or 'image'}_{index:07d}"
                group = id if groups is None else groups[index]
                entries.append(Entry(id, f"{name}[{index}]", label, group, part))
        known = all(_prefixed(part, "groups") in self._members for part in self._names)
        super().__init__(
            name="npz",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=_notes(entries, classes, self._path, known),
            subjects_known=known,
            background=find_background(self._first_images())[0],
            official_parts=official_parts(names),
            bad_images=bad_images,
            config_fields={"data.root": str(self._path), "data.positive": positive},
        )

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        name, index = re.fullmatch(r"(\w+)\[(\d+)\]", entry.path).groups()  # type: ignore[union-attr]
        image = np.asarray(self._mapped(name)[int(index)])
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        return np.ascontiguousarray(image)

    def stat_key(self) -> str:
        stat = self._path.stat()
        facts = (str(self._path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _mapped(self, name: str) -> np.ndarray:
        """The images of a member, mapped from the file, or from a temporary one if it is packed."""
        with self._lock:
            if name not in self._images:
                member = self._members[name]
                free = shutil.disk_usage(tempfile.gettempdir()).free
                if member.info.file_size > free:
                    raise UserError(
                        f"root: {self._path}: {name} needs {member.info.file_size:,} bytes in "
                        f"{tempfile.gettempdir()}, which has {free:,}; set TMPDIR"
                    )
                file = tempfile.TemporaryFile()  # noqa: SIM115  (kept by the mapping)
                with _reading(self._path):
                    with self._opened(member) as packed:
                        shutil.copyfileobj(packed, file, 2**20)
                    file.flush()
                    self._images[name] = np.memmap(file, member.dtype, "r", shape=member.shape)
            return self._images[name]

    def _opened(self, member: Member) -> Any:
        """The content of a member after its header, as a stream."""
        archive = zipfile.ZipFile(self._path)
        stream = archive.open(member.info)
        _header(stream)
        return stream

    def _first_images(self) -> Iterator[np.ndarray]:
        member = self._members[next(iter(self._names.values()))]
        size = int(np.prod(member.shape[1:]))
        with _reading(self._path), self._opened(member) as stream:
            for _ in itertools.repeat(None, min(_SAMPLED, member.shape[0])):
                image = np.frombuffer(stream.read(size), np.uint8).reshape(member.shape[1:])
                yield image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)

    def _small(self, name: str) -> np.ndarray:
        member = self._members.get(name)
        if member is None:
            raise UserError(f"root: {self._path} has no array {name}; {_layout(self._members)}")
        count = int(np.prod(member.shape, dtype=np.float64)) * member.dtype.itemsize
        if count > MAX_SMALL_BYTES:
            raise UserError(f"root: {self._path}: {name} has {count:,} bytes, which is too many")
        with _reading(self._path), self._opened(member) as stream:
            values = np.frombuffer(stream.read(count), member.dtype).reshape(member.shape)
        if not values.ndim:
            raise UserError(f"root: {self._path}: {name} is one value, and must be an array")
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

    def _classes(
        self, labels: dict[str, np.ndarray]
    ) -> tuple[tuple[str, ...], dict[str, list[int]]]:
        for part, values in labels.items():
            if values.ndim != 1 or values.dtype.kind not in "iuU":
                raise UserError(
                    f"root: {self._path}: {_prefixed(part, 'labels')} is {values.dtype}"
                    f"{list(values.shape)}; labels are whole numbers or text, [n] or [n, 1]"
                )
        if len({values.dtype.kind == "U" for values in labels.values()}) > 1:
            raise UserError(f"root: {self._path}: labels are text in one part, numbers in another")
        present = sorted({value for values in labels.values() for value in values.tolist()})
        given = "classes" in self._members
        names = [str(name) for name in (self._small("classes").tolist() if given else present)]
        is_text = any(values.dtype.kind == "U" for values in labels.values())
        # Numbers index the classes that are given; else they are sorted.
        keys: list[Any] = names if is_text else list(range(len(names))) if given else present
        index = {key: code for code, key in enumerate(keys)}
        unknown = [value for value in present if value not in index]
        if unknown:
            raise UserError(f"root: {self._path}: the label {unknown[0]!r} is not a class")
        if len(names) < 2 or len(set(names)) < len(names):
            listed = ", ".join(names)[:200]
            raise UserError(
                f"root: {self._path}: the classes {listed} are not two or more different names"
            )
        codes = {part: [index[v] for v in values.tolist()] for part, values in labels.items()}
        return tuple(names), codes

    def _groups(self, part: str, count: int) -> list[str] | None:
        name = _prefixed(part, "groups")
        if name not in self._members:
            return None
        groups = self._small(name)
        if groups.shape != (count,) or groups.dtype.kind not in "iuU":
            raise UserError(
                f"root: {self._path}: {name} is {groups.dtype}{list(groups.shape)}; groups are "
                f"{count:,} whole numbers or texts"
            )
        return [str(group) for group in groups.tolist()]

    def _check(self, part: str, name: str, count: int) -> None:
        member = self._members[name]
        fits = len(member.shape) in (3, 4) and (len(member.shape) == 3 or member.shape[3] == 3)
        fits = fits and min(member.shape[1:]) > 0
        if member.dtype != np.uint8 or not fits or member.shape[0] != count:
            raise UserError(
                f"root: {self._path}: {name} is {member.dtype}{list(member.shape)}; images are "
                f"uint8[{count}, h, w, 3], as many as {_prefixed(part, 'labels')}"
            )
        if int(np.prod(member.shape[1:], dtype=np.float64)) > MAX_IMAGE_BYTES:
            raise UserError(f"root: {self._path}: an image of {name} is too large")
        if count > MAX_IMAGES:
            raise UserError(f"root: {self._path}: {name} has more than {MAX_IMAGES:,} images")


@names_config_fields
def make(data: ConfigDict) -> Npz:
    """Returns the data set of the `data` section of a config."""
    if not data.root:
        raise UserError("root: give the .npz file")
    return Npz(data.root, positive=data.positive)


def _prefixed(part: str, name: str) -> str:
    return f"{part}_{name}" if part else name


def _layout(members: dict[str, Member]) -> str:
    return (
        f"it holds {', '.join(sorted(members))[:200]}, and needs images and labels, or "
        "train_images, train_labels, … as MedMNIST"
    )


def _members(path: Path) -> dict[str, Member]:
    """Returns the arrays of an archive by name; reads their headers only."""
    members = {}
    with _reading(path):
        open_zip(path).file.close()
        archive = zipfile.ZipFile(path)
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as stream:
                    shape, dtype = _header(stream)
                size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
                if size > info.file_size:
                    raise ValueError(f"{info.filename} is cut off")
                members[info.filename.removesuffix(".npy")] = Member(info, shape, dtype)
    if "images" not in members and "train_images" not in members:
        raise UserError(f"root: {path} has no images; {_layout(members)}")
    return members


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Inside, a file that cannot be read or is damaged is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"root: {path} cannot be read ({error.strerror or error})") from error
    except UserError as error:
        raise UserError(f"root: {error}") from error
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged files
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"root: {path} is no whole .npz ({line})") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Reads the header of an array, and leaves the stream at its content."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of .npy is not read")
    shape, fortran, dtype = read(stream, max_header_size=_HEADER_CHARACTERS)
    if dtype.hasobject or dtype.names or fortran or min(shape, default=0) < 0:
        raise ValueError("it holds objects, or is not in C order: save plain arrays")
    return shape, dtype


def _notes(entries: list[Entry], classes: tuple[str, ...], path: Path, known: bool) -> list[Note]:
    counts = Counter(entry.label for entry in entries)
    per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    notes = [Note(INFO, f"{len(entries):,} images ({per_class}) of {path.name}")]
    if not known:
        text = "no groups: each image counts as its own, and scores may be too high"
        notes.append(Note(WARNING, text))
    return notes
