"""The folder of one run: who may write in it, and what must not change when it goes on."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.storage import read_text, require_utf8, write_atomic


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder for this process; the lock dies with it, however it dies.

    What is yielded is the lock: a child that inherits its file holds the folder as well.
    A folder that is still empty at the end (the command failed before the run began) is removed.

    Raises:
      UserError: the folder cannot be written, another process works in it, or it was removed or
        unmounted while it was held.
    """
    try:
        require_utf8(folder.absolute())
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--workdir={folder}: cannot be written ({reason}); choose another folder"
        ) from error
    with handle:
        try:
            yield handle
        except Exception as error:
            _still_there(folder, handle, error)
            raise
        else:
            _still_there(folder, handle)
        finally:
            _remove_if_empty(folder, handle, made)


def _lock(folder: Path) -> IO[str]:
    while True:
        handle = (folder / ".lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise UserError(
                f"--workdir={folder}: another process is working in it; "
                "wait for it or choose another folder"
            ) from error
        if _is_ours(folder, handle):
            return handle
        # Its holder ended and removed it after we had opened it.
        handle.close()
        folder.mkdir(parents=True, exist_ok=True)


def _is_ours(folder: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(os.stat(folder / ".lock"), os.fstat(handle.fileno()))
    except OSError:
        return False


def _still_there(folder: Path, handle: IO[str], error: Exception | None = None) -> None:
    if not _is_ours(folder, handle):
        raise UserError(
            f"--workdir={folder}: was removed, replaced or unmounted in the middle of the run; "
            "bring it back and start again, or choose another folder"
        ) from error


def _remove_if_empty(folder: Path, handle: IO[str], made: list[Path]) -> None:
    """Takes the lock file away, and the folders that were made for it, unless there is more."""
    if not _is_ours(folder, handle) or len(list(folder.iterdir())) > 1:
        return
    with contextlib.suppress(OSError):
        (folder / ".lock").unlink()
        for path in made:
            path.rmdir()


def claim(folder: Path, config: ConfigDict, facts: dict[str, Any]) -> bool:
    """Write ``config.json`` and ``data.json``, or check that the run in the folder is this one.

    Args:
      folder: the work directory.
      config: the config of this start.
      facts: what else makes the run: checksums and counts of records and split.

    Returns:
      True if a run is already there and goes on.

    Raises:
      UserError: the run there has another config, other data or another split; the message names
        every difference.
    """
    now = {"config.json": config.to_dict(), "data.json": facts}
    if not (folder / "config.json").exists():
        # config.json last: where it stands, the run has begun.
        for name in ("data.json", "config.json"):
            write_atomic(folder / name, json.dumps(now[name], indent=1) + "\n")
        return False
    changed = []
    for name, content in now.items():
        try:
            before = json.loads(read_text(folder / name))
            changed += configs.differences(before, content, ignore=configs.FREE_TO_CHANGE)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{folder / name}: cannot be read; choose another --workdir") from error
    if changed:
        raise UserError(
            f"--workdir={folder} holds a run that differs from this one: "
            f"{'; '.join(changed)}; undo the change or choose another --workdir"
        )
    return True
