import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukjax.data.loader import Order, permutation
from leukjax.data.manifest import Manifest
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
        rows_of_epoch = np.concatenate([order.batch(step) for step in steps])
        assert rows_of_epoch.dtype == np.int32
        assert len(rows_of_epoch) == n // batch * batch
        assert len(set(rows_of_epoch.tolist())) == len(rows_of_epoch)
        seen.append(tuple(rows_of_epoch))
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
        rows_of_epoch = order.batch(epoch)
        assert len(rows_of_epoch) == n
        per_class = np.bincount(labels[rows_of_epoch], minlength=classes)
        wanted = np.full(classes, n // classes)
        wanted[: n % classes] += 1
        np.testing.assert_array_equal(per_class, wanted)
        total += np.bincount(rows_of_epoch, minlength=n)
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
    # All positions are permuted together: the subjects do not alternate.
    assert not np.array_equal(np.array(subjects)[first][:3], np.array(["a", "b", "c"]))
    # Of "a", the second epoch begins with those that the first left out.
    assert not set(first[first < 30]) & set(second[second < 30])


def test_balancing_counts_the_rows_of_this_part_only():
    labels = [0] * 50 + [1] * 50
    rows = np.r_[np.arange(10), np.arange(50, 90)]
    order = Order(manifest(labels), rows, 50, 0, "class_balanced")
    rows_of_epoch = order.batch(0)
    assert set(rows_of_epoch.tolist()) <= set(rows.tolist())
    assert (rows_of_epoch < 50).sum() == 25


def test_steps_may_come_in_any_order():
    order = Order(manifest([0, 1] * 10), np.arange(20), 4, 1, "class_balanced")
    forward = [order.batch(step) for step in range(30)]
    again = Order(manifest([0, 1] * 10), np.arange(20), 4, 1, "class_balanced")
    for step in np.random.default_rng(0).permutation(30).tolist():
        np.testing.assert_array_equal(again.batch(step), forward[step])


def test_unknown_sampling_is_named():
    with pytest.raises(UserError, match=r"data\.sampling: 'balanced' is not one of as_is"):
        Order(manifest([0]), np.arange(1), 1, 0, "balanced")


GOLDEN = [[0, 1, 4, 2, 3, 5, 6, 7], [4, 7, 1, 6, 2, 0, 5, 3]]


def test_the_order_is_the_documented_one():
    """An argsort of Philox' raw numbers: a change of these values changes every training."""
    order = Order(manifest([0] * 8), np.arange(8), 8, 3)
    assert [order.batch(epoch).tolist() for epoch in (0, 1)] == GOLDEN
    stream = np.random.Philox(
        key=np.array([3, 2**32], np.uint64), counter=np.array([0, 0, 0, 1], np.uint64)
    )
    np.testing.assert_array_equal(order.batch(1), np.argsort(stream.random_raw(8)))


def test_every_position_is_equally_likely():
    counts = np.zeros((5, 5), int)
    for number in range(4000):
        counts[np.arange(5), permutation(5, 0, 7, number)] += 1
    assert abs(counts - 800).max() < 120  # 4.7 standard deviations


def test_a_pickled_order_continues():
    order = Order(manifest([0, 1] * 10), np.arange(20), 4, 1, "class_balanced")
    order.batch(3)
    again = pickle.loads(pickle.dumps(order))
    for step in (0, 3, 17):
        np.testing.assert_array_equal(again.batch(step), order.batch(step))
