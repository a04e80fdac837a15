"""Files below a root, in folders or in zips; nothing is unpacked to the disk."""

import dataclasses
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from leukjax.data import image_limits
from leukjax.data.decode import BadImage
from leukjax.data.image_file import SUFFIXES
from leukjax.data.zips import Zip, open_zip
from leukjax.errors import UserError
from leukjax.storage import open_regular, read_bytes

# A zip may claim anything. The largest published part (C-NMC on Kaggle) unpacks to 10 GB of files
# under 2 MB.
MAX_MEMBER_BYTES = 2**28
MAX_ARCHIVE_BYTES = 2**36

IMAGES = SUFFIXES
_WANTED = (*IMAGES, ".csv")


@dataclasses.dataclass(frozen=True)
class File:
    """A file below the root.

    Attributes:
      path: relative, posix; a member of a zip is "folder/archive.zip!member/path".
      location: the same with the zip as a folder; layouts are recognised by it.
      size: bytes, unpacked.
      stamp: changes if the file, or the zip that holds it, is written again: size, times of
        modification and of status change in nanoseconds, inode; of a member its CRC too.
    """

    path: str
    location: str
    size: int
    stamp: tuple[int, ...]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.location.rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rsplit(".", 1)[0]

    @property
    def suffix(self) -> str:
        """The name's last suffix with its dot, in lower case."""
        return os.path.splitext(self.name)[1].lower()

    @property
    def zipped(self) -> bool:
        """Whether it is in a zip."""
        return "!" in self.path


class Files:
    """Images and CSV files below a root folder, its zips included, or in one zip.

    Args:
      root: a folder or a zip.
      field: name of the argument, for messages.
      suffixes: of the files that are listed.

    Raises:
      UserError: root missing, empty, unreadable; or a zip that is damaged, encrypted, reaches
        outside itself or unpacks beyond MAX_MEMBER_BYTES a member, MAX_ARCHIVE_BYTES in all.
    """

    def __init__(self, root: str, field: str = "root", suffixes: tuple[str, ...] = _WANTED):
        self._suffixes = suffixes
        if not root:
            raise UserError(f"{field}: is empty: give the folder that holds the images")
        self.root = Path(native(os.fspath(root))).expanduser()
        self._zips: dict[str, tuple[Zip, dict[str, zipfile.ZipInfo]]] = {}
        self.left_out: Counter[str] = Counter()  # suffixes of files that are neither images nor CSV
        self.files: list[File] = []
        self.folders: set[str] = set()  # directly below the root, empty ones included
        try:
            if self.root.is_file():
                if self.root.suffix.lower() != ".zip" and not _is_zip(self.root):
                    raise UserError(
                        f"{field}: {root} is a file but not a zip: give the folder of the images"
                    )
                self._base = self.root.parent
                self.files.extend(self._members(_text(self.root.name)))
            elif self.root.is_dir():
                self._base = self.root
                for path in self._walk():
                    self.files.extend(self._found(path))
            elif self.root.exists():
                raise UserError(
                    f"{field}: {root} is neither a folder nor a file: give the folder of the images"
                )
            else:
                raise UserError(f"{field}: {root} does not exist: give the folder of the images")
        except OSError as error:
            path = error.filename or root
            reason = error.strerror or error
            raise UserError(
                f"{field}: {path} cannot be read ({reason}): restore it or change its permissions"
            ) from error
        self.files.sort(key=lambda file: file.path)
        if not self.files:
            others = f"; {left_out_note(self.left_out)}" if self.left_out else ""
            kind, listed = ("image", IMAGES) if IMAGES[0] in suffixes else ("file", suffixes)
            raise UserError(
                f"{field}: {root} holds no {kind} ({', '.join(listed)}, in folders or zips"
                f"{others}): give the folder that holds the {kind}s"
            )

    def notes(self) -> list[str]:
        """Returns a sentence on the files that are left out, if there are any."""
        return [left_out_note(self.left_out)] if self.left_out else []

    def read(self, path: str) -> bytes:
        """Returns the bytes of `File.path`. Thread-safe.

        Raises:
          BadImage: the member of a zip is damaged.
          UserError: the file cannot be read at all (gone, access denied, device error).
        """
        archive, bang, member = path.partition("!")
        try:
            if bang and archive in self._zips:
                opened, infos = self._zips[archive]
                return opened.read(infos[member])
            return read_file(self._base / native(path), path)
        except UserError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{self._base / path}: cannot be read ({reason}): restore it or change its "
                "permissions"
            ) from error
        except ValueError as error:
            raise BadImage(
                f"{path}: damaged in its zip ({error}): download the zip again"
            ) from error

    def _walk(self) -> Iterator[str]:
        """Yields relative posix paths of the files below the root; links are followed once."""
        seen: set[tuple[int, int]] = set()

        def refuse(error: OSError) -> None:
            raise error

        for folder, folders, names in os.walk(self._base, followlinks=True, onerror=refuse):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:  # a link to a parent would never end
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not hidden(name))
            if folder == str(self._base):
                self.folders.update(
                    os.fsencode(name).decode(errors="backslashreplace") for name in folders
                )
            for name in sorted(names):
                if not hidden(name):
                    yield _text((Path(folder) / name).relative_to(self._base).as_posix())

    def _found(self, path: str) -> Iterator[File]:
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".zip":
            yield from self._members(path)
        elif suffix in self._suffixes:
            status = os.stat(self._base / native(path))
            if stat.S_ISREG(status.st_mode):  # reading a pipe would block
                yield File(path, path, status.st_size, _stamp(status))
            else:
                self.left_out["pipe or device"] += 1
        else:
            self.left_out[suffix] += 1

    def _members(self, archive: str) -> Iterator[File]:
        where = self._base / native(archive)
        opened = open_zip(where)
        infos = {
            info.filename: info for info in members(opened, where, self.left_out, self._suffixes)
        }
        self._zips[archive] = (opened, infos)
        stamp = _stamp(os.fstat(opened.file.fileno()))
        for name, info in infos.items():
            place = name if where == self.root else f"{archive}/{name}"
            yield File(f"{archive}!{name}", place, info.file_size, (*stamp, info.CRC))


def _is_zip(path: Path) -> bool:
    with open_regular(path) as file:
        return zipfile.is_zipfile(file)


def read_file(where: Path, name: str) -> bytes:
    """Returns the bytes of a file; does not block on a pipe or device.

    Args:
      where: the file.
      name: name of the file for messages.

    Raises:
      BadImage: it is not a regular file, or larger than MAX_MEMBER_BYTES.
      OSError: it cannot be read.
    """
    status = os.stat(where)
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(f"{name}: is not a regular file: leave it out")
    if status.st_size > MAX_MEMBER_BYTES:
        raise BadImage(f"{name}: has more than {MAX_MEMBER_BYTES >> 20} MiB: crop or shrink it")
    image_limits.take_bytes(status.st_size)
    return read_bytes(where, MAX_MEMBER_BYTES)


def left_out_note(left_out: Counter[str]) -> str:
    """Returns a sentence on the files that are not read: how many of each suffix."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds[:8]]
    others = sum(count for _, count in kinds[8:])
    more = f", {others:,} others" if others else ""
    total = left_out.total()
    return (
        f"left out {total:,} {'file that is' if total == 1 else 'files that are'} no image that "
        f"leukjax reads: {', '.join(named)}{more}"
    )


def members(
    opened: Zip,
    where: Path,
    left_out: Counter[str],
    wanted: tuple[str, ...] = _WANTED,
) -> Iterator[zipfile.ZipInfo]:
    """Yields the members of a zip that have one of the wanted suffixes, each checked first.

    Args:
      opened: the zip.
      where: its path, for messages.
      left_out: counts the suffixes of the other members.
      wanted: suffixes; images and tables by default.

    Raises:
      UserError: a member that points outside the zip, occurs twice, is encrypted, or brings the
        unpacked size above MAX_MEMBER_BYTES or MAX_ARCHIVE_BYTES.
    """
    total = 0
    seen: set[str] = set()
    for info in opened.infos:
        name = info.filename
        parts = name.split("/")
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in parts[0]:
            raise UserError(
                f"{where}: member {name!r} points outside the zip: do not use this file"
            )
        if info.is_dir() or any(map(hidden, parts)):
            continue
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in wanted:
            left_out[suffix] += 1
            continue
        if name in seen:
            raise UserError(f"{where}: member {name!r} occurs twice: pack the zip again")
        seen.add(name)
        total += info.file_size
        if info.file_size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
            raise UserError(
                f"{where}: member {name!r} brings the unpacked size over the limit "
                f"({MAX_MEMBER_BYTES >> 20} MiB a file, {MAX_ARCHIVE_BYTES >> 30} GiB a zip): "
                "unpack it yourself if you trust it, and give the folder"
            )
        if info.flag_bits & 1:
            raise UserError(f"{where}: is encrypted: unpack it and give the folder")
        _require_utf8(name)
        yield info


def hidden(name: str) -> bool:
    """Returns True for names that file managers leave behind: .DS_Store, ._image.bmp, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def native(path: str) -> str:
    """Returns the string by which Python opens `File.path`, or a path of a config.

    Names are UTF-8 in leukjax, so that ids do not depend on the locale of the process; in another
    locale (LC_ALL=C without UTF-8 mode), Python opens files by other strings.
    """
    try:
        return os.fsdecode(path.encode())
    except UnicodeEncodeError:  # from the command line, where names have this form already
        return path


def _text(path: str) -> str:
    """Returns the inverse of `native`.

    Raises:
      UserError: the name is not UTF-8.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error


def _require_utf8(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _not_utf8(name) from error


def _not_utf8(name: str) -> UserError:
    return UserError(f"{name!a}: the name is not valid UTF-8: rename the file")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
