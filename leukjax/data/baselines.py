"""Baselines: the larger class, the area of the cell, and all shortcuts together."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from leukjax.data.image_stats import shortcut_numbers
from leukjax.data.manifest import Manifest
from leukjax.data.parallel import map_in_order
from leukjax.data.records import READ_AT_ONCE, Records
from leukjax.data.split import Split

SHORTCUTS = "shortcuts alone"
# The models have at most some hundred parameters; on 120,000 images of 21 classes the fit took
# longer than the training.
_FITTED, _FITTED_OF_CLASS = 20_000, 50
_RULES = {
    "black": "area above black",
    "bright": "area darker than Otsu's threshold",
}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The predictions of a trivial model, in the form of those of a trained one.

    Attributes:
      name: "larger class", "cell area alone" or `SHORTCUTS`.
      description: for the caption of the table.
      probabilities: part ("val", "test") -> float64[n, classes], rows as in `Split.rows(part)`.
    """

    name: str
    description: str
    probabilities: dict[str, Float[np.ndarray, "n c"]]


def baselines(
    manifest: Manifest,
    split: Split,
    background: str = "black",
    numbers: Mapping[str, Float[np.ndarray, "n k"]] | None = None,
) -> list[Baseline]:
    """Fits the baselines on the training split and applies them to the others.

    The larger class predicts the class frequencies of the training split for every image. The area
    model is a logistic regression (maximum likelihood, unweighted as the default loss of training,
    with scikit-learn's L2 penalty C = 1) on the standardised share of foreground. The shortcuts are
    `shortcut_model` on all of `numbers`. Above 20,000 training images the two models are fitted to
    20,000, evenly spaced in each class, and at least 50 of each class.

    Args:
      manifest: the images, with their areas.
      split: their parts; a class that train lacks gets the probability 0.
      background: `Dataset.background`, for the description.
      numbers: from `numbers_of`; None = without the shortcuts.
    """
    train = split.rows("train")
    labels, classes = manifest.label[train], len(manifest.classes)
    frequencies = np.bincount(labels, minlength=classes) / len(labels)
    larger = manifest.classes[int(frequencies.argmax())]
    area = manifest.area[:, None].astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fitted = _sample(labels)
    model.fit(area[train][fitted], labels[fitted])
    parts = {part: split.rows(part) for part in ("val", "test")}
    models = [
        Baseline(
            "larger class",
            f"every image classified as {larger}",
            {part: np.tile(frequencies, (len(rows), 1)) for part, rows in parts.items()},
        ),
        Baseline(
            "cell area alone",
            f"logistic model on one number, the {_RULES[background]} as a share of the image",
            {part: _probabilities(model, area[rows], classes) for part, rows in parts.items()},
        ),
    ]
    if numbers:
        values = np.concatenate(list(numbers.values()), axis=1)
        model = shortcut_model()
        model.fit(values[train][fitted], labels[fitted])
        models.append(
            Baseline(
                SHORTCUTS,
                f"logistic model on numbers without information on disease ({', '.join(numbers)}), "
                "their squares and products",
                {
                    part: _probabilities(model, values[rows], classes)
                    for part, rows in parts.items()
                },
            )
        )
    return models


def _sample(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Returns the images that the models are fitted to, in order."""
    share = min(1.0, _FITTED / len(labels))
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(len(rows), max(_FITTED_OF_CLASS, round(share * len(rows))))
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).astype(int)])
    return np.sort(np.concatenate(chosen))


def _probabilities(
    model: Pipeline, values: Float[np.ndarray, "n k"], classes: int
) -> Float[np.ndarray, "n c"]:
    """Returns the probabilities of all classes; 0 for those that the model was not fitted on."""
    table = np.zeros((len(values), classes))
    table[:, model.classes_] = model.predict_proba(values)
    return table


def shortcut_model() -> Pipeline:
    """Returns a logistic model on numbers, their squares and products; balanced class weights."""
    # Squares, because a class may lie between two others.
    return make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, interaction_only=False, include_bias=False),
        StandardScaler(),
        LogisticRegression(max_iter=2000, class_weight="balanced"),
    )


def numbers_of(records: Records, threads: int) -> dict[str, Float[np.ndarray, "n k"]]:
    """Returns `shortcut_numbers` of every prepared image, and the size of its file if it has one.

    One pass over the records; `audit.shortcuts` measures the files themselves.
    """

    def measured(start: int) -> list[dict[str, list[float]]]:
        rows = np.arange(start, min(start + READ_AT_ONCE // 8, len(records)))
        return [shortcut_numbers(image, records.background) for image in records.images(rows)]

    starts = range(0, len(records), READ_AT_ONCE // 8)
    table = [row for rows in map_in_order(measured, starts, threads) for row in rows]
    numbers = {name: np.array([row[name] for row in table], np.float64) for name in table[0]}
    if records.file_sizes is not None:
        numbers["file size"] = records.file_sizes[:, None].astype(np.float64)
    return numbers
