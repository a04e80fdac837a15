"""Checkpoints that are noticed when they are damaged. The only file that imports Orbax.

Orbax restores a flipped bit in silence, so every file of a checkpoint gets a checksum once Orbax
has committed it. A checkpoint counts only when it is *sealed*: committed, with checksums that hold.
"""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from leukjax import disk
from leukjax.errors import UserError
from leukjax.files import write_whole
from leukjax.train import together

SEAL = "checksums.json"
_UNFINISHED = "it was not finished"


class Checkpoints:
    """The checkpoints of one run: the latest few, and the one with the best validation score."""

    def __init__(self, folder: Path, *, keep_latest: int, lower_is_better: bool):
        self._folder = folder.absolute()
        self._sign = -1.0 if lower_is_better else 1.0
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._keep_latest = keep_latest
        together.from_first(self._make_folder)
        self._manager = ocp.CheckpointManager(
            self._folder,
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
        with self._naming_the_disk():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({**meta, "step": step, "score": score}),
                ),
            )
        self._sealing = threading.Thread(target=self._seal, args=(step,), name="seal")
        self._sealing.start()

    def wait(self) -> None:
        """Return when the last save is committed and sealed.

        Raises:
          UserError: the disk refused it.
        """
        self._join()

    def close(self) -> None:
        """Finish what is being saved; a failure was or is raised by `save` and `wait`."""
        if self._sealing is not None:
            self._sealing.join()
        if self._failure is not None:
            if jax.process_index() == 0:
                self._remove_unfinished()  # gives a full disk its space back
            return
        self._manager.close()

    def latest(self) -> int | None:
        """The newest sealed step; damaged ones are reported and set aside."""
        step = together.from_first(self._latest)
        self._manager.reload()  # some may have been set aside
        return step

    def _latest(self) -> int | None:
        for step in sorted(self._steps(), reverse=True):
            problem = self._problem(step)
            if problem is None:
                return step
            logging.warning("checkpoint %d is not used: %s; the one before it is", step, problem)
            if problem == _UNFINISHED:
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
        return together.from_first(self._best)

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
        file = self._folder / str(step) / "meta" / "metadata"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file}: cannot be read ({error}); remove {file.parents[1]} and start again"
            ) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at a step, with the shapes, dtypes and shardings of `like`."""
        with self._naming_the_disk():
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
            )
        return restored["state"]

    def _best_of(self, scores: dict[int, float | None]) -> int | None:
        scored = (
            (-self._sign * score, step) for step, score in scores.items() if score is not None
        )
        return min(scored, default=(0.0, None))[1]

    def _steps(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]

    def _join(self) -> None:
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        if self._failure is not None:
            with self._naming_the_disk():
                raise self._failure

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                folder = self._folder / str(step)
                write_whole(folder / SEAL, _seal_text(checksums(folder)))
                self._remove_old()
        except BaseException as error:  # raised again in the thread of the loop
            self._failure = error

    @contextlib.contextmanager
    def _naming_the_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failure = error
            refusal = disk.refusal(error)
            if refusal is None:
                raise
            raise UserError(f"{refusal}; the checkpoints before this one stand") from error

    def _problem(self, step: int) -> str | None:
        folder = self._folder / str(step)
        try:
            text = (folder / SEAL).read_text()
            expected = json.loads(text)
        except FileNotFoundError:
            return _UNFINISHED
        except ValueError:
            return f"{SEAL} cannot be read"
        found = checksums(folder)
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in expected:
                return f"{name} does not belong to it"
            if expected[name] != found[name]:
                return f"{name} is damaged (checksum differs)"
        # A byte of the seal itself that changes nothing in its content: a blank, say.
        return None if text == _seal_text(found) else f"{SEAL} is damaged"

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


def _seal_text(sums: dict[str, str]) -> str:
    return json.dumps(sums, indent=1)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, the seal itself left out."""
    return {
        str(path.relative_to(folder)): hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
