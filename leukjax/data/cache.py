"""The cache folder: prepared folders in it are there whole or not at all, whoever is killed."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import logging

from leukjax import storage
from leukjax.errors import UserError

_CHOOSE = "choose another folder by --config.data.cache_dir or the variable LEUKJAX_CACHE"


def root(configured: str) -> Path:
    """The cache folder: `data.cache_dir`, else $LEUKJAX_CACHE, else the user's cache folder.

    Raises:
      UserError: none of them is set and the user has no home folder, or one of them begins with the
        home folder of a user who has none; or its name is not UTF-8.
    """
    chosen = configured or os.environ.get("LEUKJAX_CACHE", "")
    try:
        if chosen:
            folder = Path(chosen).expanduser().absolute()
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = Path(base).absolute() / "leukjax"
        storage.require_utf8(folder)
    except RuntimeError as error:
        raise UserError(
            f"data.cache_dir: {chosen or 'the default'} needs a home folder, and this user has "
            f"none: {_CHOOSE}"
        ) from error
    except ValueError as error:
        raise UserError(f"data.cache_dir: {str(folder)!a}: {error}, or {_CHOOSE}") from error
    return folder


def make_folder(folder: Path) -> None:
    """Makes a folder of the cache.

    Raises:
      UserError: it cannot be made; says how to choose another cache folder.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def make_once(
    folder: Path, is_whole: Callable[[Path], bool], write: Callable[[Path], None], size: int
) -> None:
    """Fills `folder` by `write` unless `is_whole(folder)`; many processes may ask at once.

    `write` is given an empty folder beside the target; what it leaves there reaches the disk and
    takes the target's name in one step. One process writes, the others wait for it. Folders that
    killed processes left behind are removed.

    Args:
      folder: the target. Its parent also holds a lock file and a temporary folder while it is made.
      is_whole: tells a finished folder from a missing or damaged one; must not raise.
      write: fills a folder.
      size: bytes that `write` is expected to need.

    Raises:
      UserError: the cache folder cannot be written or is full.
    """
    _sweep(folder.parent)
    if is_whole(folder):
        return
    make_folder(folder.parent)
    waiting = f"another process is preparing {folder}: waiting for it"
    # The lock file stays: removing it would let two processes lock two files of one name.
    lock = storage.lock(_lock_file(folder), wait=True, waiting=waiting)
    with _writing(folder.parent), lock:
        if is_whole(folder):
            return
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise UserError(
                f"data.cache_dir: {folder.parent} has {free / 1e9:.1f} GB free and the records "
                f"need {size / 1e9:.1f} GB: free space there, or {_CHOOSE}"
            )
        _make(folder, is_whole, write)


def _make(folder: Path, is_whole: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    temporary = _temporary(folder)
    try:
        write(temporary)
        _flush(temporary)
        if is_whole(folder):  # by another process, where the file system has no locks
            return
        if folder.is_symlink() or folder.exists():
            logging.warning("%s is damaged: it was made again", folder)
            damaged = _temporary(folder)
            os.replace(folder, damaged / "damaged")
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, folder)
        _flush_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    with storage.tolerate_unsupported("chmod"):
        path.chmod(0o755)  # mkdtemp's 0700 would keep a group out of a shared cache
    return path


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _sweep(parent: Path) -> None:
    """Removes temporary folders whose maker no longer lives (it would hold the lock)."""
    try:
        names = os.listdir(parent)
    except OSError:  # missing, or not for us
        return
    for name in names:
        if not (name.startswith(".") and name.endswith(".tmp")):
            continue
        temporary = parent / name
        target = parent / name[1:].split(".")[0]
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(_lock_file(target), flags, 0o666)
        except OSError:  # the cache may only be read
            continue
        try:
            # Not `storage.lock`, which does without where the file system has no locks: then
            # nothing tells a dead maker from a living one.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(temporary, ignore_errors=True)
        except OSError:  # its maker lives
            continue
        finally:
            os.close(descriptor)


@contextmanager
def _writing(parent: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise UserError(
            f"data.cache_dir: {parent} cannot be written ({reason}): free space there, or {_CHOOSE}"
        ) from error


def _disk_trouble(error: Exception) -> str | None:
    """What the disk refused, if that is what the error is about."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # The writer of ArrayRecord turns the system's error into a RuntimeError with its text.
    texts = (os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))
    return next((text for text in texts if text in str(error)), None)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
        else:
            with open(path, "rb") as file, storage.tolerate_unsupported("fsync"):
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with storage.tolerate_unsupported("fsync"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
