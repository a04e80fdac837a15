"""Thresholds on a case worked out by hand, and against scikit-learn's ROC curve."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from leukjax.errors import UserError
from leukjax.metrics.thresholds import check, choose, describe, reached

TRUTH = np.array([0, 0, 0, 1, 0, 1, 1, 1]).astype(bool)
PROBABILITY = np.array([0.1, 0.2, 0.3, 0.35, 0.6, 0.7, 0.8, 0.9], np.float32)


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [
        ("0.4", 0.4),
        ("sensitivity=1", 0.325),  # all four positives, three of four negatives right
        ("sensitivity=0.75", 0.65),
        ("specificity=1", 0.65),
        ("specificity=0.75", 0.325),
        # 1 + 3/4 - 1 at 0.325, and 3/4 + 1 - 1 at 0.65: the nearer to one half.
        ("youden", 0.65),
    ],
)
def test_by_hand(criterion, threshold):
    assert choose(criterion, TRUTH, PROBABILITY) == pytest.approx(threshold, abs=1e-7)


def test_youden_is_the_best_of_the_roc_curve():
    random = np.random.default_rng(3)
    truth = random.random(500) < 0.3
    probability = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0, 1).round(2)  # with ties
    false, true, _ = roc_curve(truth, probability, drop_intermediate=False)
    called = probability >= choose("youden", truth, probability)
    assert called[truth].mean() - called[~truth].mean() == pytest.approx((true - false).max())
    called = probability >= choose("sensitivity=0.9", truth, probability)
    assert called[truth].mean() >= 0.9
    assert called[~truth].mean() == pytest.approx(false[true >= 0.9].min())


@pytest.mark.parametrize(
    "criterion", ["", "yuden", "youden=1", "sensitivity", "specificity=0", "sensitivity=2", "1.5",
                  "nan", "sensitivity=x"]
)  # fmt: skip
def test_refusals(criterion):
    with pytest.raises(UserError, match="must be youden, sensitivity=X"):
        check(criterion)


def test_one_class_only():
    with pytest.raises(UserError, match="validation holds one class only"):
        choose("youden", np.ones(8, bool), PROBABILITY)
    assert choose("0.5", np.ones(8, bool), PROBABILITY) == 0.5
    assert (
        describe("sensitivity=0.95") == "largest with a sensitivity of at least 0.95 on validation"
    )


@pytest.mark.parametrize("criterion", ["specificity=1", "youden"])
def test_neighbouring_float32_probabilities_are_told_apart(criterion):
    """Half-way between two neighbours is no float32: specificity 1 became 0.667."""
    negative = np.float32(0.7)
    positive = np.nextafter(negative, np.float32(1))
    if np.float32((np.float64(negative) + np.float64(positive)) / 2) == positive:
        positive, negative = np.nextafter(positive, np.float32(1)), positive  # rounds to even
    probability = np.array([0.1, 0.2, negative, positive, 0.8, 0.9], np.float32)
    truth = np.array([0, 0, 0, 1, 1, 1], bool)
    called = reached(probability, choose(criterion, truth, probability))
    assert called.tolist() == truth.tolist()
