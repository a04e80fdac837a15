"""Thresholds against cases worked by hand, scikit-learn's ROC curve and the error bound."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from leukjax.errors import UserError
from leukjax.metrics.thresholds import (
    check,
    choose,
    choose_confidence,
    describe,
    is_confident,
    reached,
)

TRUTH = np.array([0, 0, 0, 1, 0, 1, 1, 1]).astype(bool)
PROBABILITY = np.array([0.1, 0.2, 0.3, 0.35, 0.6, 0.7, 0.8, 0.9], np.float32)


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [
        ("0.4", 0.4),
        ("sensitivity=1", 0.325),  # all four positives, three of four negatives correct
        ("sensitivity=0.75", 0.65),
        ("specificity=1", 0.65),
        ("specificity=0.75", 0.325),
        # 1 + 3/4 - 1 at 0.325, and 3/4 + 1 - 1 at 0.65: the nearer to one half.
        ("youden", 0.65),
    ],
)
def test_worked_by_hand(criterion, threshold):
    assert choose(criterion, TRUTH, PROBABILITY) == pytest.approx(threshold, abs=1e-7)


def test_youden_is_the_best_point_of_the_roc_curve():
    random = np.random.default_rng(3)
    truth = random.random(500) < 0.3
    probability = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0, 1).round(2)  # with ties
    false, true, _ = roc_curve(truth, probability, drop_intermediate=False)
    predicted = probability >= choose("youden", truth, probability)
    assert predicted[truth].mean() - predicted[~truth].mean() == pytest.approx((true - false).max())
    predicted = probability >= choose("sensitivity=0.9", truth, probability)
    assert predicted[truth].mean() >= 0.9
    assert predicted[~truth].mean() == pytest.approx(false[true >= 0.9].min())


@pytest.mark.parametrize(
    "criterion", ["", "yuden", "youden=1", "sensitivity", "specificity=0", "sensitivity=2", "1.5",
                  "nan", "sensitivity=x"]
)  # fmt: skip
def test_invalid_criteria(criterion):
    with pytest.raises(UserError, match="must be youden, sensitivity=X"):
        check(criterion)


def test_one_class_only():
    with pytest.raises(UserError, match="the validation split has only one class"):
        choose("youden", np.ones(8, bool), PROBABILITY)
    assert choose("0.5", np.ones(8, bool), PROBABILITY) == 0.5
    assert (
        describe("sensitivity=0.95") == "largest with a sensitivity of at least 0.95 on validation"
    )


@pytest.mark.parametrize("criterion", ["specificity=1", "youden"])
def test_neighbouring_float32_probabilities_are_separated(criterion):
    """Half-way between two neighbours is no float32: specificity 1 became 0.667."""
    negative = np.float32(0.7)
    positive = np.nextafter(negative, np.float32(1))
    if np.float32((np.float64(negative) + np.float64(positive)) / 2) == positive:
        positive, negative = np.nextafter(positive, np.float32(1)), positive  # rounds to even
    probability = np.array([0.1, 0.2, negative, positive, 0.8, 0.9], np.float32)
    truth = np.array([0, 0, 0, 1, 1, 1], bool)
    predicted = reached(probability, choose(criterion, truth, probability))
    assert predicted.tolist() == truth.tolist()


def draw(random: np.random.Generator, groups: int, images: int = 10):
    """Subjects of different difficulty; the confidence separates right from wrong in part."""
    hard = np.repeat(random.beta(1, 4, groups), images)
    wrong = random.random(groups * images) < hard
    confidence = np.clip(0.75 - 0.15 * wrong + 0.1 * random.normal(size=len(wrong)), 0.5, 1)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    return wrong.astype(int), probabilities, np.repeat(np.arange(groups), images)


def test_confidence_worked_by_hand():
    # Three subjects of two images; a fourth, imaginary one is always wrong. At 0.7 the shares of
    # wrong predictions are 0, 0 and 1/2: (0.5 + 1) / 4 = 0.375. At 0.6: 0, 1/2, 1/2, so 0.5.
    # The threshold is half-way to the next lower confidence.
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.9, 0.7])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels, groups = np.array([0, 0, 0, 1, 0, 1]), np.array(list("aabbcc"))
    result = choose_confidence(labels, probabilities, groups, 0.4)
    assert (result.answered, result.groups) == (5 / 6, 3)
    assert result.confidence == pytest.approx(0.65)
    assert result.wrong == pytest.approx(0.5 / 3)
    assert choose_confidence(labels, probabilities, groups, 0.5).answered == 1.0
    assert choose_confidence(labels, probabilities, groups, 0.3).confidence == pytest.approx(0.75)
    with pytest.raises(UserError, match=r"lowest possible share is 0\.25"):
        choose_confidence(labels, probabilities, groups, 0.2)


def test_images_of_equal_confidence_are_on_the_same_side():
    probabilities = np.tile([0.8, 0.2], (30, 1))
    labels = np.zeros(30, int)
    labels[0] = 1
    groups = np.arange(30)
    assert choose_confidence(labels, probabilities, groups, 0.1).answered == 1.0
    with pytest.raises(UserError, match="no confidence threshold keeps"):
        choose_confidence(labels, probabilities, groups, 0.04)


def test_the_error_bound_holds_for_new_subjects():
    random = np.random.default_rng(0)
    allowed, wrong, answered, naive = 0.1, [], [], []
    for _ in range(300):
        result = choose_confidence(*draw(random, 40), allowed)
        labels, probabilities, _ = draw(random, 40)
        confident = probabilities[:, 0] >= result.confidence
        wrong.append((confident & (labels == 1)).mean())
        answered.append(confident.mean())
        naive.append(labels.mean())
    assert np.mean(wrong) <= allowed
    assert np.mean(answered) > 0.3  # not by abstaining from everything
    assert np.mean(naive) > 1.5 * allowed  # without abstention the bound is broken


def test_neighbouring_float32_confidences_are_separated():
    """Half-way between two neighbours is no float32: a comparison in float32 would round it."""
    high = np.float32(0.9)
    low = np.nextafter(high, np.float32(0))
    confidence = np.array([high, high, low, low], np.float32)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    result = choose_confidence(np.array([0, 0, 1, 1]), probabilities, np.array(list("abab")), 0.4)
    assert result.answered == 0.5
    assert is_confident(probabilities, result.confidence).tolist() == [True, True, False, False]
    assert is_confident(probabilities[1], result.confidence)
    assert not is_confident(probabilities[2], result.confidence)
    # All images are confident, also when rounded in another way.
    everything = choose_confidence(np.zeros(4, int), probabilities, np.array(list("abcd")), 0.5)
    assert is_confident(np.nextafter(probabilities, np.float32(0)), everything.confidence).all()
