"""The end of a run: its best epoch is scored once on test; what prediction needs is written."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from leukjax import distributed
from leukjax.checkpoints.checkpoints import Checkpoints
from leukjax.metrics.predictions import read as read_predictions
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic
from leukjax.training import divergence
from leukjax.training.assemble import Run
from leukjax.training.evaluation import predict
from leukjax.training.metric_writer import Log, read_metrics


def score_best(run: Run, checkpoints: Checkpoints, log: Log) -> int:
    """Restore the best checkpoint and write its predictions on validation and test.

    Every opening of the test part is a line in ``test_openings.jsonl``, written before the part is
    read: a run killed while it scores opens it once more, and says so.

    Returns:
      The step of the best checkpoint.
    """
    step = checkpoints.best()
    if distributed.from_first((run.workdir / "predictions" / "test.csv").exists):
        return step  # a start after the end: test is not opened again
    state = divergence.restore(checkpoints, step, run.form)
    for part in ("val", "test"):
        if part == "test":
            note_opening(run.workdir, step)
        log.say(f"scoring step {step} on {part}: {len(run.rows[part])} images")
        predictions = predict(run, state, part)
        if jax.process_index() == 0:
            predictions.write(run.workdir / "predictions" / f"{part}.csv")
    return step


def openings(workdir: Path) -> int:
    """How often the test part of a run was opened."""
    return RunDir(workdir).test_accesses()


def note_opening(workdir: Path, step: int, **more: str) -> None:
    """Add a line to the ledger; call it before the part is read."""
    if jax.process_index() == 0:
        RunDir(workdir).record_test_access(step, **more)


def lost(run: Run, newest: int) -> dict[str, int]:
    """What a finished run should hold and does not, counted on the disk: all 0, or work was lost.

    Args:
      run: the run.
      newest: step of its newest checkpoint.

    Returns:
      ``steps`` of training that no checkpoint holds, ``evaluations`` that the log lacks, and
      ``predictions`` (images of validation and test) that the tables lack.
    """
    every = run.steps("train.eval_every")
    due = {*range(every, run.total_steps + 1, every), run.total_steps}
    done = {line["step"] for line in read_metrics(run.workdir) if line["part"] == "val"}
    tables = (run.workdir / "predictions" / f"{part}.csv" for part in ("val", "test"))
    images = len(run.rows["val"]) + len(run.rows["test"])
    return {
        "steps": run.total_steps - newest,
        "evaluations": len(due - done),
        "predictions": images - sum(len(read_predictions(table)) for table in tables),
    }


def write_preprocessing(run: Run) -> None:
    """Write ``preprocessing.json``: all that turns a new image into this run's probabilities."""
    config, settings = run.config, jax.device_get(run.settings)
    content: dict[str, Any] = {
        "classes": list(run.records.classes),
        "positive": run.positive,
        "data": run.records.name,
        "synthetic": run.records.synthetic,
        "background": run.records.background,
        "crop": config.data.crop,
        "denoise": config.data.denoise,
        "image_size": config.data.image_size,
        "resize": "area when shrinking, Lanczos when growing",
        "scale": "uint8 / 255",
        "mean": [float(value) for value in np.asarray(settings.mean)],
        "std": [float(value) for value in np.asarray(settings.std)],
        "model": config.model.to_dict(),
        "compute_dtype": config.compute_dtype,
        "versions": versions(),
    }
    if run.initial.facts:
        content["init"] = dict(run.initial.facts)
    if jax.process_index() == 0:
        write_atomic(run.workdir / "preprocessing.json", json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """The versions of the packages that numbers depend on."""
    names = ("leukjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
             "opencv-python-headless", "pillow", "scikit-learn", "scipy")  # fmt: skip
    return {name: metadata.version(name) for name in names}
