"""One run: a trainer on given data, in a work directory. What the loop needs, built once."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.checkpoints.writer import Checkpoints
from leukjax.data.loader import Batches
from leukjax.models.summary import Summary
from leukjax.training import divergence
from leukjax.training.compiled import CompiledSteps
from leukjax.training.data_placement import DataPlacement
from leukjax.training.pretrained import InitialWeights
from leukjax.training.state import Settings, TrainState
from leukjax.training.training_data import GivenBatches, TrainingData, make_batches

# (labels int[n], probabilities float[n, classes]) -> a number
Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback is given.

    Attributes:
      kind: "step" when the metrics of a dispatch are read, "evaluation" after each validation,
        "checkpoint" when a save has been started.
      step: training steps done.
      epoch: the same in epochs.
      values: "step": ``loss``, ``grad_norm`` and, unless the optimizer has its own,
        ``learning_rate``; "evaluation": ``train`` and ``val``, the lines of metrics.jsonl;
        "checkpoint": ``score``, that of the validation or None.
    """

    kind: str
    step: int
    epoch: float
    values: Mapping[str, Any]


Callback = Callable[[Event], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that the training loop needs. Of arrays on the devices it holds images only."""

    config: ConfigDict
    workdir: Path
    data: TrainingData
    module: nn.Module
    mesh: Mesh
    placement: DataPlacement
    train_batches: Batches | GivenBatches
    initial: InitialWeights
    settings: Settings  # host arrays: the first step donates the state's own copy
    compiled: CompiledSteps
    total_steps: int
    summary: Summary
    metrics: Mapping[str, Metric]
    callbacks: tuple[Callback, ...]

    def fresh_state(self) -> TrainState:
        """The state that the run starts from: random, or with the values of `init.weights`.

        The caller owns it: the run keeps no state, so that a restored one has the devices' memory
        to itself.
        """
        return self.initial.place(self.compiled.init(self.settings))

    def restored_state(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint, with what checkpoints leave out.

        Raises:
          UserError: it is not finite, as leukjax 0.1 could save.
        """
        form = self.compiled.form
        return self.initial.complete(divergence.restore(checkpoints, step, form.saved), form)

    @property
    def steps_per_epoch(self) -> int:
        """Training steps per epoch."""
        return self.train_batches.steps_per_epoch

    @property
    def training_flops(self) -> float:
        """FLOPs of a training step per image: forward, and twice that backward."""
        return 3.0 * self.summary.flops

    def steps(self, field: str) -> int:
        """A duration field of the config in steps, at least 1: 0 means every step, not never."""
        section, name = field.split(".")
        steps = configs.steps(
            self.config[section][name],
            steps_per_epoch=self.steps_per_epoch,
            batch_size=self.config.train.batch_size,
            field=field,
        )
        return max(1, steps)

    def eval_batches(self, split: str) -> Batches:
        """All images of a split, once each, in the order of the records."""
        size = self.config.train.eval_batch_size or self.config.train.batch_size
        rows = self.data.rows(split)
        return make_batches(self.config, self.placement.images, rows, size, training=False)

    def custom_scores(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
        """The values of the metrics that were given in Python.

        Raises:
          TypeError: a metric returns no number.
        """
        values: dict[str, float] = {}
        for name, metric in self.metrics.items():
            with jax.transfer_guard("allow"):
                value: Any = metric(labels, probabilities)
            try:
                values[name] = float(value)
            except (TypeError, ValueError) as error:
                form = f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else ""
                raise TypeError(
                    f"metrics: {name!r} returned {form or type(value).__name__}, not a number"
                ) from error
        return values

    def notify(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Calls the callbacks."""
        if self.callbacks:
            event = Event(kind, step, step / self.steps_per_epoch, values)
            with jax.transfer_guard("allow"):  # the loop forbids implicit transfers
                for callback in self.callbacks:
                    callback(event)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run hands to its report.

    Attributes:
      run: the run.
      best_step: step of the checkpoint with the best validation score.
      newest_step: step of the newest checkpoint.
      seconds: wall time of this process.
    """

    run: Run
    best_step: int
    newest_step: int
    seconds: float
