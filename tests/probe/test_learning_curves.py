"""Learning curves: which subjects are drawn."""

import dataclasses

import numpy as np
import pytest

import leukjax as lj
from leukjax.errors import UserError
from leukjax.probe import curves


@pytest.fixture(scope="module")
def manifest():
    """Ten groups of four images: six of class a, three of b, and one of a and c."""
    labels = np.repeat([0] * 6 + [1] * 3 + [0], 4)
    labels[-1] = 2
    groups = np.repeat([f"g{i}" for i in range(10)], 4)
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    return lj.Arrays(images, labels, groups=groups, classes=("a", "b", "c")).manifest


def test_the_first_subjects_have_every_class(manifest):
    for seed in range(20):
        order = curves.draw(manifest, np.arange(40), seed, 0)
        assert sorted(order) == [f"g{i}" for i in range(10)]
        first = np.isin(manifest.group, order[:3])
        assert set(manifest.label[first]) == {0, 1, 2}


def test_the_drawing_depends_on_seed_and_fold_alone(manifest):
    orders = {
        (seed, fold): tuple(curves.draw(manifest, np.arange(40), seed, fold))
        for seed in range(2)
        for fold in range(2)
    }
    assert len(set(orders.values())) == 4
    assert curves.draw(manifest, np.arange(39, -1, -1), 0, 0) == list(orders[0, 0])
    # Only groups that train are drawn.
    assert set(curves.draw(manifest, np.arange(8), 0, 0)) == {"g0", "g1"}


def test_numbers_of_subjects():
    assert curves.parse(["2", "16", "all", "2"]) == (2, 16, curves.ALL)
    for wrong in ("1", "x", "-2", "2.5", ""):
        with pytest.raises(UserError, match="give numbers from 2 on"):
            curves.parse(["4", wrong])
    curves._check([2, curves.ALL], groups=4, classes=2, fold=0)
    with pytest.raises(UserError, match="--subjects=5: fold 1 trains on 4 groups"):
        curves._check([5], groups=4, classes=2, fold=1)
    with pytest.raises(UserError, match="--subjects=2: there are 3 classes"):
        curves._check([2], groups=4, classes=3, fold=0)


def test_units_can_be_subjects(manifest):
    first = np.arange(0, 40, 4)
    units = dataclasses.replace(manifest.take(first), id=manifest.subject[first])
    assert len(curves.draw(units, np.arange(9), 0, 0)) == 9
