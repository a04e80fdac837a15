"""What a work directory holds of a trained network: its description, and its values at one step."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn
from ml_collections import ConfigDict

from leukjax import runtime
from leukjax.checkpoints import checkpoints
from leukjax.errors import UserError
from leukjax.metrics import calibration
from leukjax.models.registry import model_from_fields
from leukjax.rundir import RunDir


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A network as a run left it.

    Attributes:
      workdir: the run's work directory.
      step: optimiser steps done.
      config: the config of the training, with this machine's own paths and settings.
      preprocessing: content of ``preprocessing.json``.
      module: made for this machine: bfloat16 or float32 as `compute_dtype` says.
      variables: ``params`` and ``batch_stats``.
    """

    workdir: Path
    step: int
    config: ConfigDict
    preprocessing: dict[str, Any]
    module: nn.Module
    variables: dict[str, Any]


def restore(folder: Path, step: int | str) -> Restored:
    """Read a work directory, which may come from anyone.

    Raises:
      UserError: no run, no finished checkpoint, a damaged one, or one of another model.
    """
    run = RunDir(folder)
    preprocessing, config = run.preprocessing(), run.config()
    module = model_from_fields(
        preprocessing["model"],
        len(preprocessing["classes"]),
        dtype=runtime.compute_dtype(preprocessing["compute_dtype"]),
    )
    chosen, variables = checkpoints.for_evaluation(
        folder / "checkpoints",
        step,
        lower_is_better=config.checkpoint.metric == "loss",
        expected=_expected(module, preprocessing["image_size"]),
    )
    if not (folder / "predictions" / "test.csv").is_file():
        logging.warning("%s: is not finished; using the checkpoint at step %d", folder, chosen)
    variables = jax.tree.map(jnp.asarray, variables)
    return Restored(folder, chosen, config, preprocessing, module, variables)


def temperature(folder: Path, step: int | str) -> float:
    """The temperature that fits a run's validation predictions (`calibration.temperature`).

    Raises:
      UserError: there are none, or they are those of another step.
    """
    if step != "best":
        raise UserError(f"step {step}: only the best has validation predictions to calibrate by")
    table = RunDir(folder).predictions("val")
    return calibration.temperature(table.labels, table.probabilities)


def _expected(module: nn.Module, size: int) -> dict[str, Any]:
    """The variables of a module, as shapes."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(module.init, train=False)
    made = jax.eval_shape(init, jax.random.key(0), images)
    return {"params": made["params"], "batch_stats": made.get("batch_stats", {})}
