"""What a work directory holds of a trained network: its description, and its values at one step."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn
from ml_collections import ConfigDict

from leukjax import models, runtime, sharding
from leukjax.errors import UserError
from leukjax.metrics import calibration
from leukjax.metrics.predictions import read as read_predictions
from leukjax.storage import read_text
from leukjax.train import checkpoint


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A network as a run left it.

    Attributes:
      workdir: the run's work directory.
      step: optimiser steps done.
      config: the config of the training.
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
    """Read a work directory.

    Raises:
      UserError: no run, no finished checkpoint, a damaged one, or one of another model.
    """
    preprocessing = _read_json(folder / "preprocessing.json")
    config = _read_json(folder / "config.json")
    try:
        options = dict(preprocessing["model"])
        module = models.create(
            options.pop("name"),
            len(preprocessing["classes"]),
            dtype=runtime.compute_dtype(preprocessing["compute_dtype"]),
            **options,
        )
        size, metric = preprocessing["image_size"], config["checkpoint"]["metric"]
    except KeyError as error:
        raise UserError(f"{folder}: its JSON files lack {error}; copy the run anew") from error
    chosen, variables = checkpoint.for_evaluation(
        folder / "checkpoints", step, lower_is_better=metric == "loss"
    )
    if not (folder / "predictions" / "test.csv").exists():
        logging.warning("%s: is not finished; step %d of it is taken", folder, chosen)
    _check_shapes(folder, module, variables, size)
    variables = jax.tree.map(jnp.asarray, variables)
    return Restored(folder, chosen, ConfigDict(config), preprocessing, module, variables)


def temperature(folder: Path, step: int | str) -> float:
    """The temperature that fits a run's validation predictions (`calibration.temperature`).

    Raises:
      UserError: there are none, or they are those of another step.
    """
    if step != "best":
        raise UserError(f"step {step}: only the best has validation predictions to calibrate by")
    table = read_predictions(folder / "predictions" / "val.csv")
    return calibration.temperature(table.labels, table.probabilities)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        where, name = path.parent, path.name
        raise UserError(f"{where}: holds no run (no {name}); give a work directory") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the run anew") from error


def _check_shapes(folder: Path, module: nn.Module, variables: Any, size: int) -> None:
    """Refuse variables that are not this module's, as where a file was exchanged."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(module.init, train=False)
    made = jax.eval_shape(init, jax.random.key(0), images)
    expected = _shapes({"params": made["params"], "batch_stats": made.get("batch_stats", {})})
    found = _shapes(variables)
    if found != expected:
        name = min(dict(found.items() ^ expected.items()))
        raise UserError(
            f"{folder}: its checkpoint is of another model than preprocessing.json says: {name} is "
            f"{found.get(name, 'absent')}, not {expected.get(name, 'there')}; copy the run anew"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): tuple(leaf.shape) for path, leaf in leaves}
