"""What a model has to beat."""

import numpy as np
import pytest
from trees import cell

from leukjax.data.baselines import baselines
from leukjax.data.manifest import Manifest
from leukjax.data.measure import measure
from leukjax.data.split import make_split


def manifest(area, labels, classes=("all", "hem")):
    names = [f"{k:04d}" for k in range(len(labels))]
    zeros = [0] * len(labels)
    return Manifest(
        classes, names, names, labels, names, names, [""] * len(labels), names, names, zeros, area
    )


def test_larger_class():
    labels = np.array([0] * 60 + [1] * 30)
    m = manifest(np.full(90, 0.2), labels)
    split = make_split(m, "subject", 0)
    larger, _ = baselines(m, split)
    assert larger.name == "larger class"
    assert larger.description == "every image called all"
    for part in ("val", "test"):
        probabilities = larger.probabilities[part]
        assert probabilities.shape == (len(split.rows(part)), 2)
        np.testing.assert_allclose(probabilities, [[2 / 3, 1 / 3]] * len(probabilities))


def test_area_tells_what_area_can_tell():
    random = np.random.default_rng(0)
    labels = np.arange(300) % 2
    m = manifest(0.2 + 0.1 * labels + random.normal(0, 0.01, 300), labels)
    split = make_split(m, "subject", 0)
    _, area = baselines(m, split)
    right = area.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]
    assert right.mean() == 1
    blind = manifest(random.uniform(0.1, 0.3, 300), labels)
    _, area = baselines(blind, split)
    right = area.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]
    assert right.mean() < 0.75


def test_probabilities_of_any_number_of_classes():
    labels = np.arange(120) % 4
    m = manifest(0.1 * labels + 0.05, labels, tuple("abcd"))
    for row in baselines(m, make_split(m, "subject", 0)):
        probabilities = row.probabilities["test"]
        assert probabilities.shape[1] == 4
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_the_test_part_is_not_fitted():
    labels = np.arange(60) % 2
    area = 0.2 + 0.1 * labels
    m = manifest(area, labels)
    split = make_split(m, "subject", 0)
    turned = area.copy()
    turned[split.part == "test"] = 0.5 - turned[split.part == "test"]
    _, straight = baselines(m, split)
    _, crooked = baselines(manifest(turned, labels), split)
    assert (straight.probabilities["test"].argmax(axis=1) == labels[split.rows("test")]).all()
    assert (crooked.probabilities["test"].argmax(axis=1) != labels[split.rows("test")]).all()


@pytest.mark.parametrize(
    ("background", "words"), [("black", "above black"), ("bright", "Otsu's threshold")]
)
def test_the_rule_is_said(background, words):
    labels = np.arange(40) % 2
    area = [measure(cell(k, 40, background), background).area for k in range(40)]
    m = manifest(area, labels)
    _, row = baselines(m, make_split(m, "subject", 0), background)
    assert words in row.description
