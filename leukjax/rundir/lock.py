"""The lock of a work directory: one process at a time writes in it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leukjax import storage
from leukjax.errors import UserError
from leukjax.rundir.files import reason

LOCK = ".lock"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[IO[bytes]]:
    """Locks a folder for this process; the lock ends with the process, however it ends.

    Yields the lock file: a child process that inherits it holds the lock as well. A folder that is
    still empty at the end (the command failed before the run began) is removed.

    Raises:
      UserError: the folder cannot be written, another process works in it, its lock file is a
        link, or the folder was removed or unmounted while it was locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            storage.require_utf8(folder.absolute())
            created = [path for path in (folder, *folder.parents) if not path.exists()]
            handle = _acquire(folder, stack)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another process is working in it; wait for it or choose another folder"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: cannot be written ({reason(error)}); choose another folder"
            ) from error
        try:
            yield handle
        except Exception as error:
            _check_still_there(folder, handle, error)
            raise
        else:
            _check_still_there(folder, handle)
        finally:
            _remove_if_empty(folder, handle, created)


def _acquire(folder: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as attempt:
            handle = attempt.enter_context(storage.lock(folder / LOCK, wait=False))
            if _is_lock_of(folder, handle):
                stack.push(attempt.pop_all())
                return handle
        # Its holder ended and removed it after this process had opened it.


def _is_lock_of(folder: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.stat(folder / LOCK), os.fstat(handle.fileno()))
    except OSError:
        return False


def _check_still_there(folder: Path, handle: IO[bytes], error: Exception | None = None) -> None:
    if not _is_lock_of(folder, handle):
        raise UserError(
            f"{folder}: was removed, replaced or unmounted during the run; bring it back "
            "and start again, or choose another folder"
        ) from error


def _remove_if_empty(folder: Path, handle: IO[bytes], created: list[Path]) -> None:
    """Removes the lock file, and the folders that were created for it, unless they hold more."""
    if not _is_lock_of(folder, handle) or len(list(folder.iterdir())) > 1:
        return
    with contextlib.suppress(OSError):
        (folder / LOCK).unlink()
        for path in created:
            path.rmdir()
