"""A recorded trace of some steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path

import jax
from absl import logging


class Trace:
    """Records steps `first` to before `first + count`; nothing where `count` is 0."""

    def __init__(self, folder: Path, *, first: int, count: int, is_recorder: bool = True):
        """Prepares a trace; `is_recorder` is False for the processes that do not write it."""
        self._folder, self._first, self._last = folder, first, first + count
        self._is_recorder, self._running = is_recorder, False

    @property
    def ends(self) -> tuple[int, ...]:
        """The steps at which it begins and ends: no dispatch may run across them."""
        return (self._first, self._last) if self._last > self._first else ()

    def before(self, step: int, state: object) -> None:
        """Call before each step, and once after the last; the state is waited for at both ends."""
        if self._running and step >= self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
            logging.info("trace of %d steps in %s", self._last - self._first, self._folder)
        elif self._is_recorder and not self._running and self._first <= step < self._last:
            jax.block_until_ready(state)
            # A Perfetto file beside TensorBoard's own, so that neither needs the other.
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True

    def close(self) -> None:
        """End a trace that a stop or an error cut short."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
