"""Shortcuts: how well numbers that do not show the disease predict the class.

A network that scores no better than the area of a cell, or the size of its file, may have learned
only that. Each number alone is the input of a logistic model (with squares and products, balanced
class weights), which is scored on groups that it was not fitted on.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedGroupKFold

from leukjax.data import image_limits
from leukjax.data.baselines import shortcut_model
from leukjax.data.dataset import FileDataset
from leukjax.data.image_stats import shortcut_numbers
from leukjax.data.manifest import Manifest
from leukjax.data.parallel import map_in_order, progress
from leukjax.metrics import clustered
from leukjax.metrics.intervals import Interval, interval

FOLDS = 5

# Measure -> meaning.
MEASURES = {
    "area": "share of the image that is cell",
    "brightness": "mean grey of the cell",
    "colour": "mean red, green and blue of the cell",
    "shape": "height, width and their ratio of the box around the cell",
    "border": "mean grey and exact black of the outermost pixels",
    "image size": "height and width of the image",
    "file size": "bytes of the file",
}
TOGETHER = "all together"


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """A measure, or all of them, as a classifier.

    Attributes:
      name: a key of `MEASURES`, or `TOGETHER`.
      what: its meaning.
      balanced_accuracy, auroc: out of fold, with intervals by group.
      chance: balanced accuracy of guessing.
      reason: why there are no scores; else empty.
    """

    name: str
    what: str
    balanced_accuracy: Interval | None
    auroc: Interval | None
    chance: float
    reason: str = ""

    @property
    def is_above_chance(self) -> bool | None:
        """Whether the whole interval is above chance; None without an interval."""
        score = self.balanced_accuracy
        if score is None or score.low is None:
            return None
        return score.low > self.chance


def measures(
    source: FileDataset, manifest: Manifest, threads: int
) -> dict[str, Float[np.ndarray, "n k"]]:
    """Returns every measure of each image of the manifest, in its order. Reads the images once."""
    entries = {entry.id: entry for entry in source.entries}
    sizes = {file.path: file.size for file in source.files.files}
    ordered = [entries[str(name)] for name in manifest.id]

    def measure(entry) -> dict[str, list[float]]:
        with image_limits.one_image():
            image = source.image(entry)
            return shortcut_numbers(image, source.background) | {
                "image size": list(image.shape[:2]),
                "file size": [sizes[entry.path]],
            }

    measured = map_in_order(measure, ordered, threads)
    rows = list(progress(measured, len(ordered), f"measuring {source.name}"))
    return {name: np.array([row[name] for row in rows], np.float64) for name in MEASURES}


def shortcuts(
    measured: dict[str, Float[np.ndarray, "n k"]],
    labels: Int[np.ndarray, " n"],
    groups: np.ndarray,
    classes: tuple[str, ...],
    positive: str,
) -> list[Shortcut]:
    """Returns each measure as a classifier, and all of them together.

    Args:
      measured: result of `measures`, of labelled images.
      labels: class indices.
      groups: names; a model is never scored on groups that it was fitted on.
      classes: names.
      positive: the class of the AUROC of two classes; "" above two.
    """
    inputs = {name: (MEASURES[name], values) for name, values in measured.items()}
    inputs[TOGETHER] = ("all of these numbers", np.concatenate(list(measured.values()), axis=1))
    chance = 1 / len(classes)
    folds, no_folds = _folds(labels, groups, len(classes))
    positive_index = classes.index(positive) if positive else 0
    result = []
    for name, (meaning, values) in inputs.items():
        is_constant = (np.ptp(values, axis=0) == 0).all()
        if is_constant or no_folds:
            reason = "the same for all images" if is_constant else no_folds
            result.append(Shortcut(name, meaning, None, None, chance, reason))
            continue
        data = clustered.group(labels, _out_of_fold(values, labels, folds, len(classes)), groups)
        balanced, auroc = (
            interval(score, data, positive_index) for score in ("balanced_accuracy", "auroc")
        )
        result.append(Shortcut(name, meaning, balanced, auroc, chance))
    return result


def _folds(
    labels: Int[np.ndarray, " n"], groups: np.ndarray, classes: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Returns folds whose training images are of every class; or none, and the reason."""
    fewest = min(len(np.unique(groups[labels == label])) for label in range(classes))
    if fewest < 2:
        return [], "a class has fewer than two groups, so no group can be left out"
    for count in range(min(FOLDS, fewest), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
        folds = list(splitter.split(labels, labels, groups))
        if all(len(np.unique(labels[train])) == classes for train, _ in folds):
            return folds, ""
    return [], "no folds by group have training images of every class"


def _out_of_fold(
    values: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    folds: list[tuple[np.ndarray, np.ndarray]],
    classes: int,
) -> Float[np.ndarray, "n c"]:
    probabilities = np.zeros((len(labels), classes))
    for train, test in folds:
        model = shortcut_model()
        model.fit(values[train], labels[train])
        probabilities[test] = model.predict_proba(values[test])
    return probabilities
