import threading
import time

import pytest

from leukjax.data.parallel import map_in_order


def test_results_come_in_order_and_the_window_is_bounded():
    started = []
    lock = threading.Lock()

    def work(item):
        with lock:
            started.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    results = map_in_order(work, range(100), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(started) <= 8
    assert list(results) == [i * i for i in range(1, 100)]


def test_an_error_is_raised_and_the_rest_is_dropped():
    done = []

    def work(item):
        if item == 5:
            raise ValueError("five")
        done.append(item)
        return item

    results = map_in_order(work, range(1000), 2)
    with pytest.raises(ValueError, match="five"):
        list(results)
    assert len(done) < 20
    done.clear()
    with pytest.raises(ValueError, match="five"):
        list(map_in_order(lambda item: time.sleep(0.05) or work(item), range(5, 100), 1))
    assert not {7, 8} & set(done)


def test_nothing_to_do():
    assert list(map_in_order(str, [], 3)) == []
