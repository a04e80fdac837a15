"""A request to stop (SIGTERM, Ctrl-C) is answered between two steps, with everything saved."""

import itertools
import signal
from types import FrameType

from jax.experimental import multihost_utils

from leukjax import distributed

# The number of queries to JAX's preemption service, which wants every number once and in turn:
# counted for the whole process, and by nothing else (Orbax's queries are off in `checkpoint`).
_queries = itertools.count(1)


class StopRequest:
    """Catches the signals while it is entered; the second Ctrl-C interrupts at once.

    Of several processes any one may get the signal, and all stop at the same step: JAX takes
    SIGTERM itself then, and its processes agree on a step in the background.
    """

    def __init__(self) -> None:
        self._signal: str = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT,) if distributed.several() else (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def requested(self) -> str:
        """The signal that asks to stop now, or ""; all processes ask at the same steps."""
        if distributed.several():
            # Not the step: steps are left out where one dispatch does several.
            reached = multihost_utils.reached_preemption_sync_point(next(_queries))
            return "SIGTERM" if reached else ""
        return self._signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
        if distributed.several():
            signal.raise_signal(signal.SIGTERM)
