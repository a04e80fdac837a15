"""The cache folder: folders in it are complete or absent, even if a process is killed."""

import errno
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
    """Returns the cache folder: `configured`, else $LEUKJAX_CACHE, else the user's cache folder.

    Raises:
      UserError: it needs a home folder and the user has none, or its name is not UTF-8.
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
    """Creates a folder of the cache.

    Raises:
      UserError: it cannot be created; says how to choose another cache folder.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def make_once(
    folder: Path,
    is_whole: Callable[[Path], bool],
    write: Callable[[Path], None],
    size: int,
    *,
    resume: bool = False,
) -> None:
    """Fills `folder` by `write` unless `is_whole(folder)`; many processes may call it at once.

    `write` gets an empty folder beside the target; its content is flushed to the disk and renamed
    to the target in one step. One process writes, the others wait for it. Folders that killed
    processes left behind are removed, or given to `write` to continue.

    Args:
      folder: the target. Its parent also holds a lock file, and a temporary folder meanwhile.
      is_whole: returns whether a folder is complete; must not raise.
      write: fills a folder.
      size: bytes that `write` is expected to need.
      resume: `write` continues with what an interrupted or killed process has written.

    Raises:
      UserError: the cache folder cannot be written or is full.
    """
    done = is_whole(folder)
    _sweep(folder.parent, keep=folder.name if resume and not done else "")
    if done:
        return
    make_folder(folder.parent)
    waiting = f"another process is preparing {folder}: waiting for it"
    # The lock file stays: removing it would let two processes lock two files of one name.
    lock = storage.lock(_lock_file(folder), wait=True, waiting=waiting)
    with _writing(folder.parent), lock:
        if is_whole(folder):
            return
        begun = _left_behind(folder) if resume else None
        free = shutil.disk_usage(folder.parent).free
        if free < size and begun is None:
            raise UserError(
                f"data.cache_dir: {folder.parent} has {free / 1e9:.1f} GB free and the records "
                f"need {size / 1e9:.1f} GB: free space there, or {_CHOOSE}"
            )
        _make(folder, is_whole, write, begun, resume=resume)


def _left_behind(folder: Path) -> Path | None:
    """Returns the temporary folder of an earlier process that was making `folder`.

    The caller holds the lock, so that process has ended. Where the file system has no locks this
    is not known, and nothing is returned.
    """
    folders = sorted(folder.parent.glob(f".{folder.name}.*.tmp"))
    if not folders or folders[0].is_symlink():
        return None
    with open(_lock_file(folder), "rb") as file:
        try:
            storage.flock(file.fileno(), wait=False)
        except BlockingIOError:
            return folders[0]
        except OSError:
            pass
    return None


def _make(
    folder: Path,
    is_whole: Callable[[Path], bool],
    write: Callable[[Path], None],
    begun: Path | None,
    *,
    resume: bool,
) -> None:
    temporary = begun or _temporary(folder)
    keep = False
    try:
        write(temporary)
        _flush(temporary)
        if is_whole(folder):  # by another process, where the file system has no locks
            return
        if folder.is_symlink() or folder.exists():
            logging.warning("%s was damaged and is replaced", folder)
            damaged = _temporary(folder)
            os.replace(folder, damaged / "damaged")
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, folder)
        _flush_folder(folder.parent)
    except (KeyboardInterrupt, SystemExit):
        keep = resume
        raise
    finally:
        if not keep:
            shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    with storage.tolerate_unsupported("chmod"):
        path.chmod(0o755)  # mkdtemp's 0700 would lock a group out of a shared cache
    return path


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _sweep(parent: Path, keep: str = "") -> None:
    """Removes temporary folders of processes that ended (a living one would hold the lock).

    Those of the folder `keep` stay.
    """
    try:
        names = os.listdir(parent)
    except OSError:  # missing, or not readable
        return
    for name in names:
        if not (name.startswith(".") and name.endswith(".tmp")):
            continue
        temporary = parent / name
        target = parent / name[1:].split(".")[0]
        if target.name == keep:
            continue
        flags = os.O_RDWR | os.O_CREAT | storage.NO_FOLLOW | storage.SAFE_FLAGS
        try:
            descriptor = os.open(_lock_file(target), flags, 0o666)
        except OSError:  # the cache is read-only
            continue
        try:
            # Not `storage.lock`, which works without locks if the file system has none: then a
            # living process could not be told from a dead one.
            storage.flock(descriptor, wait=False)
            shutil.rmtree(temporary, ignore_errors=True)
        except OSError:  # its process lives
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
        fix = _CHOOSE if isinstance(error, PermissionError) else f"free space there, or {_CHOOSE}"
        raise UserError(f"data.cache_dir: {parent} cannot be written ({reason}): {fix}") from error


def _disk_trouble(error: Exception) -> str | None:
    """Returns what the disk refused; None if the error has another cause."""
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
