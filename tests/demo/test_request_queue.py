"""The request queue: one thread, batches, limited capacity, and failures of single batches."""

import threading

import pytest

from leukjax.demo.request_queue import RequestQueue


def test_waiting_items_are_processed_in_batches_and_in_order():
    go, batches = threading.Event(), []

    def process(items):
        go.wait(10)
        batches.append((threading.current_thread().name, list(items)))
        return [10 * item for item in items]

    queue = RequestQueue(process, batch_size=3, capacity=9)
    futures = [queue.submit(number) for number in range(8)]
    go.set()
    assert [future.result(10) for future in futures] == [10 * number for number in range(8)]
    queue.close()
    # The first item may be processed before the second is submitted.
    assert [item for _, items in batches for item in items] == list(range(8))
    assert len(batches) <= 4
    assert max(len(items) for _, items in batches) == 3
    assert {name for name, _ in batches} == {"models"}


def test_a_failure_affects_its_batch_only():
    def process(items):
        if "bad" in items:
            raise ValueError("no")
        return items

    queue = RequestQueue(process, batch_size=1, capacity=3)
    bad, good = queue.submit("bad"), queue.submit("good")
    with pytest.raises(ValueError, match="no"):
        bad.result(10)
    assert good.result(10) == "good"
    queue.close()


def test_capacity_is_reserved_completely_or_not_at_all():
    queue = RequestQueue(lambda items: items, batch_size=1, capacity=3)
    assert queue.reserve(2)
    assert not queue.reserve(2)
    assert queue.reserve(1)
    queue.release(3)
    assert queue.reserve(3)
    queue.close()
