"""The threshold of abstention against its definition, and against its promise."""

import numpy as np
import pytest

from leukjax.errors import UserError
from leukjax.metrics.selective import answers, threshold


def draw(random: np.random.Generator, groups: int, images: int = 10):
    """Subjects that differ in how hard they are; confidence tells right from wrong to a degree."""
    hard = np.repeat(random.beta(1, 4, groups), images)
    wrong = random.random(groups * images) < hard
    confidence = np.clip(0.75 - 0.15 * wrong + 0.1 * random.normal(size=len(wrong)), 0.5, 1)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    return wrong.astype(int), probabilities, np.repeat(np.arange(groups), images)


def test_a_case_worked_by_hand():
    # Three subjects of two images; the fourth, imagined one is always wrong. At 0.7 the shares of
    # wrong answers are 0, 0 and 1/2: (0.5 + 1) / 4 = 0.375. At 0.6: 0, 1/2, 1/2, so 0.5.
    # The threshold is half-way to the next lower confidence.
    confidence = np.array([0.9, 0.8, 0.8, 0.6, 0.9, 0.7])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels, groups = np.array([0, 0, 0, 1, 0, 1]), np.array(list("aabbcc"))
    found = threshold(labels, probabilities, groups, 0.4)
    assert (found.answered, found.groups) == (5 / 6, 3)
    assert found.confidence == pytest.approx(0.65)
    assert found.wrong == pytest.approx(0.5 / 3)
    assert threshold(labels, probabilities, groups, 0.5).answered == 1.0
    assert threshold(labels, probabilities, groups, 0.3).confidence == pytest.approx(0.75)
    with pytest.raises(UserError, match=r"number alone forbids less than 0\.25"):
        threshold(labels, probabilities, groups, 0.2)


def test_images_of_one_confidence_are_answered_together():
    probabilities = np.tile([0.8, 0.2], (30, 1))
    labels = np.zeros(30, int)
    labels[0] = 1
    groups = np.arange(30)
    assert threshold(labels, probabilities, groups, 0.1).answered == 1.0
    with pytest.raises(UserError, match="no confidence keeps wrong answers"):
        threshold(labels, probabilities, groups, 0.04)


def test_the_promise_holds_for_new_subjects():
    random = np.random.default_rng(0)
    allowed, wrong, answered, naive = 0.1, [], [], []
    for _ in range(300):
        found = threshold(*draw(random, 40), allowed)
        labels, probabilities, _ = draw(random, 40)
        given = probabilities[:, 0] >= found.confidence
        wrong.append((given & (labels == 1)).mean())
        answered.append(given.mean())
        naive.append(labels.mean())
    assert np.mean(wrong) <= allowed
    assert np.mean(answered) > 0.3  # it is no promise kept by silence
    assert np.mean(naive) > 1.5 * allowed  # and without it the promise would be broken


def test_neighbouring_float32_confidences_are_told_apart():
    """Half-way between two neighbours is no float32: a comparison in float32 would round it."""
    high = np.float32(0.9)
    low = np.nextafter(high, np.float32(0))
    confidence = np.array([high, high, low, low], np.float32)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = threshold(np.array([0, 0, 1, 1]), probabilities, np.array(list("abab")), 0.4)
    assert found.answered == 0.5
    assert answers(probabilities, found.confidence).tolist() == [True, True, False, False]
    assert answers(probabilities[1], found.confidence)
    assert not answers(probabilities[2], found.confidence)
    # All answered: the same image, rounded otherwise, still is.
    everything = threshold(np.zeros(4, int), probabilities, np.array(list("abcd")), 0.5)
    assert answers(np.nextafter(probabilities, np.float32(0)), everything.confidence).all()
