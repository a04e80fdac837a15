"""Checkpoints that are noticed when they are damaged. The only file that imports Orbax.

Orbax restores a flipped bit in silence, so every file of a checkpoint gets a checksum once Orbax
has committed it. A checkpoint counts only when it is *sealed*: committed, with checksums that hold.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from leukjax.errors import UserError
from leukjax.files import write_whole

SEAL = "checksums.json"


class Checkpoints:
    """The checkpoints of one run: the latest few, and the one with the best validation score."""

    def __init__(self, folder: Path, *, keep_latest: int, lower_is_better: bool):
        self._folder = folder.absolute()
        self._sign = -1.0 if lower_is_better else 1.0
        self._sealing: threading.Thread | None = None
        self._scores: dict[int, float | None] = {}
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LatestAndBest(self, keep_latest),
                enable_async_checkpointing=True,
                create=False,
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
        """
        self._join()
        self._scores[step] = score
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
        """Return when the last save is committed and sealed."""
        self._join()

    def close(self) -> None:
        """Finish what is being saved."""
        self._join()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest sealed step; damaged ones are reported and set aside."""
        for step in sorted(self._steps(), reverse=True):
            problem = self._problem(step)
            if problem is None:
                return step
            logging.warning("checkpoint %d is not used: %s; the one before it is", step, problem)
            self._set_aside(step)
        return None

    def best(self) -> int:
        """The step with the best score; of equal ones the earliest.

        Raises:
          UserError: no step has a score, or the best is damaged. The next best is no substitute:
            it would be another result under the same name.
        """
        for step in self._steps():  # all of them: a damaged score could hide the best
            problem = self._problem(step)
            if problem is not None:
                raise UserError(
                    f"{self._folder / str(step)}: {problem}; remove {self._folder} and start "
                    "again: the same command gives the same run"
                )
        best = self._best_of(self._steps())
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
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        )
        return restored["state"]

    def _best_of(self, steps: Iterable[int]) -> int | None:
        found = ((step, self._score(step)) for step in steps)
        scored = [(-self._sign * score, step) for step, score in found if score is not None]
        return min(scored)[1] if scored else None

    def _score(self, step: int) -> float | None:
        if step not in self._scores:
            self._scores[step] = self.read_meta(step)["score"]
        return self._scores[step]

    def _steps(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]

    def _join(self) -> None:
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        self._manager.wait_until_finished()

    def _seal(self, step: int) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            folder = self._folder / str(step)
            write_whole(folder / SEAL, json.dumps(checksums(folder), indent=1))

    def _problem(self, step: int) -> str | None:
        folder = self._folder / str(step)
        try:
            expected = json.loads((folder / SEAL).read_text())
        except FileNotFoundError:
            return "it was not finished"
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
        return None

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            target = self._folder / f"damaged-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (self._folder / str(step)).rename(target)
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


class _LatestAndBest(preservation_policy.PreservationPolicy):
    """Keeps the latest few, and the best by the scores on disk (a restarted run knows them too)."""

    def __init__(self, checkpoints: Checkpoints, latest: int):
        self._checkpoints = checkpoints
        self._latest = latest

    def should_preserve(self, checkpoints, *, context):
        steps = [info.step for info in checkpoints]
        keep = {*sorted(steps)[-self._latest :], self._checkpoints._best_of(steps)}
        return [step in keep for step in steps]


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, the seal itself left out."""
    return {
        str(path.relative_to(folder)): hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
