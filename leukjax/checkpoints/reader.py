"""Reads trained variables from checkpoints, which may come from an untrusted source.

Needs neither the training code nor its devices.
"""

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from leukjax import sharding, storage
from leukjax.checkpoints import checksums
from leukjax.errors import UserError

_CHARACTERS = "[ ] * ? \\"
_PATTERN = re.compile(r"[][*?\\]|:/")  # ":/" would begin an address, as in gs:/

# Bytes of weights per byte of files, and what is always allowed: float32 weights pack to 0.9 of
# their size, and zeros to a thousandth.
_MAX_RATIO, _ALWAYS = 8, 2**26


def for_evaluation(
    folder: Path,
    step: int | str = "best",
    *,
    lower_is_better: bool,
    expected: dict[str, Any] | None = None,
    is_given: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Reads the variables of a run at one step.

    Nothing in the folder is changed: a run may be training in it, or its disk may be read-only.
    Only what is evaluated is read, not the optimizer's state.

    Args:
      folder: of the checkpoints.
      step: ``best``, ``latest``, or a number of optimizer steps.
      lower_is_better: how validation scores are compared for ``best``.
      expected: ``{"params", "batch_stats"}`` as shapes, with which the checkpoint's are compared
        before anything is allocated; None: any shapes that the size of the files allows.
      is_given: `expected` is of a model that the user gave, not of the run's own files.

    Returns:
      The step, and ``{"params", "batch_stats"}`` as NumPy arrays: the moving averages if the run
      keeps them, as in `TrainState.for_evaluation`.

    Raises:
      UserError: no such checkpoint, or it is damaged.
    """
    try:
        chosen = _choose(folder, step, lower_is_better)
        with plain_path(folder.absolute()) as plain:
            return chosen, _read_variables(plain / str(chosen) / "state", expected, is_given)
    except OSError as error:  # a run in training removes old ones
        raise UserError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}); try again"
        ) from error


def _choose(folder: Path, step: int | str, lower_is_better: bool) -> int:
    problems = {
        number: checksums.problem(folder / str(number)) for number in checksums.steps(folder)
    }
    # The newest checkpoint of a run in training may not be finished yet.
    verified = sorted(
        number for number, problem in problems.items() if problem != checksums.UNFINISHED
    )
    if not verified:
        raise UserError(f"{folder}: holds no finished checkpoint; train first, or wait for one")
    chosen: int | str | None = verified[-1] if step == "latest" else step
    if step == "best":
        scores = {number: checksums.read_meta(folder / str(number))["score"] for number in verified}
        chosen = checksums.best_of(scores, lower_is_better=lower_is_better)
    if chosen not in verified:
        listed = ", ".join(map(str, verified))
        raise UserError(f"{folder}: no checkpoint of step {step}; there are latest, {listed}")
    # For "best" all of them count: a damaged score could hide the best.
    for number in verified if step == "best" else [chosen]:
        if problems[int(number)] is not None:
            raise UserError(f"{folder / str(number)}: {problems[int(number)]}; copy the run again")
    return int(chosen)


def _read_variables(
    folder: Path, expected: dict[str, Any] | None, is_given: bool
) -> dict[str, Any]:
    for path in (*folder.glob("_*"), *folder.glob("array_metadatas/*")):
        if path.stat().st_size > storage.MAX_JSON_BYTES:
            raise UserError(f"{path}: is too large for what it describes; copy the run again")
    reader = ocp.PyTreeCheckpointHandler()
    try:
        tree = reader.metadata(folder).tree
        prefix = "ema_" if tree["ema_params"] else ""
        names = {name: prefix + name for name in ("params", "batch_stats")}
        wanted = {stored: tree[stored] for stored in names.values()}
        saved = {name: tree[stored] for name, stored in names.items()}
        _check_sizes(folder, saved, expected, is_given)
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
        restored = reader.restore(folder, args=arguments)
    except UserError:
        raise
    # Orbax and TensorStore have errors of their own; the checksums match, so it is no damage.
    except Exception as error:
        line = (
            storage.describe_failure(error)
            or f"{folder}: cannot be read ({(str(error).splitlines() or [''])[0][:300]})"
        )
        raise UserError(line) from error
    finally:
        reader.close()
    return {name: restored[stored] for name, stored in names.items()}


def _check_sizes(
    folder: Path, stored: dict[str, Any], expected: dict[str, Any] | None, is_given: bool
) -> None:
    """Checks what a checkpoint claims to hold before anything of it is allocated.

    A file of a megabyte can unpack to gigabytes of zeros; trained weights hardly compress.

    Raises:
      UserError: other shapes than expected, no float arrays, or far more than the files can hold.
    """
    shapes = _shapes(stored)
    if expected is not None and shapes != (wanted := _shapes(expected)):
        name = min(dict(shapes.items() ^ wanted.items()))
        if is_given:
            raise UserError(
                f"model: does not fit {folder.parents[2]}: {name.removeprefix('params/')} is "
                f"{shapes.get(name, 'absent')} in the run, {wanted.get(name, 'absent')} in the "
                "model"
            )
        raise UserError(
            f"{folder.parent}: is of another model than preprocessing.json describes: {name} is "
            f"{shapes.get(name, 'absent')}, not {wanted.get(name, 'there')}; copy the run again"
        )
    total = 0
    for leaf in jax.tree.leaves(stored):
        if not np.issubdtype(leaf.dtype, np.floating):
            raise UserError(f"{folder}: {leaf.name} holds {leaf.dtype}; copy the run again")
        # A chunk is unpacked whole, however small the array is.
        chunk = leaf.storage.chunk_shape if leaf.storage else None
        total += max(math.prod(leaf.shape), math.prod(chunk or ())) * leaf.dtype.itemsize
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if total > _MAX_RATIO * on_disk + _ALWAYS:
        raise UserError(
            f"{folder}: claims {total / 2**20:,.0f} MiB of weights in {on_disk / 2**20:,.1f} MiB "
            "of files; copy the run again"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): tuple(leaf.shape) for path, leaf in leaves}


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yields a path to a folder without characters that Orbax or TensorStore read as a pattern.

    Orbax merges the parts of a checkpoint by an unescaped glob: below a folder named ``a[b]`` or
    ``a\\b`` it would find none, below ``a*b`` those of other folders as well. Such a folder is
    accessed through a link in a private temporary folder.

    Raises:
      UserError: the temporary folder has such a path itself.
    """
    if not _PATTERN.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="leukjax-") as private:
        if _PATTERN.search(private):
            raise UserError(
                f"{folder}: has a character of {_CHARACTERS} in its path, and so has the folder "
                f"for temporary files ({private}); choose another --workdir or set TMPDIR"
            )
        link = Path(private) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link
