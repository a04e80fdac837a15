"""Writes and restores checkpoints of a training, with checksums that detect damage.

A checkpoint counts only when it is *verified*: committed by Orbax, with checksums that match.
"""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from leukjax import distributed, storage
from leukjax.checkpoints import checksums
from leukjax.checkpoints.reader import plain_path
from leukjax.errors import UserError
from leukjax.storage import write_atomic

_DESCRIPTIONS = (b"/.zarray", b"/zarr.json")  # keys of the descriptions of arrays
_TRIES = 20  # to remove a failed save, over two seconds


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which never queries JAX's preemption service: it is off."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run: the latest few, and the one with the best validation score."""

    def __init__(self, folder: Path, *, keep_latest: int, lower_is_better: bool):
        self.folder = self._folder = folder.absolute()
        self._lower_is_better = lower_is_better
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._keep_latest = keep_latest
        distributed.from_first(self._make_folder)
        self._open = contextlib.ExitStack()
        self._plain = self._open.enter_context(plain_path(self._folder))
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
        """Starts saving in the background; the state may be donated as soon as this returns.

        Args:
          step: number of optimizer steps done.
          state: any tree of arrays.
          meta: JSON, restored by `read_meta` without the arrays.
          score: the validation score of this state, or None.

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
        self._finishing = threading.Thread(
            target=self._finish, args=(step, shapes), name="checksums"
        )
        self._finishing.start()

    def wait(self) -> None:
        """Waits until the last save is committed and has its checksums.

        Raises:
          UserError: the disk refused it.
        """
        self._join()

    def close(self) -> None:
        """Finishes the current save; `save` and `wait` raise its failure."""
        with self._open:
            if self._finishing is not None:
                self._finishing.join()
            if self._failure is not None:
                if jax.process_index() == 0:
                    self._remove_failed()
                return
            self._manager.close()

    def latest(self) -> int | None:
        """The newest verified step; damaged checkpoints are reported and renamed."""
        step = distributed.from_first(self._latest)
        self._manager.reload()  # some may have been set aside
        return step

    def last_verified(self) -> int | None:
        """The newest step with checksums, once the last save is done; they are not compared."""
        if self._finishing is not None:
            self._finishing.join()
        verified = (
            step for step in self._steps() if (self._folder / str(step) / checksums.NAME).exists()
        )
        return max(verified, default=None)

    def _latest(self) -> int | None:
        for step in sorted(self._steps(), reverse=True):
            problem = self._problem(step)
            if problem is None:
                return step
            logging.warning("checkpoint %d is not used: %s; using the one before it", step, problem)
            if problem == checksums.UNFINISHED:
                self._remove(step)
            else:
                self._set_aside(step)
        return None

    def best(self) -> int:
        """The step with the best score; the earliest of equal ones.

        Raises:
          UserError: no step has a score, or the best is damaged. The next best is no substitute:
            that would be another result under the same name.
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
        """The JSON that was saved with the arrays.

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
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is not None:
            with self._naming_the_disk():
                raise self._failure

    def _finish(self, step: int, shapes: list[tuple[int, ...]]) -> None:
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                folder = self._folder / str(step)
                _check_readable(self._plain / str(step), shapes, named=folder)
                write_atomic(
                    folder / checksums.NAME, checksums.text_of(checksums.checksums(folder))
                )
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
            raise UserError(f"{refusal}; the checkpoints before this one are intact") from error

    def _problem(self, step: int) -> str | None:
        return checksums.problem(self._folder / str(step))

    def _remove_old(self) -> None:
        """Removes all but the latest few and the best, once the newest is verified."""
        steps, scores = sorted(self._steps()), {}
        for step in steps:
            try:
                scores[step] = self.read_meta(step)["score"]
            except UserError:
                return  # damaged: `best` reports it, and nothing that it may need is removed
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

    def _remove_failed(self) -> None:
        """Gives a full disk its space back."""
        # Other threads of Orbax than the one that failed may still write files of the same save.
        for _ in range(_TRIES):
            self._remove_unfinished()
            time.sleep(0.1)
            if not self._unfinished():
                return

    def _remove_unfinished(self) -> None:
        for path in self._unfinished():
            shutil.rmtree(path, ignore_errors=True)

    def _unfinished(self) -> list[Path]:
        patterns = ("*.orbax-checkpoint-tmp*", "removed-*")
        return [path for pattern in patterns for path in self._folder.glob(pattern)]


def _check_readable(folder: Path, shapes: list[tuple[int, ...]], named: Path) -> None:
    """Refuses a checkpoint whose database cannot be opened or lacks arrays that were saved.

    Orbax commits one without an error where its parts were not merged. Opening the database and
    reading the description of each array takes 20 ms for the 604 arrays of a ResNet-50.

    Args:
      folder: of one checkpoint, as `plain_path` gives it.
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
        stored = sorted(tuple(json.loads(read.result().value)["shape"]) for read in reads)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{named}: was written but cannot be read back ({str(error).splitlines()[0]})"
        ) from error
    if stored != shapes:
        raise UserError(
            f"{named}: was written but cannot be read back: it holds {len(stored)} arrays of "
            f"{len(shapes)}, or different ones; the checkpoints before it are intact"
        )
