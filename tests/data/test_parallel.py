import io
import threading
import time

import pytest
from absl import logging

from leukjax.data import parallel
from leukjax.data.parallel import map_in_order, progress


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(monkeypatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *args: logged.append(text % args))
    return logged


def test_a_log_file_gets_plain_lines(monkeypatch):
    logged = lines(monkeypatch)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(parallel.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(parallel.sys, "stderr", stream := io.StringIO())
    assert list(progress(iter("abcdef"), 6, "preparing")) == list("abcdef")
    assert logged[0] == "preparing: 3 of 6 images, 0.2/s, 12 s left"
    assert logged[-1].startswith("preparing: 6 images in 28.0 s")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    logged = lines(monkeypatch)
    monkeypatch.setattr(parallel.sys, "stderr", stream := Terminal())
    assert list(progress(range(5), 5, "preparing")) == list(range(5))
    assert "preparing" in stream.getvalue()
    assert "5" in stream.getvalue()
    assert logged == []
