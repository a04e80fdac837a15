"""Files that are there whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, meets the old or the new content.

    The content goes to a temporary file beside the target, reaches the disk, and takes the
    target's name in one step. Missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; results are for whoever may read the folder.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON to a file of such lines, whole or not at all."""
    before = path.read_text() if path.exists() else ""
    write_whole(path, before + json.dumps(record) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
