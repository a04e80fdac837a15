"""Reading and writing files: atomic writes, bounded reads, locks, CSV, and errors of the disk.

Everything that reads a file from somebody else goes through `open_regular`, `read_bytes` or
`read_json`: they refuse devices and pipes (which would block) and bound what is read.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from absl import logging

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Flags of `os.open`. Windows has only the last, without which it changes line ends.
SAFE_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

# The largest JSON or CSV file that leukjax reads whole.
MAX_JSON_BYTES = 64 * 2**20
MAX_TABLE_BYTES = 2 * 2**30

# What file systems answer to a call that they do not implement (object stores, CIFS, Lustre).
_UNSUPPORTED = {
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENOLCK,
    errno.EPERM,
    errno.ENOTTY,
}
_warned: set[str] = set()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a kill at any moment, finds the old or the new content.

    The content goes to a temporary file beside the target, is flushed to the disk, and replaces the
    target in one step. Missing parent folders are made. A link at `path` is replaced, not followed.
    Text is written as UTF-8.
    """
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Like `write_atomic`, for content written in pieces: the target is replaced at the end.

    If the body raises, the target keeps its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
    # Not by mkstemp, which makes files private: results are for everyone who may read the folder.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_FLAGS, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            with tolerate_unsupported("fsync"):
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that the user named as output.

    Unlike `open_atomic` this follows links, and writes through what is no regular file: a pipe,
    ``/dev/null``, and ``/dev/stdout`` wherever it leads.
    """
    descriptor = _own_descriptor(path)
    if descriptor is not None:  # not opened again: that would empty the file it leads to
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
    elif is_special(path):
        with open(path, "wb") as file:
            yield file
    else:
        with open_atomic(Path(os.path.realpath(path))) as file:
            yield file


def is_special(path: Path) -> bool:
    """Whether a path leads to what is no regular file: a device, a pipe, ``/dev/stdout``.

    Raises:
      OSError: it cannot be found out, as with links in a circle.
    """
    if _own_descriptor(path) is not None:
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _own_descriptor(path: Path) -> int | None:
    """The number of this process's descriptor that a path names, or None."""
    named = re.fullmatch(r"/dev/fd/([0-9]+)|/proc/self/fd/([0-9]+)", os.path.abspath(path))
    if named:
        return int(named[1] or named[2])
    names = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    return names.get(os.path.abspath(path))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one line of JSON: one write in append mode, so that no process loses another's line.

    A last line that a kill cut off is ended first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_FOLLOW | SAFE_FLAGS
    descriptor = os.open(path, flags, 0o666)
    try:
        _require_regular(descriptor, path)
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - 1), os.SEEK_SET)  # what is written goes to the end
        cut_off = size > 0 and os.read(descriptor, 1) != b"\n"
        line = ("\n" if cut_off else "") + json.dumps(record) + "\n"
        os.write(descriptor, line.encode())
        with tolerate_unsupported("fsync"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading; never blocks.

    Raises:
      OSError: it cannot be opened, or is a folder, device, pipe or socket.
    """
    descriptor = os.open(path, os.O_RDONLY | SAFE_FLAGS)
    try:
        _require_regular(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
      OSError: it cannot be read, is no regular file, or is larger.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.E2BIG, f"has more than {_size(limit)}", os.fspath(path))
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew, or states no size
        raise OSError(errno.E2BIG, f"has more than {_size(limit)}", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES) -> str:
    """`read_bytes`, decoded as UTF-8.

    Raises:
      OSError: as `read_bytes`.
      ValueError: it is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8-sig")


def read_json(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES) -> Any:
    """A JSON file of at most `limit` bytes. NaN and infinities are refused.

    Raises:
      OSError: as `read_bytes`.
      ValueError: it is not JSON.
    """
    try:
        return json.loads(read_text(path, limit), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json_lines(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES) -> list[Any]:
    """The values of a file with one line of JSON each; a last line that was cut off is left out.

    Raises:
      OSError: as `read_bytes`.
      ValueError: a line that is not the last is not JSON.
    """
    lines = read_text(path, limit).split("\n")
    values = [json.loads(line, parse_constant=_refuse_constant) for line in lines[:-1] if line]
    with contextlib.suppress(ValueError):
        values += [json.loads(line) for line in lines[-1:] if line]
    return values


def read_csv(
    path: str | os.PathLike[str], limit: int = MAX_TABLE_BYTES
) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file.

    Raises:
      OSError: as `read_bytes`.
      ValueError: it is no CSV, or a row has other columns than the header.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, limit), newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a row has more or fewer columns than the header")
    return list(reader.fieldnames or ()), rows


def csv_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV table; lines end in a newline, and a field with a carriage return is quoted."""
    text = io.StringIO()
    writer = csv_writer(text)
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def csv_writer(file: IO[str]) -> Any:
    """A `csv.writer` whose lines end in a newline and which quotes carriage returns."""
    # The writer quotes what its line end holds; Python 3.11 quotes a carriage return only then.
    return csv.writer(_NewlineEnds(file), lineterminator="\r\n")


class _NewlineEnds:
    """Ends the lines that `csv.writer` writes, one call for each, in a newline alone."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


@contextlib.contextmanager
def lock(path: Path, *, wait: bool, waiting: str = "") -> Iterator[IO[bytes]]:
    """Holds the lock file `path`; the kernel releases it when the process dies, however it dies.

    The file is made if needed, never truncated, and not followed if it is a link. A child process
    that inherits the yielded file holds the lock as well. Where the file system has no locks, a
    warning is logged and the body runs without.

    Args:
      path: the lock file.
      wait: False raises BlockingIOError if another process holds it.
      waiting: logged before waiting.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
      OSError: the file cannot be opened, is a link or no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | NO_FOLLOW | SAFE_FLAGS
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        _require_regular(descriptor, path)
        with tolerate_unsupported("flock"):
            try:
                flock(file.fileno(), wait=False)
            except BlockingIOError:
                if not wait:
                    raise
                if waiting:
                    logging.info("%s", waiting)
                flock(file.fileno(), wait=True)
        yield file


def flock(descriptor: int, *, wait: bool) -> None:
    """Locks an open file for this process.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is False.
      OSError: the file system or the operating system (Windows) has no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def tolerate_unsupported(call: str) -> Iterator[None]:
    """Continues, with one warning per process, if a file system does not support a call."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if call not in _warned:
            _warned.add(call)
            logging.warning("%s: not supported here (%s)", call, error.strerror)


def require_utf8(path: str | os.PathLike[str]) -> None:
    """Refuses a path that Orbax and ArrayRecord cannot open: both take names as UTF-8.

    Raises:
      ValueError: it is not UTF-8, or the process has another encoding for names.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        fix = "" if encoding == "utf-8" else f", as names are {encoding} here; set PYTHONUTF8=1"
        raise ValueError(f"the name is not UTF-8{fix}") from error


def _require_regular(descriptor: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is not JSON")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 2**20 else f"{count} bytes"


_FIXES = {
    errno.ENOSPC: "no space left on the device; free some and start again",
    errno.EDQUOT: "the disk quota is used up; free some and start again",
    errno.EFBIG: "larger than the largest file allowed here (ulimit -f); raise it and start again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may use",
    errno.EPERM: "not permitted; choose a folder that you may use",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
    errno.EIO: "the device reports an error; check the disk or its mount and start again",
    errno.ESTALE: "the network file system has lost this file; mount it again and start again",
    errno.ENOTCONN: "the network file system is not connected; mount it again and start again",
    errno.EPIPE: "its reader closed the pipe before all was written",
    errno.ELOOP: "a symbolic link, which is not followed here; remove it",
}


def describe_failure(error: BaseException) -> str | None:
    """``PATH: what is wrong; the fix`` if a disk is the cause of an error, else None.

    Looks at the error and at what it was raised from. TensorStore (under Orbax) raises ValueError
    and ArrayRecord RuntimeError, both with the system's text in theirs.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        code, path = _of_os_error(current) if isinstance(current, OSError) else _of_text(current)
        if code in _FIXES:
            return f"{path or 'a file'}: {_FIXES[code]}"
        current = current.__cause__ or current.__context__
    return None


def _of_os_error(error: OSError) -> tuple[int | None, str]:
    name = error.filename
    return error.errno, os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _of_text(error: BaseException) -> tuple[int | None, str]:
    text = str(error)
    stated = re.search(r"os_error_code='([0-9]+)'", text)
    code = int(stated[1]) if stated else None
    if code is None:
        code = next((code for code in _FIXES if os.strerror(code) in text), None)
    paths = re.findall(r'"(/[^"]*)"', text)
    return code, paths[-1] if paths else ""
