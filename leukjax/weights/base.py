"""The base of a run with LoRA: published weights that its checkpoints do not hold.

A run records the checksum of its base. This machine finds the file by the checksum, among the
weights that it has used or was given (``python -m leukjax.weights add FILE``): a path that a run
folder names is never opened.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from leukjax.data import cache
from leukjax.errors import UserError
from leukjax.storage import read_text, write_atomic
from leukjax.weights import read
from leukjax.weights.map import Mapped, match
from leukjax.weights.source import Source, of_file


def remember(path: Path, sha256: str) -> None:
    """Notes in the user's cache where a file of weights is, so that its checksum finds it."""
    note = _note(sha256)
    cache.make_folder(note.parent)
    write_atomic(note, f"{path.absolute()}\n")


def find(facts: Mapping[str, Any]) -> Path:
    """Returns the file with the checksum that a run records.

    Args:
      facts: of the run's weights, ``init`` in its preprocessing.json.

    Raises:
      UserError: it is not known here, or was changed.
    """
    if not facts:
        raise UserError("preprocessing.json: a LoRA run lacks its init; copy the run again")
    sha256 = facts["sha256"]
    note = _note(sha256)
    try:
        path = Path(read_text(note, 4096).rstrip("\n"))
        if read.checksum(path) == sha256:
            return path
        problem = f"{path} has changed"
    except (OSError, ValueError, UserError):
        problem = "this machine does not know the file"
    raise UserError(
        f"the base weights of this LoRA run (init.weights={facts['weights']}, sha256 {sha256}): "
        f"{problem}; get it and run python -m leukjax.weights add FILE"
    )


def read_base(path: Path, params: Any, frozen: Any) -> Any:
    """Returns the base as a tree of NumPy arrays.

    Args:
      path: a file of weights.
      params: shapes of the parameters of the model.
      frozen: shapes of the base, as `Lora.shapes` returns them.

    Raises:
      UserError: the file is damaged, or lacks a parameter.
    """
    flat, kept = (traverse_util.flatten_dict({"params": tree}) for tree in (params, frozen))
    # Not the run's own init.allow: an expression of a stranger may take for ever. What is missing
    # is found below, and tensors of the file that the model lacks do not matter.
    values = checked(mapped(of_file(path), flat, allow=".", new_head=True), kept, path)
    return traverse_util.unflatten_dict(values)["params"]


def mapped(source: Source, variables: Mapping[Any, Any], *, allow: str, new_head: bool) -> Mapped:
    """Returns the values of a source for some variables, by path; `allow` as in `map.match`."""
    return match(
        {path: leaf.shape for path, leaf in variables.items()},
        source.tensors,
        source.names,
        source.axes,
        new_head=new_head,
        allow=allow,
        positions=source.positions,
    )


def checked(weights: Mapped, base: Mapping[Any, Any], path: Path) -> dict[Any, Any]:
    """Returns the values of a base.

    Raises:
      UserError: one of them is not in the file, and so would be random and frozen.
    """
    missing = sorted("/".join(name[1:]) for name in base if name not in weights.values)
    if missing:
        raise UserError(
            f"optimizer.lora_rank: {path} has no {missing[0]}, which LoRA would freeze at random "
            "values; take weights of the whole model"
        )
    return {name: weights.values[name] for name in base}


def _note(sha256: str) -> Path:
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"init: {sha256[:80]!r} is no SHA-256; copy the run again")
    # Not data.cache_dir: a finished run is read without the fields of its training.
    return cache.root("") / "weights" / "by_checksum" / sha256
