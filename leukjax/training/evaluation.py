"""Predictions of a state on images."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from leukjax.data.loader import Batches
from leukjax.data.records import Records
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import softmax
from leukjax.training.prefetch import DevicePrefetcher
from leukjax.training.run import Run
from leukjax.training.state import TrainState
from leukjax.training.step import EvalStep


def predict(run: Run, state: TrainState, split: str) -> Predictions:
    """Predictions of a state on a split of its run, on every process alike."""
    return predict_batches(
        run.eval_batches(split),
        run.mesh,
        run.compiled.eval_step,
        state,
        run.data.records,
        run.placement.device_images,
    )


def predict_batches(
    batches: Batches,
    mesh: Mesh,
    eval_step: EvalStep,
    state: TrainState,
    records: Records,
    device_images: Any = None,
) -> Predictions:
    """Runs the evaluation step over batches; each image counts once."""
    steps = range(batches.steps_per_epoch)
    prefetcher = DevicePrefetcher(batches, mesh, 0, len(steps), device_images=device_images)
    pending = [eval_step(state, batch) for batch in prefetcher]
    # Read when all are dispatched, so that the device never waits for the host.
    logits = np.concatenate([jax.device_get(batch) for batch in pending])
    rows = np.concatenate([batches.indices(step) for step in steps])
    counts = np.concatenate([batches.mask(step) for step in steps])
    manifest, rows = records.manifest, rows[counts]
    return Predictions(
        classes=records.classes,
        id=manifest.id[rows],
        subject=manifest.subject[rows],
        group=manifest.group[rows],
        labels=manifest.label[rows],
        probabilities=softmax(logits[counts]),
    )
