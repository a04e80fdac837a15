"""Doubtful labels: images whose given label the models, none of which trained on them, contradict.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in
Dataset Labels", equations 1 to 3) with a threshold for each class, averaged over models and seeds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from leukjax.metrics.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class LabelIssues:
    """Images, the most doubtful label first.

    Attributes:
      rows: int[n], rows of the predictions.
      suggested: int[n], the class that the models prefer to the label.
      doubt: float[n], how much they prefer it, in [-2, 2]; above 0 for the suggested class.
      agreement: float[n], share of the models for which the label is an issue.
      is_issue: bool[n], `agreement` is at least one half.
    """

    rows: Int[np.ndarray, " n"]
    suggested: Int[np.ndarray, " n"]
    doubt: Float[np.ndarray, " n"]
    agreement: Float[np.ndarray, " n"]
    is_issue: Bool[np.ndarray, " n"]


def find_label_issues(members: Sequence[Predictions]) -> LabelIssues:
    """Ranks the labels of images by how much models contradict them.

    The threshold of class j is the mean probability of j over the images with label j. For a model,
    the margin of a class is its probability minus its threshold; the doubt of a label is the
    largest margin of another class minus that of the label. A label is an issue for a model if the
    probability of another class reaches its threshold, and is above that of the label.

    Args:
      members: predictions of each model and seed for the same images in the same order; no model
        has trained on an image that it predicts.

    Returns:
      All images, by falling doubt, the mean over the models; ties by id.

    Raises:
      ValueError: there are no members, or they have other images, labels or classes.
    """
    if not members:
        raise ValueError("members: give the predictions of one model at least")
    first = members[0]
    for member in members[1:]:
        same = np.array_equal(member.id, first.id) and np.array_equal(member.labels, first.labels)
        if member.classes != first.classes or not same:
            raise ValueError("members: have other images, labels or classes than the first")
    labels, rows = first.labels, np.arange(len(first))
    margins, votes = [], []
    for member in members:
        probabilities = np.asarray(member.probabilities, np.float64)
        margin = probabilities - _thresholds(probabilities, labels)
        margins.append(margin)
        reaches = (margin >= 0) & (probabilities > probabilities[rows, labels][:, None])
        reaches[rows, labels] = False
        votes.append(reaches.any(axis=1))
    margin = np.mean(margins, axis=0)
    label_margin = margin[rows, labels]
    others = margin.copy()
    others[rows, labels] = -np.inf
    suggested = others.argmax(axis=1)
    doubt, agreement = others.max(axis=1) - label_margin, np.mean(votes, axis=0)
    order = np.lexsort((first.id, -doubt))
    return LabelIssues(
        order, suggested[order], doubt[order], agreement[order], agreement[order] >= 0.5
    )


def _thresholds(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " c"]:
    """The mean probability of each class over its images; infinite for a class without images."""
    classes = probabilities.shape[1]
    return np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else np.inf
            for label in range(classes)
        ]
    )
