"""Groups dealt out to parts."""

import numpy as np

from leukjax.data.group_split import best_draw

SHARES = (0.7, 0.15, 0.15)


def draw(counts, seed=0, shares=SHARES):
    return best_draw(np.asarray(counts, float), shares, np.random.default_rng(seed))


def test_equal_groups_get_their_shares():
    parts = draw([[1, 0]] * 20 + [[0, 1]] * 40)
    assert np.bincount(parts[:20]).tolist() == [14, 3, 3]
    assert np.bincount(parts[20:]).tolist() == [28, 6, 6]


def test_every_part_gets_a_group_of_each_class():
    for seed in range(50):
        parts = draw([[5, 0]] * 3 + [[0, 7]] * 3, seed)
        assert sorted(parts[:3]) == sorted(parts[3:]) == [0, 1, 2]


def test_a_huge_group_trains():
    counts = [[1000, 0]] + [[10, 0]] * 19 + [[0, 10]] * 20
    assert all(draw(counts, seed)[0] == 0 for seed in range(50))


def test_images_are_balanced_as_well_as_groups():
    sizes = np.random.default_rng(1).lognormal(4, 1, 60).round() + 1
    counts = np.zeros((60, 2))
    counts[np.arange(60), np.arange(60) % 2] = sizes
    for seed in range(20):
        parts = draw(counts, seed)
        for label in (0, 1):
            share = np.bincount(parts, counts[:, label], 3) / counts[:, label].sum()
            assert np.abs(share - SHARES).max() < 0.02
            groups = np.bincount(parts[counts[:, label] > 0], minlength=3)
            assert np.abs(groups / 30 - SHARES).max() <= 0.05


def test_a_class_that_is_in_no_majority_reaches_every_part():
    counts = [[10, 0, 0]] * 10 + [[0, 10, 0]] * 10 + [[10, 0, 1]] * 4
    for seed in range(50):
        parts = draw(counts, seed)
        assert set(parts[20:].tolist()) == {0, 1, 2}


def test_many_units_are_assigned_at_once():
    counts = np.zeros((60_000, 2))
    counts[np.arange(60_000), np.arange(60_000) % 3 // 2] = 1
    parts = draw(counts)
    for label in (0, 1):
        share = np.bincount(parts, counts[:, label]) / counts[:, label].sum()
        assert np.abs(share - SHARES).max() < 1e-3
