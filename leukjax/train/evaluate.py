"""A state and a part of the data become predictions: the source of every score."""

import csv
import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from leukjax.data.manifest import Manifest
from leukjax.files import write_whole
from leukjax.train.feed import Feed
from leukjax.train.run import Run
from leukjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Probabilities of the images of one part, in the order of the part."""

    rows: Int[np.ndarray, " n"]  # of the records
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]


def predict(run: Run, state: TrainState, part: str) -> Predictions:
    """Run the evaluation step over a part; each image counts once, on every process alike."""
    batches = run.eval_batches(part)
    steps = range(batches.steps_per_epoch)
    pending = [run.eval_step(state, batch) for batch in Feed(batches, run.mesh, 0, len(steps))]
    # Read once all are under way, so that the device never waits for the host.
    probabilities = np.concatenate([jax.device_get(batch) for batch in pending])
    rows = np.concatenate([batches.indices(step) for step in steps])
    counts = np.concatenate([batches.mask(step) for step in steps])
    return Predictions(
        rows[counts], run.records.manifest.label[rows[counts]], probabilities[counts]
    )


def write_predictions(path: Path, predictions: Predictions, manifest: Manifest) -> None:
    """Write ``id, subject, group, label, predicted, p_<class>…``; floats exact to the last bit."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    classes = manifest.classes
    out.writerow(
        ["id", "subject", "group", "label", "predicted", *(f"p_{name}" for name in classes)]
    )
    for row, p in zip(predictions.rows, predictions.probabilities, strict=True):
        out.writerow(
            [
                manifest.id[row],
                manifest.subject[row],
                manifest.group[row],
                classes[manifest.label[row]],
                classes[int(np.argmax(p))],
                *(f"{value:.9g}" for value in p),
            ]
        )
    write_whole(path, text.getvalue())
