"""Every score that leukjax prints, with its definition."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata
from sklearn import metrics as sk

from leukjax.metrics import confusion

BINS = 15  # of the calibration errors, as in Guo et al. 2017


def _sensitivity_at_95_specificity(is_class: np.ndarray, probability: np.ndarray) -> float:
    false, true, _ = sk.roc_curve(is_class, probability, drop_intermediate=False)
    # 1 of 20 and 1 - 0.95 differ in their last bits.
    return float(true[false <= 0.05 + 1e-12].max())


# Scores of ranks, one class against the rest, from (is it the class, probability of the class).
RANKS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "sensitivity_at_95_specificity": _sensitivity_at_95_specificity,
}
NAMES = ("loss", *confusion.NAMES, *RANKS, "brier", "ece", "ece_equal_mass")


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions.

    Attributes:
        values: every name of `NAMES`; None where the score is undefined.
        reasons: why, for each None of `values`.
        by_class: for each class precision, recall, specificity, f1 and auroc against the rest, and
            images (their number).
    """

    values: dict[str, float | None]
    reasons: dict[str, str]
    by_class: dict[str, dict[str, float | None]]


def predicted_class(probabilities: Float[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
    """Returns the class with the largest probability; the first one in a tie."""
    return probabilities.argmax(axis=1)


def softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Returns probabilities in float64.

    float32 has no number below 1e-45 (1e-38 where the processor flushes denormals): a logit 104
    (88) below the largest one would be lost, and could not be rescaled by a temperature.
    """
    with np.errstate(invalid="ignore"):  # a diverged run gives NaN, which `scores` reports
        scaled = logits.astype(np.float64)
        scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return scaled / scaled.sum(axis=1, keepdims=True)


def scores(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    classes: Sequence[str],
    positive: str,
) -> Scores:
    """Returns all scores of one set of predictions.

    - loss: mean of -log of the probability given to the true class (natural logarithm;
      probabilities under float64's epsilon count as that, as in scikit-learn).
    - accuracy, balanced_accuracy, precision, recall (sensitivity), specificity, f1, weighted_f1,
      macro_f1, mcc: of the class with the largest probability, see `confusion.score`.
    - auroc: probability that an image of the class gets a larger probability than one of the
      rest, ties counting half (Hanley & McNeil 1982, Radiology 143:29).
    - average_precision: sum over thresholds of precision times the step in recall.
    - sensitivity_at_95_specificity: largest sensitivity of any threshold whose specificity is
      0.95 or more.
    - brier: two classes: mean squared error of the positive class' probability (Brier 1950);
      more: the sum of it over the classes.
    - ece: expected calibration error of the largest probability (Guo et al. 2017, ICML) in 15
      bins of equal width; ece_equal_mass: in 15 bins of equal numbers of images, as far as ties
      allow: images of equal confidence share the bin of the middle one.

    With two classes precision, recall, specificity, f1, auroc, average_precision and
    sensitivity_at_95_specificity are those of `positive`; above two classes each is the mean over
    the classes, each against the rest. Means over classes, balanced accuracy and macro F1 among
    them, are over the classes that have images.

    Args:
        labels: class indices.
        probabilities: one row per image; rows sum to 1.
        classes: names, in the order of the columns.
        positive: one of `classes`; ignored above two classes, and may be "".
    """
    count, n_classes = probabilities.shape
    if count == 0:
        return _undefined("there are no images", classes)
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        return _undefined(f"{bad} of {count} predictions are not finite numbers", classes)
    probabilities = probabilities.astype(np.float64)
    chosen = classes.index(positive) if positive or n_classes == 2 else 0
    matrix = confusion.confusion_matrix(labels, predicted_class(probabilities), n_classes)
    by_class: dict[str, np.ndarray] = dict(confusion.by_class(matrix))
    present = confusion.averaged(matrix.sum(axis=1))
    for name, rank in RANKS.items():
        by_class[name] = np.array(
            [_ranked(rank, labels == c, probabilities[:, c]) for c in range(n_classes)]
        )
    numbers = {
        name: float(confusion.score(name, matrix, chosen, present)) for name in confusion.NAMES
    }
    for name in RANKS:
        of_name = by_class[name]
        numbers[name] = float(of_name[chosen] if n_classes == 2 else of_name[present].mean())
    numbers |= _probability_scores(labels, probabilities, chosen)
    values = {name: _or_none(numbers[name]) for name in NAMES}
    reasons = {
        name: _reason(name, matrix, classes, positive) for name in NAMES if values[name] is None
    }
    shown = (*confusion.ONE_CLASS, "auroc")
    class_scores = {
        c: {name: _or_none(by_class[name][i]) for name in shown} | {"images": int(matrix[i].sum())}
        for i, c in enumerate(classes)
    }
    return Scores(values, reasons, class_scores)


@dataclasses.dataclass(frozen=True)
class Subjects:
    """Mean probabilities by subject, one row per subject, sorted by name.

    Attributes:
        names, labels, probabilities, groups: of each subject.
        cells: number of its images.
        accuracy: share of its images that are classified correctly.
    """

    names: Shaped[np.ndarray, " s"]
    labels: Int[np.ndarray, " s"]
    probabilities: Float[np.ndarray, "s c"]
    groups: Shaped[np.ndarray, " s"]
    cells: Int[np.ndarray, " s"]
    accuracy: Float[np.ndarray, " s"]


class MixedSubjectsError(ValueError):
    """Predictions have no scores by subject; the message is a clause with the reason."""


def subject_table(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    subjects: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
) -> Subjects:
    """Averages predictions by subject.

    Raises:
        MixedSubjectsError: there are no images, or a subject has cells of several classes (a smear
            field, for instance).
    """
    if not len(labels):
        raise MixedSubjectsError("there are no images")
    names, first, member, cells = np.unique(
        subjects, return_index=True, return_inverse=True, return_counts=True
    )
    mixed = np.unique(member[labels != labels[first][member]])
    if len(mixed):
        raise MixedSubjectsError(
            f"{len(mixed)} of {len(names)} subjects have cells of several classes"
            f" (for example {names[mixed[0]]})"
        )
    means = [np.bincount(member, column) / cells for column in probabilities.T.astype(np.float64)]
    # Means of equal numbers differ in their last bits, which would order tied subjects.
    means = [np.round(mean, 12) for mean in means]
    right = np.bincount(member, predicted_class(probabilities) == labels) / cells
    return Subjects(names, labels[first], np.stack(means, 1), groups[first], cells, right)


def _ranked(rank, is_class: np.ndarray, probability: np.ndarray) -> float:
    return np.nan if is_class.all() or not is_class.any() else float(rank(is_class, probability))


def _probability_scores(labels, probabilities, chosen) -> dict[str, float]:
    given = probabilities[np.arange(len(labels)), labels]
    confidence, right = probabilities.max(axis=1), predicted_class(probabilities) == labels
    if probabilities.shape[1] == 2:
        brier = np.mean((probabilities[:, chosen] - (labels == chosen)) ** 2)
    else:
        truth = labels[:, None] == np.arange(probabilities.shape[1])
        brier = np.mean(((probabilities - truth) ** 2).sum(axis=1))
    # Bins are (low, high], so that a confidence of exactly 1 is in the last one.
    width = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    # Separating equal confidences would make the bins depend on the order of the rows: a constant,
    # calibrated 0.8 got an error of 0.32.
    middle = (rankdata(confidence, "min") + rankdata(confidence, "max")).astype(int) // 2 - 1
    mass = middle * BINS // len(labels)
    return {
        "loss": float(-np.log(np.maximum(given, np.finfo(np.float64).eps)).mean()),
        "brier": float(brier),
        "ece": _calibration_error(confidence, right, width),
        "ece_equal_mass": _calibration_error(confidence, right, mass),
    }


def _calibration_error(confidence, right, bins) -> float:
    gaps = np.bincount(bins, confidence) - np.bincount(bins, right)
    return float(np.abs(gaps).sum() / len(confidence))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _undefined(reason: str, classes: Sequence[str]) -> Scores:
    empty: dict[str, float | None] = dict.fromkeys((*confusion.ONE_CLASS, "auroc", "images"))
    return Scores(
        dict.fromkeys(NAMES), dict.fromkeys(NAMES, reason), {c: dict(empty) for c in classes}
    )


def _reason(name: str, matrix: np.ndarray, classes: Sequence[str], positive: str) -> str:
    """Why a score is undefined, from the empty rows and columns of the confusion matrix."""
    missing = [c for c, n in zip(classes, matrix.sum(axis=1), strict=True) if n == 0]
    unpredicted = [c for c, n in zip(classes, matrix.sum(axis=0), strict=True) if n == 0]
    present = [c for c in classes if c not in missing]
    two = len(classes) == 2
    if not two:  # means are over the classes that have images
        unpredicted = [c for c in unpredicted if c in present]
    if name == "precision" and unpredicted:
        return f"no image was predicted as {_join([positive] if two else unpredicted)}"
    if name in ("f1", "macro_f1"):
        neither = [c for c in missing if c in unpredicted]
        return f"no image is {_join(neither)} and none was predicted as such"
    if len(present) == 1:
        return f"every image is {present[0]}"
    if name == "mcc":
        return "every image was predicted as the same class"
    return f"no image is {_join(missing)}"


def _join(names: Sequence[str]) -> str:
    return " or ".join(names)
