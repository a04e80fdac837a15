"""Work on many items: in threads, in order, with progress reports."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2
from absl import logging
from tqdm import tqdm

_T = TypeVar("_T")
_R = TypeVar("_R")

_SECONDS_BETWEEN_LINES = 10.0


def map_in_order(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Yields function(item) for each item, in the order of the items.

    At most four items per thread are being processed or waiting, so that a slow consumer does not
    fill the memory. The first exception is raised in place of its result; items that have not been
    started by then are dropped.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="leukjax-map")
    window: deque[Future[_R]] = deque()
    with _single_threaded_opencv:
        try:
            for item in items:
                window.append(pool.submit(function, item))
                if len(window) >= 4 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def progress(items: Iterable[_T], total: int, task: str, unit: str = "images") -> Iterator[_T]:
    """Yields `items` and reports how many of `total` are done, the rate and the time left.

    On a terminal this is a tqdm bar that disappears at the end; elsewhere (a log file, CI) it is a
    line in the log every ten seconds. A final line states the total and the time if it took over a
    second.
    """
    start = last = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()
    with tqdm(total=total, desc=task, unit=f" {unit}", leave=False, disable=not terminal) as bar:
        for item in items:
            yield item
            done += 1
            bar.update()
            now = time.monotonic()
            if not terminal and now - last > _SECONDS_BETWEEN_LINES:
                last = now
                rate = done / (now - start)
                left = (total - done) / rate
                logging.info(
                    "%s: %d of %d %s, %.1f/s, %.0f s left", task, done, total, unit, rate, left
                )
    seconds = time.monotonic() - start
    if seconds > 1:
        logging.info("%s: %d %s in %.1f s, %.1f/s", task, done, unit, seconds, done / seconds)


class _SingleThreadedOpenCV:
    """Switches OpenCV's own threads off while any `map_in_order` runs: they would only compete."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._threads = cv2.getNumThreads()
                cv2.setNumThreads(0)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                cv2.setNumThreads(self._threads)


_single_threaded_opencv = _SingleThreadedOpenCV()
