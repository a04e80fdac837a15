"""The larger class as a baseline: what the split files alone allow to predict."""

import dataclasses

import numpy as np
from jaxtyping import Float

from leukjax.compare.load_results import Entry, Run, join
from leukjax.metrics.predictions import Predictions

NAME = "larger class (baseline)"
NOTE = f"{NAME}: every image gets the class frequencies of the training part."


def larger_class(entry: Entry) -> Predictions | None:
    """The baseline on an entry's images; None where no run says what it was trained on.

    Out of fold each image gets the frequencies of its own fold's training part; on a test part that
    all runs share, the mean over the runs.
    """
    if not entry.runs:
        return None
    if entry.folds and entry.part == "out of fold":
        run_of = {id(run.test): run for run in entry.runs}
        return join([_predict(fold, _frequencies(run_of[id(fold)])) for fold in entry.folds[0]])
    shares = np.mean([_frequencies(run) for run in entry.runs], axis=0)
    return _predict(entry.predictions, shares)


def _predict(images: Predictions, shares: Float[np.ndarray, " c"]) -> Predictions:
    return dataclasses.replace(images, probabilities=np.tile(shares, (len(images), 1)))


def _frequencies(run: Run) -> Float[np.ndarray, " c"]:
    labels = [label for *_, label, part in run.split.values() if part == "train"]
    counts = np.array([labels.count(name) for name in run.test.classes], float)
    return counts / max(counts.sum(), 1)
