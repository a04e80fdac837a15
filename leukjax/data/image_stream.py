"""Streams of image files from files, folders and zips; a million of them in constant memory.

`archive.Files` lists a data set and refuses all of it if anything is wrong. Here a file that is
wrong is an item of the stream, and the others follow.
"""

import dataclasses
import errno
import functools
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import logging

from leukjax.data import archive
from leukjax.data.decode import BadImage
from leukjax.data.zips import Zip, open_zip
from leukjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Item:
    """An image that is not read yet, or something that cannot be read as one.

    Attributes:
      path: for display: as given, or below what was given; "cells.zip!a/b.png" in a zip.
      read: returns the bytes; raises UserError (`BadImage`). Thread-safe.
    """

    path: str
    read: Callable[[], bytes]


def check(paths: Sequence[str]) -> None:
    """Checks the paths before any work is done.

    Raises:
      UserError: no path, or one that does not exist, or is a circle of links.
    """
    if not paths:
        raise UserError("no image is given; name files, folders or zips after the flags")
    for path in paths:
        try:
            os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: cannot be read ({reason}); give files that exist") from error


def items(paths: Sequence[str], left_out: Counter[str] | None = None) -> Iterator[Item]:
    """Yields the images of files, folders (to any depth) and zips, in the order of `paths`.

    A file that is named is taken whatever its name; in folders and zips, those with the suffix of
    an image. Folders are sorted by name; each is entered once, so that a link to a parent ends. In
    memory are the names of one folder per level, and the directory of one zip.

    Args:
      paths: files, folders and zips.
      left_out: counts the suffixes of the other files in folders and zips.
    """
    seen: set[tuple[int, int]] = set()
    left_out = Counter() if left_out is None else left_out
    for path in paths:
        if os.path.isdir(path):
            yield from _folder(Path(path), seen, left_out)
        elif path.lower().endswith(".zip"):
            yield from _zip(Path(path), left_out)
        else:
            yield _file(Path(path))


def count(paths: Sequence[str]) -> int:
    """Returns the number of images; logs which other files are left out.

    Raises:
      UserError: there are none.
    """
    left_out: Counter[str] = Counter()
    total = sum(1 for _ in items(paths, left_out))
    note = archive.left_out_note(left_out) if left_out else ""
    if not total:
        others = f"; {note}" if note else ""
        raise UserError(
            f"{', '.join(paths)}: holds no image ({', '.join(archive.IMAGES)}, in folders or "
            f"zips{others}); give the folder that holds the images"
        )
    if note:
        logging.warning("%s", note)
    return total


def _folder(folder: Path, seen: set[tuple[int, int]], left_out: Counter[str]) -> Iterator[Item]:
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        names = sorted(name for name in os.listdir(folder) if not archive.hidden(name))
    except OSError as error:
        yield _broken(folder, error)
        return
    for name in names:
        path = folder / name
        suffix = os.path.splitext(name)[1].lower()
        if path.is_dir():
            yield from _folder(path, seen, left_out)
        elif suffix == ".zip":
            yield from _zip(path, left_out)
        elif suffix in archive.IMAGES:
            yield _file(path)
        else:
            left_out[_printable(suffix)] += 1


def _zip(path: Path, left_out: Counter[str]) -> Iterator[Item]:
    others: Counter[str] = Counter()
    try:
        opened = open_zip(path)
        # A zip is used completely or not at all: its last member may point outside it.
        infos = list(archive.members(opened, path, others, archive.IMAGES))
    except (OSError, UserError) as error:
        yield _broken(path, error)
        return
    left_out.update(others)
    for info in infos:
        name = f"{_printable(path)}!{info.filename}"
        yield Item(name, functools.partial(_read_member, opened, info, name))


def _file(path: Path) -> Item:
    return Item(_printable(path), functools.partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    try:
        return archive.read_file(path, _printable(path))
    except OSError as error:
        raise _bad(path, error) from error


def _read_member(opened: Zip, info: zipfile.ZipInfo, name: str) -> bytes:
    try:
        return opened.read(info)
    except (OSError, ValueError) as error:
        raise BadImage(f"{name}: damaged in its zip ({error}): download the zip again") from error


def _broken(path: Path, error: Exception) -> Item:
    """Returns an item that raises why it cannot be read."""
    reason = error if isinstance(error, UserError) else _bad(path, error)

    def read() -> bytes:
        raise reason

    return Item(_printable(path), read)


def _bad(path: Path, error: Exception) -> BadImage:
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        return BadImage(f"{_printable(path)}: is not a regular file: leave it out")
    reason = getattr(error, "strerror", None) or error
    return BadImage(
        f"{_printable(path)}: cannot be read ({reason}): restore it or change its permissions"
    )


def _printable(path: Path | str) -> str:
    """A name that is not UTF-8 is written with escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")
