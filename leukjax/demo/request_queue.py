"""A bounded queue of requests, processed in batches by one thread."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from absl import logging

Item = TypeVar("Item")
Result = TypeVar("Result")


class RequestQueue(Generic[Item, Result]):
    """Processes items of many callers in batches.

    A caller reserves capacity first, which bounds the queue, and releases it when it has its
    results.
    """

    def __init__(
        self, process: Callable[[Sequence[Item]], Sequence[Result]], batch_size: int, capacity: int
    ) -> None:
        """Starts the thread.

        Args:
          process: returns a result for each of up to `batch_size` items; called in one thread.
          batch_size: largest number of items in a batch.
          capacity: items that may wait or be processed at once.
        """
        self._process, self._batch_size, self._free = process, batch_size, capacity
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    def reserve(self, count: int) -> bool:
        """Reserves capacity for `count` items; returns False, and reserves none, without room."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def release(self, count: int) -> None:
        """Releases reserved capacity."""
        with self._lock:
            self._free += count

    def submit(self, item: Item) -> "Future[Result]":
        """Returns a future of the item's result, or of the exception of its batch."""
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        return future

    def close(self) -> None:
        """Processes what waits, then stops the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._next_batch()
            # A cancelled future has no caller left.
            batch = [pair for pair in batch if pair[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                results = self._process([item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            except Exception as error:  # for each caller of this batch; the next one may succeed
                logging.exception("the models failed")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next_batch(self) -> tuple[list[tuple[Item, "Future[Result]"]], bool]:
        """Returns the waiting items, one to `batch_size`, and False at the signal to stop."""
        batch = []
        entry = self._waiting.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) == self._batch_size:
                return batch, True
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False
