"""Checkpoints that are noticed when they are damaged. The only file that imports Orbax.

A checkpoint counts only when it is *sealed*: committed by Orbax, with checksums that hold.
"""

import contextlib
import json
import math
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from leukjax import distributed, sharding, storage
from leukjax.checkpoints import checksums
from leukjax.errors import UserError
from leukjax.storage import write_atomic

SEAL = checksums.NAME
_CHARACTERS = "[ ] * ? \\"
_PATTERN = re.compile(r"[][*?\\]|:/")  # ":/" would begin an address, as in gs:/
_DESCRIPTIONS = (b"/.zarray", b"/zarr.json")  # keys of the descriptions of arrays

# Bytes of weights that a byte of a checkpoint's files may hold, and what is always allowed: float32
# weights pack to 0.9 of their size, and zeros to a thousandth.
_MOST_PER_BYTE, _ALWAYS = 8, 2**26


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which never queries JAX's preemption service: it is off."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run: the latest few, and the one with the best validation score."""

    def __init__(self, folder: Path, *, keep_latest: int, lower_is_better: bool):
        self.folder = self._folder = folder.absolute()
        self._lower_is_better = lower_is_better
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._keep_latest = keep_latest
        distributed.from_first(self._make_folder)
        self._open = contextlib.ExitStack()
        self._plain = self._open.enter_context(_plain_path(self._folder))
        self._manager = _Manager(
            self._plain,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=True,
                create=False,
                # Named one by one, they meet through the coordinator. By default they would meet
                # on the devices, from a thread, between the collectives of the steps.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    active_processes=set(range(jax.process_count()))
                ),
            ),
            item_names=("state", "meta"),
        )

    def save(self, step: int, state: Any, meta: dict[str, Any], score: float | None) -> None:
        """Start saving in the background; the state may be donated as soon as this returns.

        Args:
          step: number of optimiser steps done.
          state: any tree of arrays.
          meta: JSON, restored by `read_meta` without the arrays.
          score: the validation score of this very state, or None where there is none.

        Raises:
          UserError: the disk refused this save or the one before it.
        """
        self._join()
        shapes = sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(state))
        with self._naming_the_disk():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({**meta, "step": step, "score": score}),
                ),
            )
        self._sealing = threading.Thread(target=self._seal, args=(step, shapes), name="seal")
        self._sealing.start()

    def wait(self) -> None:
        """Return when the last save is committed and sealed.

        Raises:
          UserError: the disk refused it.
        """
        self._join()

    def close(self) -> None:
        """Finish what is being saved; a failure was or is raised by `save` and `wait`."""
        with self._open:
            if self._sealing is not None:
                self._sealing.join()
            if self._failure is not None:
                if jax.process_index() == 0:
                    self._remove_unfinished()  # gives a full disk its space back
                return
            self._manager.close()

    def latest(self) -> int | None:
        """The newest sealed step; damaged ones are reported and set aside."""
        step = distributed.from_first(self._latest)
        self._manager.reload()  # some may have been set aside
        return step

    def last_sealed(self) -> int | None:
        """The newest step that is saved and sealed, once the last save is; damage is not sought."""
        if self._sealing is not None:
            self._sealing.join()
        sealed = (step for step in self._steps() if (self._folder / str(step) / SEAL).exists())
        return max(sealed, default=None)

    def _latest(self) -> int | None:
        for step in sorted(self._steps(), reverse=True):
            problem = self._problem(step)
            if problem is None:
                return step
            logging.warning("checkpoint %d is not used: %s; the one before it is", step, problem)
            if problem == checksums.UNFINISHED:
                self._remove(step)
            else:
                self._set_aside(step)
        return None

    def best(self) -> int:
        """The step with the best score; of equal ones the earliest.

        Raises:
          UserError: no step has a score, or the best is damaged. The next best is no substitute:
            it would be another result under the same name.
        """
        return distributed.from_first(self._best)

    def _best(self) -> int:
        for step in self._steps():  # all of them: a damaged score could hide the best
            problem = self._problem(step)
            if problem is not None:
                raise UserError(
                    f"{self._folder / str(step)}: {problem}; remove {self._folder} and start "
                    "again: the same command gives the same run"
                )
        best = self._best_of({step: self.read_meta(step)["score"] for step in self._steps()})
        if best is None:
            raise UserError(f"{self._folder}: no checkpoint has a validation score; train again")
        return best

    def read_meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays.

        Raises:
          UserError: it cannot be read.
        """
        return checksums.read_meta(self._folder / str(step))

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at a step, with the shapes, dtypes and shardings of `like`."""
        with self._naming_the_disk():
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
            )
        return restored["state"]

    def _best_of(self, scores: dict[int, float | None]) -> int | None:
        return checksums.best_of(scores, lower_is_better=self._lower_is_better)

    def _steps(self) -> list[int]:
        return checksums.steps(self._folder)

    def _join(self) -> None:
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        if self._failure is not None:
            with self._naming_the_disk():
                raise self._failure

    def _seal(self, step: int, shapes: list[tuple[int, ...]]) -> None:
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                folder = self._folder / str(step)
                _check_readable(self._plain / str(step), shapes, named=folder)
                write_atomic(folder / SEAL, checksums.text_of(checksums.checksums(folder)))
                self._remove_old()
        except BaseException as error:  # raised again in the thread of the loop
            self._failure = error

    @contextlib.contextmanager
    def _naming_the_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failure = error
            refusal = storage.describe_failure(error)
            if refusal is None:
                raise
            raise UserError(f"{refusal}; the checkpoints before this one stand") from error

    def _problem(self, step: int) -> str | None:
        return checksums.problem(self._folder / str(step))

    def _remove_old(self) -> None:
        """Keep the latest few and the best; called when the newest is sealed."""
        steps, scores = sorted(self._steps()), {}
        for step in steps:
            try:
                scores[step] = self.read_meta(step)["score"]
            except UserError:
                return  # damaged: `best` will say so, and nothing that it may need is removed
        keep = {*steps[-self._keep_latest :], self._best_of(scores)}
        for step in steps:
            if step not in keep:
                self._remove(step)

    def _remove(self, step: int) -> None:
        # Renamed first: a kill in the middle must not leave half a checkpoint under its name.
        target = self._folder / f"removed-{step}"
        (self._folder / str(step)).rename(target)
        shutil.rmtree(target, ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        target = self._folder / f"damaged-{step}"
        shutil.rmtree(target, ignore_errors=True)
        (self._folder / str(step)).rename(target)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for pattern in ("*.orbax-checkpoint-tmp*", "removed-*"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    """A path to a folder without characters that Orbax or TensorStore would read as a pattern.

    Orbax merges the parts of a checkpoint by an unescaped glob: below a folder named ``a[b]`` or
    ``a\\b`` it would find none, below ``a*b`` those of other folders as well. Such a folder is
    reached through a link in a private temporary folder.

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


def _check_readable(folder: Path, shapes: list[tuple[int, ...]], named: Path) -> None:
    """Refuses a checkpoint whose database cannot be opened or lacks arrays that were saved.

    Orbax commits one without an error where its parts were not merged. Opening the database and
    reading the description of each array takes 20 ms for the 604 arrays of a ResNet-50.

    Args:
      folder: of one checkpoint, as `_plain_path` gives it.
      shapes: of the arrays that were saved, sorted.
      named: the folder in messages.

    Raises:
      UserError: it could not be restored.
    """
    place = (folder / "state").as_posix()
    try:
        kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{place}/"}}
        database = tensorstore.KvStore.open(kvstore).result()
        names = [key for key in database.list().result() if key.endswith(_DESCRIPTIONS)]
        reads = [database.read(name) for name in names]
        found = sorted(tuple(json.loads(read.result().value)["shape"]) for read in reads)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{named}: was written but cannot be read back ({str(error).splitlines()[0]})"
        ) from error
    if found != shapes:
        raise UserError(
            f"{named}: was written but cannot be read back: it holds {len(found)} arrays of "
            f"{len(shapes)}, or others; the checkpoints before it stand"
        )


def for_evaluation(
    folder: Path,
    step: int | str = "best",
    *,
    lower_is_better: bool,
    expected: dict[str, Any] | None = None,
) -> tuple[int, dict[str, Any]]:
    """The variables of a run at one step, read without data, state or devices of the training.

    Nothing in the folder is changed, so that a run may go on meanwhile, or lie on a disk that
    cannot be written. Only what is evaluated is read: no slots of the optimiser.

    Args:
      folder: of the checkpoints.
      step: ``best``, ``latest``, or a number of optimiser steps.
      lower_is_better: how validation scores are compared for ``best``.
      expected: ``{"params", "batch_stats"}`` as shapes, with which the checkpoint's are compared
        before anything is allocated; None = any that are no larger than the files let expect.

    Returns:
      The step, and ``{"params", "batch_stats"}`` as NumPy arrays: the moving averages where the run
      keeps them, as in `TrainState.for_evaluation`.

    Raises:
      UserError: no such checkpoint, or it is damaged.
    """
    try:
        chosen = _choose(folder, step, lower_is_better)
        with _plain_path(folder.absolute()) as plain:
            return chosen, _read_variables(plain / str(chosen) / "state", expected)
    except OSError as error:  # a run in training removes old ones
        raise UserError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}); try again"
        ) from error


def _choose(folder: Path, step: int | str, lower_is_better: bool) -> int:
    problems = {each: checksums.problem(folder / str(each)) for each in checksums.steps(folder)}
    # The newest of a run in training may just be on its way to the disk.
    sealed = sorted(each for each, problem in problems.items() if problem != checksums.UNFINISHED)
    if not sealed:
        raise UserError(f"{folder}: holds no finished checkpoint; train first, or wait for one")
    chosen: int | str | None = sealed[-1] if step == "latest" else step
    if step == "best":
        scores = {each: checksums.read_meta(folder / str(each))["score"] for each in sealed}
        chosen = checksums.best_of(scores, lower_is_better=lower_is_better)
    if chosen not in sealed:
        there = ", ".join(map(str, sealed))
        raise UserError(f"{folder}: no checkpoint of step {step}; there are latest, {there}")
    # For "best" all of them count: a damaged score could hide the best.
    for each in sealed if step == "best" else [chosen]:
        if problems[int(each)] is not None:
            raise UserError(f"{folder / str(each)}: {problems[int(each)]}; bring back a whole copy")
    return int(chosen)


def _read_variables(folder: Path, expected: dict[str, Any] | None) -> dict[str, Any]:
    for path in (*folder.glob("_*"), *folder.glob("array_metadatas/*")):
        if path.stat().st_size > storage.MAX_JSON_BYTES:
            raise UserError(f"{path}: is too large for what it describes; copy the run again")
    reader = ocp.PyTreeCheckpointHandler()
    try:
        tree = reader.metadata(folder).tree
        prefix = "ema_" if tree["ema_params"] else ""
        names = {name: prefix + name for name in ("params", "batch_stats")}
        wanted = {stored: tree[stored] for stored in names.values()}
        _check_sizes(folder, {name: tree[stored] for name, stored in names.items()}, expected)
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
        found = reader.restore(folder, args=arguments)
    except UserError:
        raise
    # Orbax and TensorStore have each their own; the checksums held, so that it is no damage.
    except Exception as error:
        line = (
            storage.describe_failure(error)
            or f"{folder}: cannot be read ({(str(error).splitlines() or [''])[0][:300]})"
        )
        raise UserError(line) from error
    finally:
        reader.close()
    return {name: found[stored] for name, stored in names.items()}


def _check_sizes(folder: Path, stored: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Check what a checkpoint claims to hold before anything of it is allocated.

    A file of a megabyte can unpack to gigabytes of zeros; trained weights hardly pack at all.

    Raises:
      UserError: other shapes than expected, no float arrays, or far more than the files can hold.
    """
    shapes = _shapes(stored)
    if expected is not None and shapes != (wanted := _shapes(expected)):
        name = min(dict(shapes.items() ^ wanted.items()))
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
    if total > _MOST_PER_BYTE * on_disk + _ALWAYS:
        raise UserError(
            f"{folder}: claims {total / 2**20:,.0f} MiB of weights in {on_disk / 2**20:,.1f} MiB "
            "of files; copy the run again"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): tuple(leaf.shape) for path, leaf in leaves}
