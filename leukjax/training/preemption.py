"""A request to stop (SIGTERM, Ctrl-C) is answered between two steps, with everything saved.

Of several processes any may get the signal, and all stop at the same step. They agree on it through
the coordinator, in a thread: each publishes how many steps it has done, and all stop at the first
step that none has begun. JAX's preemption service does the same, but holds Python's interpreter
lock while it waits, which stops the heartbeat and the coordinator proxy: in one of ten trials its
processes waited for each other for ever.
"""

import contextlib
import itertools
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from leukjax import distributed
from leukjax.errors import Stopped

_POLL = 0.2  # seconds between two looks at what the others have published
_generations = itertools.count()  # several trainings of one process, in the same order everywhere


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Outside of the training loop, SIGTERM raises `Stopped`: there is nothing to save.

    With several processes `StopRequest` answers, after the first step.
    """
    if os.environ.get(distributed.ENVIRONMENT[0]):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("SIGTERM, when nothing had to be saved; the same command continues")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequest:
    """Catches the signals while it is entered; the second Ctrl-C interrupts at once.

    Of several processes each makes one after `distributed.join`, which catches SIGTERM from then
    on: a signal that comes before the first step is answered after it.
    """

    def __init__(self) -> None:
        self._signal = ""
        self._handlers: list[tuple[int, object]] = []
        self._lock = threading.Lock()  # held while a step is agreed on: none begins meanwhile
        self._queries = 0  # number of `requested`, the same at the same step on every process
        self._stop_at: int | None = None
        if distributed.several():
            self._shared = distributed.SharedValues(f"stop/{next(_generations)}")
            signal.signal(signal.SIGTERM, self._note)
            threading.Thread(target=self._agree, name="stop", daemon=True).start()

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT,) if distributed.several() else (signal.SIGTERM, signal.SIGINT)
        self._handlers = [(number, signal.signal(number, self._note)) for number in numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers:
            signal.signal(number, handler)  # type: ignore[arg-type]

    def requested(self) -> str:
        """The signal that asks to stop now, or ""; all processes call it at the same steps."""
        if not distributed.several():
            return self._signal
        with self._lock:
            self._queries += 1
            is_time = self._stop_at is not None and self._queries >= self._stop_at
        return (self._signal or "SIGTERM") if is_time else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def _agree(self) -> None:
        """Waits for a signal here or elsewhere, then agrees with the others on a step."""
        pause = threading.Event()
        try:
            while not self._signal and not self._shared.read():
                pause.wait(_POLL)
            with self._lock:
                self._shared.write(json.dumps(self._queries))
                while len(done := self._shared.read()) < distributed.process_count():
                    pause.wait(_POLL / 10)
                self._stop_at = 1 + max(map(json.loads, done))
        except Exception as error:  # the coordinator is gone: the watch ends this process
            logging.getLogger("leukjax").debug("stop: %s", error)
