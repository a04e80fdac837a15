"""How far numbers that say nothing of disease tell the classes apart.

A network that scores no better than the area of a cell, or the size of its file, may have learned
just that. Each number alone goes into a logistic model (with its square, classes weighted alike)
that is scored on groups it was not fitted on.
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

# What is measured, and what it would mean if it told the classes apart.
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
    """One number, or a few of one kind, as a classifier.

    Attributes:
        name: a key of `MEASURES`, or `TOGETHER`.
        what: in words.
        balanced_accuracy, auroc: out of fold, with intervals by group.
        chance: balanced accuracy of guessing.
        reason: why there are no scores, else empty.
    """

    name: str
    what: str
    balanced_accuracy: Interval | None
    auroc: Interval | None
    chance: float
    reason: str = ""

    @property
    def tells(self) -> bool | None:
        """Whether the whole interval lies above chance; None where there is none."""
        found = self.balanced_accuracy
        if found is None or found.low is None:
            return None
        return found.low > self.chance


def measures(
    source: FileDataset, manifest: Manifest, threads: int
) -> dict[str, Float[np.ndarray, "n k"]]:
    """Every measure of each image of the manifest, in its order. Reads the images once."""
    entries = {entry.id: entry for entry in source.entries}
    sizes = {file.path: file.size for file in source.files.files}
    todo = [entries[str(name)] for name in manifest.id]

    def one(entry) -> dict[str, list[float]]:
        image = source.image(entry)
        return shortcut_numbers(image, source.background) | {
            "image size": list(image.shape[:2]),
            "file size": [sizes[entry.path]],
        }

    def bounded(entry) -> dict[str, list[float]]:
        with image_limits.one_image():
            return one(entry)

    rows = list(
        progress(map_in_order(bounded, todo, threads), len(todo), f"measuring {source.name}")
    )
    return {name: np.array([row[name] for row in rows], np.float64) for name in MEASURES}


def shortcuts(
    found: dict[str, Float[np.ndarray, "n k"]],
    labels: Int[np.ndarray, " n"],
    groups: np.ndarray,
    classes: tuple[str, ...],
    positive: str,
) -> list[Shortcut]:
    """Each measure as a classifier, and all of them together.

    Args:
        found: as `measures` gives it, of labelled images.
        labels: class indices.
        groups: names; a group is never fitted and scored at once.
        classes: names.
        positive: the class that the AUROC of two classes speaks of; "" above two.
    """
    wanted = {name: (MEASURES[name], values) for name, values in found.items()}
    wanted[TOGETHER] = ("all of these numbers", np.concatenate(list(found.values()), axis=1))
    chance = 1 / len(classes)
    folds, reason = _folds(labels, groups, len(classes))
    which = classes.index(positive) if positive else 0
    result = []
    for name, (what, values) in wanted.items():
        own = "the same for all images" if (np.ptp(values, axis=0) == 0).all() else reason
        if own:
            result.append(Shortcut(name, what, None, None, chance, own))
            continue
        data = clustered.group(labels, _out_of_fold(values, labels, folds, len(classes)), groups)
        balanced, auroc = (interval(score, data, which) for score in ("balanced_accuracy", "auroc"))
        result.append(Shortcut(name, what, balanced, auroc, chance))
    return result


def _folds(
    labels: Int[np.ndarray, " n"], groups: np.ndarray, classes: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Folds whose training sides hold every class; or none, and a sentence why."""
    fewest = min(len(np.unique(groups[labels == label])) for label in range(classes))
    if fewest < 2:
        return [], "a class has fewer than two groups, so none can be left out"
    for count in range(min(FOLDS, fewest), 1, -1):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
        folds = list(splitter.split(labels, labels, groups))
        if all(len(np.unique(labels[train])) == classes for train, _ in folds):
            return folds, ""
    return [], "no folds by group leave every class to fit on"


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
