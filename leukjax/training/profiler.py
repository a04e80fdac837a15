"""A recorded trace of some steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path

import jax
from absl import logging


class Trace:
    """Records steps `first` to before `first + count`; records nothing where count is 0."""

    def __init__(self, folder: Path, *, first: int, count: int):
        self._folder, self._first, self._last = folder, first, first + count
        self._running = False

    def before(self, step: int, state: object) -> None:
        """Call before each step, and once after the last; the state is waited for at both ends."""
        if self._running and step >= self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
            logging.info("trace of %d steps in %s", self._last - self._first, self._folder)
        elif not self._running and self._first <= step < self._last:
            jax.block_until_ready(state)
            # A Perfetto file beside TensorBoard's own, so that neither needs the other.
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True

    def close(self) -> None:
        """End a trace that a stop or an error cut short."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
