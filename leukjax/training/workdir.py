"""The folder of one run: who may write in it, and what must not change when it is resumed."""

import contextlib
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from leukjax.rundir import RunDir


def locked(folder: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    """`RunDir.lock` of a folder."""
    return RunDir(folder).lock()


def claim(folder: Path, config: ConfigDict, facts: dict[str, Any]) -> bool:
    """`RunDir.claim` of a folder."""
    return RunDir(folder).claim(config, facts)
