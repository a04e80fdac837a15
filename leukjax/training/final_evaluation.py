"""The end of a run: the best checkpoint is evaluated on test once; preprocessing is recorded."""

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from leukjax import distributed
from leukjax.checkpoints.writer import Checkpoints
from leukjax.rundir import RunDir
from leukjax.training.evaluation import predict
from leukjax.training.metric_writer import MetricWriter
from leukjax.training.run import Run


def score_best(run: Run, checkpoints: Checkpoints, log: MetricWriter, splits: Sequence[str]) -> int:
    """Restores the best checkpoint and writes its predictions on some splits.

    Every access to the test split is a line in ``test_openings.jsonl``, written before the split is
    read: a run that is killed while it scores reads it once more, with another line.

    Args:
      run: at its end.
      checkpoints: of the run.
      log: of the run.
      splits: "val", "test".

    Returns:
      The step of the best checkpoint.
    """
    step = checkpoints.best()
    run_dir, is_first = RunDir(run.workdir), jax.process_index() == 0
    if not splits or distributed.from_first(lambda: run_dir.has_predictions(splits[-1])):
        return step  # a start after the end: test is not read again
    state = run.restored_state(checkpoints, step)
    for part in splits:
        if part == "test" and is_first:
            run_dir.record_test_access(step)
        log.say(
            f"evaluating the best checkpoint (step {step}) on {part}: "
            f"{len(run.data.rows(part))} images"
        )
        table = predict(run, state, part)
        if is_first:
            run_dir.write_predictions(part, table)
    return step


def lost(run: Run, newest: int) -> dict[str, int]:
    """Counts on disk what a finished run should hold and does not; all 0 unless work was lost.

    Args:
      run: the run.
      newest: step of its newest checkpoint.

    Returns:
      ``steps`` of training that no checkpoint holds, ``evaluations`` that the log lacks, and
      ``predictions`` (images of validation and test) that the tables lack.
    """
    run_dir = RunDir(run.workdir)
    every = run.steps("train.eval_every")
    due = {*range(every, run.total_steps + 1, every), run.total_steps}
    done = {line["step"] for line in run_dir.history() if line["part"] == "val"}
    tables = [run_dir.predictions(part) for part in ("val", "test")]
    images = len(run.data.rows("val")) + len(run.data.rows("test"))
    return {
        "steps": run.total_steps - newest,
        "evaluations": len(due - done),
        "predictions": images - sum(map(len, tables)),
    }


def write_preprocessing(run: Run) -> None:
    """Writes ``preprocessing.json``: how a new image becomes probabilities of this run."""
    config, settings = run.config, jax.device_get(run.settings)
    content: dict[str, Any] = {
        "classes": list(run.data.records.classes),
        "positive": run.data.positive,
        "data": config.data.name,
        "synthetic": run.data.records.synthetic,
        "background": run.data.records.background,
        "crop": config.data.crop,
        "denoise": config.data.denoise,
        "image_size": config.data.image_size,
        "resize": "area when shrinking, Lanczos when growing",
        "scale": "uint8 / 255",
        "mean": [float(value) for value in np.asarray(settings.mean)],
        "std": [float(value) for value in np.asarray(settings.std)],
        "stain": config.data.stain,
        "model": config.model.to_dict(),
        "compute_dtype": config.compute_dtype,
        "versions": versions(),
    }
    if config.data.stain != "none":
        content["stain_target"] = np.asarray(settings.stain_target, float).tolist()
    if run.initial.facts:
        content["init"] = dict(run.initial.facts)
    if jax.process_index() == 0:
        RunDir(run.workdir).write_json("preprocessing.json", content)


def versions() -> dict[str, str]:
    """The versions of the packages that numbers depend on."""
    names = ("leukjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
             "opencv-python-headless", "pillow", "scikit-learn", "scipy")  # fmt: skip
    return {name: metadata.version(name) for name in names}
