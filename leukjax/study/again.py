"""A finished run's best epoch, once more on some part: as it was, or with more views an image."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import runtime
from leukjax.errors import UserError
from leukjax.metrics.predictions import Predictions
from leukjax.train import finish, workdir
from leukjax.train.checkpoint import Checkpoints
from leukjax.train.evaluate import predict
from leukjax.train.run import assemble
from leukjax.train.state import TrainState
from leukjax.train.step import Batch

# The symmetries of the square: quarter turns, and the same of the mirror image.
VIEWS = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))


def config_of(folder: Path) -> ConfigDict:
    """The config of a finished run.

    Raises:
      UserError: there is no run, it is not finished, or its config is not of this version.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder}: holds no run; give the folder of a finished run")
    if not (folder / "predictions" / "test.csv").exists():
        raise UserError(f"--workdir={folder}: the run is not finished; start it again to go on")
    try:
        config = ConfigDict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: cannot be read ({error})") from error
    configs.check(config)
    return config


def predict_again(folder: Path, part: str, *, augmented: bool = False, by: str = "") -> Predictions:
    """The best epoch of a finished run on a part of its split.

    Args:
      folder: the work directory.
      part: "val", "test" or "held_out"; an opening of test is noted before it is read.
      augmented: mean probability over the eight dihedral views of each image, instead of the image
        as it is.
      by: who opens test, for the run's ledger.

    Raises:
      UserError: no finished run, other images than it was trained with, or an empty part.
    """
    config = config_of(folder)
    runtime.start(config)
    with workdir.locked(folder):
        run, _ = assemble(config, folder)
        if not len(run.rows[part]):
            raise UserError(f"--workdir={folder}: its split has no part {part}")
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_latest=config.checkpoint.keep_latest,
            lower_is_better=config.checkpoint.metric == "loss",
        )
        try:
            step = checkpoints.best()
            state = checkpoints.restore(step, run.state)
        finally:
            checkpoints.close()
        if part == "test":
            finish.note_opening(folder, step, by=by)
        if not augmented:
            return predict(run, state, part)

        def seen(view: tuple[int, bool], state: TrainState, batch: Batch) -> Array:
            turned = batch | {"image": dihedral(batch["image"], *view)}
            return run.eval_step(state, turned)

        views = [dataclasses.replace(run, eval_step=functools.partial(seen, v)) for v in VIEWS]
        return mean([predict(of, state, part) for of in views])


@functools.partial(jax.jit, static_argnums=(1, 2))
def dihedral(
    images: UInt8[Array, "n s s 3"], turns: int, mirrored: bool
) -> UInt8[Array, "n s s 3"]:
    """Square images, mirrored left to right if so asked, then turned by quarter turns."""
    if mirrored:
        images = images[:, :, ::-1]
    return jnp.rot90(images, turns, axes=(1, 2))


def mean(members: Sequence[Predictions]) -> Predictions:
    """The mean probability of several models, or views, of the same images.

    Raises:
      UserError: they have other classes, or are not of the same images in the same order.
    """
    first = members[0]
    for other in members[1:]:
        if other.classes != first.classes:
            raise UserError(
                f"members of an ensemble must have the same classes in the same order; one has "
                f"{', '.join(first.classes)}, another {', '.join(other.classes)}"
            )
        same = len(other) == len(first) and bool((other.id == first.id).all())
        if not same or not (other.labels == first.labels).all():
            raise UserError(
                "members of an ensemble must be scored on the same images; these have other "
                "splits or other data (folds of a cross-validation: its held-out part is scored "
                "by leukjax.crossval)"
            )
    stacked = np.stack([member.probabilities for member in members])
    average = np.asarray(stacked.mean(axis=0, dtype=np.float64), np.float32)
    return dataclasses.replace(first, probabilities=average)
