"""Trackers: TensorBoard, Weights & Biases and MLflow behind one interface.

`config.train.trackers` names them. metrics.jsonl is written in any case, so a tracker that fails
(a server that does not answer) is left out with a warning, and the training continues.
"""

import importlib.util
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging
from tensorboardX import SummaryWriter

from leukjax.errors import UserError
from leukjax.rundir import RunDir
from leukjax.rundir.run_dir import TRACKERS
from leukjax.storage import tolerate_unsupported

_PROJECT = "leukjax"


class Tracker(Protocol):
    """Receives the numbers of a run. It may raise whatever its library raises."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values by their names, as ``val/loss``."""

    def close(self, *, finished: bool) -> None:
        """Ends the tracking; `finished` is False if the run will be resumed."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run."""

    def __init__(self, run_dir: RunDir, start: int, settings: Mapping[str, Any]):
        # purge_step makes TensorBoard hide what a killed run had written beyond this step.
        self._board = SummaryWriter(str(run_dir.path("tensorboard")), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values; they are on disk on return."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        with tolerate_unsupported("fsync"):
            self._board.flush()

    def close(self, *, finished: bool) -> None:
        """Closes the file."""
        with tolerate_unsupported("fsync"):
            self._board.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE … are obeyed."""

    def __init__(self, run_dir: RunDir, start: int, settings: Mapping[str, Any]):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run_dir.folder.absolute().name,
            id=_run_id(run_dir, "wandb", lambda: secrets.token_hex(8)),
            resume="allow",  # steps that are written again are ignored: they have the same values
            dir=str(run_dir.folder),
            config=dict(settings),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values."""
        self._run.log(dict(values), step=step)

    def close(self, *, finished: bool) -> None:
        """Waits until everything is sent, or written where WANDB_MODE=offline."""
        self._run.finish(exit_code=0)


class MLflow:
    """A run of MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are obeyed."""

    def __init__(self, run_dir: RunDir, start: int, settings: Mapping[str, Any]):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)

        def create() -> str:
            run = self._client.create_run(number, run_name=run_dir.folder.absolute().name)
            given = [Param(field, str(value)[:500]) for field, value in settings.items()]
            for first in range(0, len(given), 100):  # the most that MLflow takes at once
                self._client.log_batch(run.info.run_id, params=given[first : first + 100])
            return run.info.run_id

        self._id = _run_id(run_dir, "mlflow", create)
        self._client.set_terminated(self._id, "RUNNING")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=batch)

    def close(self, *, finished: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


_KINDS: dict[str, Callable[[RunDir, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_installed(names: str) -> None:
    """Checks that the packages of the trackers are here, before anything is prepared.

    Args:
      names: ``config.train.trackers``.

    Raises:
      UserError: one is not installed; the message names the extra.
    """
    for name in names.split(","):
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise UserError(
                f"--config.train.trackers={names}: {name} is not installed; "
                f"pip install 'leukjax[{name}]'"
            )


def start(names: str, run_dir: RunDir, first: int, settings: Mapping[str, Any]) -> "list[Tracker]":
    """Starts the trackers, or continues what an earlier start of the run began.

    Args:
      names: ``config.train.trackers``.
      run_dir: the run.
      first: the step from which it continues.
      settings: fields of the config, without names of files and folders.

    Raises:
      UserError: one cannot be started.
    """
    check_installed(names)
    trackers: list[Tracker] = []
    for name in names.split(","):
        try:
            tracker = _KINDS[name](run_dir, first, settings)
        except Exception as error:
            if name == "tensorboard" or isinstance(error, UserError):
                raise
            raise UserError(f"train.trackers: {name} cannot be started: {error}") from error
        trackers.append(tracker if name == "tensorboard" else _Tolerated(name, tracker))
    return trackers


class _Tolerated:
    """A tracker whose first failure ends it, with a warning."""

    def __init__(self, name: str, tracker: Tracker):
        self._name, self._tracker = name, tracker
        self._works = True

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._tracker.write(step, values))

    def close(self, *, finished: bool) -> None:
        self._try(lambda: self._tracker.close(finished=finished))

    def _try(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:
            self._works = False
            logging.warning("%s: %s; nothing more is sent there", self._name, error)


def _run_id(run_dir: RunDir, name: str, create: Callable[[], str]) -> str:
    """The identifier of the run in a tracker: that of an earlier start, or a new one."""
    known = run_dir.tracker_ids()
    if name not in known:
        known[name] = create()
        run_dir.write_json(TRACKERS, known)
    return known[name]
