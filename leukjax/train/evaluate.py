"""A state and a part of the data become predictions: one row an image, the source of every score."""

import csv
import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from leukjax.data.batches import Batches
from leukjax.data.manifest import Manifest
from leukjax.files import write_whole
from leukjax.train.feed import Feed
from leukjax.train.state import TrainState
from leukjax.train.step import EvalStep


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Probabilities of the images of one part, in the order of the part."""

    rows: Int[np.ndarray, " n"]  # of the records
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]


def predict(eval_step: EvalStep, state: TrainState, batches: Batches, mesh: Mesh) -> Predictions:
    """Run the evaluation step over a part; each image counts once, on every process alike."""
    pending = []
    for batch in Feed(batches, mesh, 0, batches.steps_per_epoch):
        pending.append(eval_step(state, batch))
    # Read once all are dispatched, so that the device never waits for the host.
    probabilities = np.concatenate([jax.device_get(part) for part in pending])
    rows = np.concatenate([batches.indices(step) for step in range(batches.steps_per_epoch)])
    count = len(batches.rows)  # what follows is the padding of the last batch
    return Predictions(rows[:count], batches.labels(rows[:count]), probabilities[:count])


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
