"""Applies functions to many items in threads."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2

_T = TypeVar("_T")
_R = TypeVar("_R")


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
