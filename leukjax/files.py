"""Files that are there whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, meets the old or the new content.

    The content goes to a temporary file beside the target, reaches the disk, and takes the
    target's name in one step. Missing parent folders are made.
    """
    with open_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """`write_whole` for what is written bit by bit: the target is replaced at the end.

    Where the body raises, the target stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
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
