from types import SimpleNamespace

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukjax.data.manifest import Manifest
from leukjax.data.sampler import Order
from leukjax.errors import UserError


def manifest(labels, subjects=None) -> Manifest:
    n = len(labels)
    blank = [""] * n
    names = [f"i{i:06}" for i in range(n)]
    subjects = subjects if subjects is not None else names
    classes = tuple(f"c{i}" for i in range(max(labels) + 1))
    return Manifest(
        classes, names, blank, labels, subjects, subjects, blank, blank, blank, [0] * n, [0.0] * n
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    batch=st.integers(1, 64),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.integers(1, 4),
    data=st.data(),
)
def test_each_epoch_is_a_new_permutation_and_no_batch_crosses_it(n, batch, seed, epochs, data):
    batch = min(batch, n)
    rows = np.array(data.draw(st.permutations(range(n))))
    order = Order(manifest([0] * n), rows, batch, seed)
    assert order.batches_per_epoch == n // batch
    seen = []
    for epoch in range(epochs):
        first = epoch * order.batches_per_epoch
        steps = range(first, first + order.batches_per_epoch)
        drawn = np.concatenate([order.batch(step) for step in steps])
        assert drawn.dtype == np.int32
        assert len(drawn) == n // batch * batch
        assert len(set(drawn.tolist())) == len(drawn)
        seen.append(tuple(drawn))
    if len(seen[0]) > 10:  # 10! orders: two alike would be no chance
        assert len(set(seen)) == epochs


def test_what_is_dropped_differs_between_epochs():
    order = Order(manifest([0] * 10), np.arange(10), 4, 3)
    seen = set(np.concatenate([order.batch(step) for step in range(30)]).tolist())
    assert seen == set(range(10))


def test_seeds_give_unrelated_orders():
    rows = np.arange(50)
    orders = [Order(manifest([0] * 50), rows, 50, seed) for seed in (0, 1, 2)]
    epochs = {tuple(order.batch(step)) for order in orders for step in range(4)}
    assert len(epochs) == 12  # epoch 1 of seed 0 is not epoch 0 of seed 1
    again = Order(manifest([0] * 50), rows, 50, 1)
    np.testing.assert_array_equal(again.batch(3), orders[1].batch(3))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    seed=st.integers(0, 1000),
    epochs=st.integers(1, 5),
)
def test_balanced_epochs_hold_each_class_equally_often(counts, seed, epochs):
    labels = np.repeat(np.arange(len(counts)), counts)
    n, classes = len(labels), len(counts)
    order = Order(manifest(labels.tolist()), np.arange(n), n, seed, "class_balanced")
    total = np.zeros(n, int)
    for epoch in range(epochs):
        drawn = order.batch(epoch)
        assert len(drawn) == n
        per_class = np.bincount(labels[drawn], minlength=classes)
        wanted = np.full(classes, n // classes)
        wanted[: n % classes] += 1
        np.testing.assert_array_equal(per_class, wanted)
        total += np.bincount(drawn, minlength=n)
        for label in range(classes):  # over the epochs too, no member is favoured
            members = total[labels == label]
            assert members.max() - members.min() <= 1


def test_classes_of_one_size_are_not_permuted_alike():
    order = Order(manifest([0] * 30 + [1] * 30), np.arange(60), 60, 0, "class_balanced")
    taken = [order._pools[label].take(0, 30) - 30 * label for label in (0, 1)]
    assert not np.array_equal(*taken)


def test_balanced_by_subject():
    subjects = ["a"] * 30 + ["b"] * 3 + ["c"] * 7
    order = Order(manifest([0] * 40, subjects), np.arange(40), 40, 0, "subject_balanced")
    first, second = order.batch(0), order.batch(1)
    names, counts = np.unique(np.array(subjects)[first], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"a": 14, "b": 13, "c": 13}
    assert not np.array_equal(first, second)
    # The places are permuted together: the subjects are not in turns.
    assert not np.array_equal(np.array(subjects)[first][:3], np.array(["a", "b", "c"]))
    # Of "a", the second epoch begins with those that the first left out.
    assert not set(first[first < 30]) & set(second[second < 30])


def test_balancing_counts_the_rows_of_this_part_only():
    labels = [0] * 50 + [1] * 50
    rows = np.r_[np.arange(10), np.arange(50, 90)]
    order = Order(manifest(labels), rows, 50, 0, "class_balanced")
    drawn = order.batch(0)
    assert set(drawn.tolist()) <= set(rows.tolist())
    assert (drawn < 50).sum() == 25


def test_steps_may_come_in_any_order():
    order = Order(manifest([0, 1] * 10), np.arange(20), 4, 1, "class_balanced")
    forward = [order.batch(step) for step in range(30)]
    again = Order(manifest([0, 1] * 10), np.arange(20), 4, 1, "class_balanced")
    for step in np.random.default_rng(0).permutation(30).tolist():
        np.testing.assert_array_equal(again.batch(step), forward[step])


def test_unknown_sampling_is_named():
    with pytest.raises(UserError, match=r"data\.sampling: 'balanced' is none of as_is"):
        Order(manifest([0]), np.arange(1), 1, 0, "balanced")


def test_the_order_is_grains():
    """What runs of earlier versions had, and what Grain's own pipeline would give."""
    rows, batch = np.random.default_rng(0).permutation(1000), 48
    theirs = grain.MapDataset.source(rows).seed(3).shuffle().batch(batch, drop_remainder=True)
    theirs = theirs.repeat()
    order = Order(manifest([0] * 1000), rows, batch, 3)
    for step in (0, 19, 20, 41, 12345):
        np.testing.assert_array_equal(order.batch(step), theirs[step])


def test_batches_across_the_border_of_a_block():
    n, batch = 140_000, 700  # 65,536 places are permuted at once
    blank = np.zeros(n, int)
    shuffled = grain.MapDataset.range(n).seed(0).shuffle()
    order = Order(SimpleNamespace(label=blank, subject=blank), np.arange(n), batch, 0)
    for step in (93, 0, 187, 199, 200):
        first = step // 200 * n + step % 200 * batch
        wanted = [shuffled[first + place] % n for place in range(0, batch, 33)]
        np.testing.assert_array_equal(order.batch(step)[::33], wanted)
