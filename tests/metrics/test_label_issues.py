"""Doubtful labels: a case worked out by hand, and labels that were changed on purpose."""

import numpy as np
import pytest

from leukjax.metrics.label_issues import find_label_issues
from leukjax.metrics.predictions import Predictions


def predictions(labels, probabilities):
    names = np.array([f"image{n:04d}" for n in range(len(labels))])
    classes = tuple("abcdefg"[: np.shape(probabilities)[1]])
    return Predictions(classes, names, names, names, np.array(labels), np.array(probabilities))


def test_worked_out_by_hand():
    first = predictions([0, 0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    # Thresholds: a (0.9 + 0.2) / 2 = 0.55, b (0.7 + 0.55) / 2 = 0.625.
    issues = find_label_issues([first])
    assert issues.rows.tolist() == [1, 3, 2, 0]
    assert issues.suggested.tolist() == [1, 0, 0, 1]
    # Row 1: (0.8 - 0.625) - (0.2 - 0.55); row 3: (0.45 - 0.55) - (0.55 - 0.625).
    np.testing.assert_allclose(issues.doubt, [0.525, -0.025, -0.325, -0.875])
    assert issues.is_issue.tolist() == [True, False, False, False]
    # The second model is sure of the label of row 1.
    second = predictions([0, 0, 1, 1], [[0.8, 0.2], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    both = find_label_issues([first, second])
    assert both.agreement[both.rows.tolist().index(1)] == 0.5
    # Thresholds of the second: 0.85 and 0.75.
    np.testing.assert_allclose(both.doubt[both.rows.tolist().index(1)], (0.525 + -0.7) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_changed_labels_are_found(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, 1000)
    # A class that the model finds hard: its threshold is lower, and its labels are not all issues.
    sharpness = np.array([6.0, 4.0, 1.5])[true]
    logits = rng.normal(size=(1000, 3)) + sharpness[:, None] * np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    changed = rng.choice(np.flatnonzero(true < 2), 20, replace=False)
    labels = true.copy()
    labels[changed] = (labels[changed] + 1) % 3
    issues = find_label_issues([predictions(labels, probabilities)])
    found = set(issues.rows[:40].tolist()) & set(changed.tolist())
    assert len(found) >= 16
    by_confidence = np.argsort(probabilities[np.arange(1000), labels])[:40]
    assert len(found) >= len(set(by_confidence.tolist()) & set(changed.tolist()))


def test_a_class_without_images_is_never_suggested():
    issues = find_label_issues([predictions([0, 1], [[0.1, 0.1, 0.8], [0.1, 0.6, 0.3]])])
    assert issues.rows.tolist() == [1, 0]
    assert issues.suggested.tolist() == [0, 1]


def test_members_must_agree_in_images_and_labels():
    first = predictions([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    other = predictions([1, 1], [[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match="other images, labels or classes"):
        find_label_issues([first, other])
    with pytest.raises(ValueError, match="members"):
        find_label_issues([])
