"""Checksums of a checkpoint: they tell a complete one from a damaged or unfinished one.

Orbax restores a flipped bit silently, so every file of a checkpoint gets a checksum once Orbax
has committed it. Nothing here needs Orbax.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from leukjax import storage
from leukjax.errors import UserError

NAME = "checksums.json"
_MAX_META = 2**26  # bytes of a checkpoint's own JSON files
UNFINISHED = "it was not finished"


def steps(folder: Path) -> list[int]:
    """The steps of all checkpoints in a folder, verified or not; [] without a folder."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return [int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,17}", name)]


def read_meta(folder: Path) -> dict[str, Any]:
    """The JSON that was saved with the arrays of a checkpoint.

    Raises:
      UserError: it cannot be read.
    """
    file = folder / "meta" / "metadata"
    try:
        content = storage.read_json(file, _MAX_META)
        score = content["score"]
        if not (score is None or (isinstance(score, int | float) and math.isfinite(score))):
            raise ValueError("its score is no number")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove {folder} and start again") from (
            error
        )
    return content


def best_of(scores: dict[int, float | None], *, lower_is_better: bool) -> int | None:
    """The step with the best score, the earliest of equal ones; None if no step has a score."""
    sign = 1.0 if lower_is_better else -1.0
    scored = ((sign * score, step) for step, score in scores.items() if score is not None)
    return min(scored, default=(0.0, None))[1]


def problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if its checksums match."""
    try:
        text = storage.read_text(folder / NAME, _MAX_META)
        expected = json.loads(text)
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError, RecursionError):
        return f"{NAME} cannot be read"
    if not isinstance(expected, dict):
        return f"{NAME} cannot be read"
    if (special := _special_file(folder)) is not None:
        return f"{special} is no regular file"
    names = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(expected.keys() | names):  # before the files, which may be huge, are read
        if name not in names:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong to it"
    actual = checksums(folder)
    for name in sorted(actual):
        if expected[name] != actual[name]:
            return f"{name} is damaged (checksum differs)"
    # Compares every byte of the file, also those that do not change its content, as a blank.
    return None if text == text_of(actual) else f"{NAME} is damaged"


def _special_file(folder: Path) -> str | None:
    """A link, pipe or device below a checkpoint, which no run writes; None if there is none.

    Orbax would open it, and wait for a pipe for ever.
    """
    if folder.is_symlink():
        return folder.name
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return str(path.relative_to(folder))
    return None


def text_of(sums: dict[str, str]) -> str:
    """The content of the file of checksums."""
    return json.dumps(sums, indent=1)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder except the file of checksums."""
    return {
        str(path.relative_to(folder)): hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        for path in _files(folder)
    }


def _files(folder: Path) -> list[Path]:
    """The files that have a checksum."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME]
