"""One thread asks the models; who waits is gathered into batches, and few enough may wait."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from absl import logging

Q = TypeVar("Q")
A = TypeVar("A")


class Desk(Generic[Q, A]):
    """Takes questions, one or more a caller, and answers them together.

    A caller reserves places first, so that what waits is bounded, and frees them when it has its
    answers.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A]], batch_size: int, places: int
    ) -> None:
        """Open the desk.

        Args:
          answer: gives an answer to each of up to `batch_size` questions; called in one thread.
          batch_size: questions that are answered together at most.
          places: questions that may wait or be under work at once.
        """
        self._answer, self._batch_size, self._free = answer, batch_size, places
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Q, Future[A]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)
        self._thread.start()

    def reserve(self, places: int) -> bool:
        """Take places; False, and none taken, where there are too few."""
        with self._lock:
            if places > self._free:
                return False
            self._free -= places
            return True

    def release(self, places: int) -> None:
        """Give places back."""
        with self._lock:
            self._free += places

    def ask(self, question: Q) -> "Future[A]":
        """The answer, when it is there; its exception, where the models failed."""
        future: Future[A] = Future()
        self._waiting.put((question, future))
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._gather()
            # A future that was cancelled has nobody who waits for it.
            batch = [
                (ask, future) for ask, future in batch if future.set_running_or_notify_cancel()
            ]
            if not batch:
                continue
            try:
                answers = self._answer([question for question, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except Exception as error:  # told to each who waits; the next batch may do
                logging.exception("the models failed")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _gather(self) -> tuple[list[tuple[Q, "Future[A]"]], bool]:
        """What waits, up to a batch: at least one, or the sign to stop."""
        batch = []
        item = self._waiting.get()
        while item is not None:
            batch.append(item)
            if len(batch) == self._batch_size:
                return batch, True
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False
