"""Image files one after the other, from files, folders and zips; a million of them in flat memory.

`archive.Files` lists a data set, and refuses it whole where something is wrong. Here a thing that
is wrong is one more item of the stream, and the others go on.
"""

import dataclasses
import functools
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from leukjax.data import archive
from leukjax.data.decode import BadImage
from leukjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Item:
    """An image that is not read yet, or something that stands where images were hoped for.

    Attributes:
      path: for people: as given, or below what was given; "cells.zip!a/b.png" in a zip.
      read: its bytes; raises UserError (`BadImage`). Thread-safe.
    """

    path: str
    read: Callable[[], bytes]


def check(paths: Sequence[str]) -> None:
    """Refuse what was mistyped, before any work is done.

    Raises:
      UserError: no path, or one that is not there, or goes round in a circle of links.
    """
    if not paths:
        raise UserError("no image is given; name files, folders or zips after the flags")
    for path in paths:
        try:
            os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: cannot be read ({reason}); give files that exist") from error


def items(paths: Sequence[str]) -> Iterator[Item]:
    """The images of files, folders (to any depth) and zips, in the order of `paths`.

    A file that is named is taken whatever its name is; in folders and zips, those with the suffix
    of an image. Folders go by name; each is entered once, so that a link back up ends. In memory
    are the names of one folder a level, and the directory of one zip.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _folder(Path(path), seen)
        elif path.lower().endswith(".zip"):
            yield from _zip(Path(path))
        else:
            yield _file(Path(path))


def _folder(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Item]:
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
            yield from _folder(path, seen)
        elif suffix == ".zip":
            yield from _zip(path)
        elif suffix in archive.IMAGES:
            yield _file(path)


def _zip(path: Path) -> Iterator[Item]:
    try:
        opened = archive.open_zip(path)
        # A zip is used whole or not at all: what points outside it may stand last.
        found = [info for info in archive.members(opened, path) if _is_image(info)]
    except (OSError, UserError) as error:
        yield _broken(path, error)
        return
    for info in found:
        name = f"{_printable(path)}!{info.filename}"
        yield Item(name, functools.partial(_read_member, opened, info, name))


def _is_image(info: zipfile.ZipInfo) -> bool:
    return info.filename.lower().endswith(archive.IMAGES)


def _file(path: Path) -> Item:
    return Item(_printable(path), functools.partial(_read_file, path))


def _read_file(path: Path) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise BadImage(f"{_printable(path)}: is no ordinary file: leave it out")
        if status.st_size > archive.MAX_MEMBER_BYTES:
            limit = archive.MAX_MEMBER_BYTES >> 20
            raise BadImage(f"{_printable(path)}: has more than {limit} MiB: crop or shrink it")
        return path.read_bytes()
    except OSError as error:
        raise _bad(path, error) from error


def _read_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    try:
        return opened.read(info)
    # Damaged members raise nearly anything.
    except Exception as error:
        raise BadImage(f"{name}: damaged in its zip ({error}): download the zip again") from error


def _broken(path: Path, error: Exception) -> Item:
    """An item that tells why something gives none."""
    said = error if isinstance(error, UserError) else _bad(path, error)

    def read() -> bytes:
        raise said

    return Item(_printable(path), read)


def _bad(path: Path, error: Exception) -> BadImage:
    reason = getattr(error, "strerror", None) or error
    return BadImage(f"{_printable(path)}: cannot be read ({reason}): mend its access")


def _printable(path: Path | str) -> str:
    """A name that is not UTF-8 is written with escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")
