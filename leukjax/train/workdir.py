"""The folder of one run: who may write in it, and what must not change when it goes on."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.files import write_whole


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock dies with it, however it dies.

    Raises:
      UserError: the folder cannot be written, or another process works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"--workdir={folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"--workdir={folder}: another process is working in it; "
                "wait for it or choose another folder"
            ) from error
        yield


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
            write_whole(folder / name, json.dumps(now[name], indent=1) + "\n")
        return False
    changed = []
    for name, content in now.items():
        try:
            before = json.loads((folder / name).read_text())
            changed += configs.differences(before, content, ignore=configs.FREE_TO_CHANGE)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{folder / name}: cannot be read; choose another --workdir") from error
    if changed:
        raise UserError(
            f"--workdir={folder} holds a run that differs from this one: "
            f"{'; '.join(changed)}; undo the change or choose another --workdir"
        )
    return True
