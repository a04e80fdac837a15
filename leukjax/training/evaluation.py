"""A state and a part of the data become predictions."""

import jax
import numpy as np

from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import softmax
from leukjax.training.assemble import Run
from leukjax.training.prefetch import Feed
from leukjax.training.state import TrainState


def predict(run: Run, state: TrainState, part: str) -> Predictions:
    """Run the evaluation step over a part; each image counts once, on every process alike."""
    batches = run.eval_batches(part)
    steps = range(batches.steps_per_epoch)
    feed = Feed(batches, run.mesh, 0, len(steps), pixels=run.residence.pixels)
    pending = [run.eval_step(state, batch) for batch in feed]
    # Read once all are under way, so that the device never waits for the host.
    logits = np.concatenate([jax.device_get(batch) for batch in pending])
    rows = np.concatenate([batches.indices(step) for step in steps])
    counts = np.concatenate([batches.mask(step) for step in steps])
    manifest, rows = run.records.manifest, rows[counts]
    return Predictions(
        classes=run.records.classes,
        id=manifest.id[rows],
        subject=manifest.subject[rows],
        group=manifest.group[rows],
        labels=manifest.label[rows],
        probabilities=softmax(logits[counts]),
    )
