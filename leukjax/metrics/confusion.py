"""Scores of confusion matrices, for one matrix or a stack of them.

Resampling uses stacks: the matrices of 10,000 resamples are one product of weights and matrices by
group. NaN means undefined; `scores` turns it into None with a reason.
"""

import numpy as np
from jaxtyping import Float, Int, Num

# Two classes: of the positive class. More: mean over the classes, each against the rest.
ONE_CLASS = ("precision", "recall", "specificity", "f1")
NAMES = ("accuracy", "balanced_accuracy", *ONE_CLASS, "weighted_f1", "macro_f1", "mcc")


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Returns the number of images of each class (rows) predicted as each class (columns)."""
    cells = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def averaged(images: Num[np.ndarray, " c"]) -> Int[np.ndarray, " k"]:
    """Returns the classes that a mean over classes is taken of: those with images.

    With images of one class alone it is all classes, so that the mean is undefined.

    Args:
        images: number of images of each class.
    """
    present = np.flatnonzero(np.asarray(images) > 0)
    return present if len(present) > 1 else np.arange(len(images))


def by_class(confusion: Num[np.ndarray, "*r c c"]) -> dict[str, Float[np.ndarray, "*r c"]]:
    """Returns the scores of each class against the rest.

    precision TP / (TP + FP), recall TP / (TP + FN) (the sensitivity), specificity
    TN / (TN + FP), f1 2 TP / (2 TP + FP + FN); NaN where the denominator is 0.
    """
    confusion = np.asarray(confusion, dtype=float)
    true = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    others = confusion.sum(axis=(-2, -1))[..., None] - actual
    return {
        "precision": ratio(true, predicted),
        "recall": ratio(true, actual),
        "specificity": ratio(others - (predicted - true), others),
        "f1": ratio(2 * true, actual + predicted),
    }


def score(
    name: str,
    confusion: Num[np.ndarray, "*r c c"],
    positive: int,
    among: Int[np.ndarray, " k"] | None = None,
) -> Float[np.ndarray, "*r"]:
    """Returns one score of each confusion matrix.

    Args:
        name: one of `NAMES`. balanced_accuracy is the mean recall of the classes; weighted_f1 the
            mean F1 weighted by the number of images of each class; macro_f1 the plain mean; mcc
            the correlation of labels and predictions (Matthews 1975; for more than two classes
            Gorodkin 2004, Comput Biol Chem 28:367). A mean over classes is undefined if one of its
            terms is.
        confusion: rows true, columns predicted; counts or weights.
        positive: index of the positive class; ignored above two classes.
        among: classes that means over classes are taken of, see `averaged`; None = all.
    """
    confusion = np.asarray(confusion, dtype=float)
    classes = confusion.shape[-1]
    total = confusion.sum(axis=(-2, -1))
    if name == "accuracy":
        return ratio(np.trace(confusion, axis1=-2, axis2=-1), total)
    if name == "mcc":
        actual, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
        true = np.trace(confusion, axis1=-2, axis2=-1)
        covariance = true * total - (actual * predicted).sum(axis=-1)
        spread = (total**2 - (actual**2).sum(axis=-1)) * (total**2 - (predicted**2).sum(axis=-1))
        return ratio(covariance, np.sqrt(np.maximum(spread, 0)))
    scores = by_class(confusion)
    chosen = slice(None) if among is None else among
    if name == "balanced_accuracy":
        return scores["recall"][..., chosen].mean(axis=-1)
    if name == "macro_f1":
        return scores["f1"][..., chosen].mean(axis=-1)
    if name == "weighted_f1":
        actual = confusion.sum(axis=-1)
        # A class without images has weight 0, so its F1 may be undefined.
        return ratio((actual * np.where(actual > 0, scores["f1"], 0)).sum(axis=-1), total)
    return scores[name][..., positive] if classes == 2 else scores[name][..., chosen].mean(axis=-1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient; NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
