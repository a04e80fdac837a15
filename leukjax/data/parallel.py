"""Apply a function in threads, in order, with a bounded number of results in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_in_order(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Yields function(item) for each item, in the items' order.

    At most four items a thread are in work or waiting, so that a slow consumer does not fill the
    memory. The first exception is raised where its result would have been; what was not started by
    then is dropped.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="leukjax-map")
    window: deque[Future[_R]] = deque()
    try:
        for item in items:
            window.append(pool.submit(function, item))
            if len(window) >= 4 * threads:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
