"""Throughput: images per second, share of peak FLOP/s, share of time waiting, time left."""

import contextlib
import time
from collections.abc import Iterator

import jax

from leukjax import runtime


class ThroughputMeter:
    """Times the training steps, without compilation and without the blocks under `paused`."""

    def __init__(
        self, *, batch_size: int, total_steps: int, flops_per_image: float, seconds_before: float
    ):
        """Starts the clock.

        Args:
          batch_size: images per step.
          total_steps: of the run.
          flops_per_image: of a training step, forward and backward.
          seconds_before: of earlier starts of the run, up to the step at which this one begins.
        """
        self._origin = time.perf_counter() - seconds_before
        self._batch, self._total, self._flops = batch_size, total_steps, flops_per_image
        self._devices = jax.device_count()
        self._peak = runtime.peak_flops(jax.devices()[0])
        self._first: tuple[float, int] | None = None  # time and step after the first step
        self._since: tuple[float, int, float] = (0.0, 0, 0.0)  # time, step, seconds waited

    def restart(self, step: int, waited: float) -> None:
        """Restarts the clock; called when a compiled function has run for the first time."""
        now = time.perf_counter()
        self._first = self._first or (now, step)
        self._since = (now, step, waited)

    def read(self, step: int, waited: float) -> dict[str, float]:
        """The fields of a log line since the last read."""
        began, first_step, waited_before = self._since
        seconds, images = time.perf_counter() - began, (step - first_step) * self._batch
        fields = {
            "elapsed": time.perf_counter() - self._origin,
            "peak_memory": float(runtime.peak_memory()),
        }
        if images > 0:
            fields["images_per_second"] = images / seconds
            fields["data_wait"] = (waited - waited_before) / seconds
            if self._peak is not None:
                rate = images * self._flops / seconds / self._devices
                fields["mfu"] = rate / self._peak
        self._since = (time.perf_counter(), step, waited)
        return fields

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out."""
        began = time.perf_counter()
        yield
        start, step, waited = self._since
        self._since = (start + time.perf_counter() - began, step, waited)

    def time_left(self, step: int) -> str:
        """``1:23:45`` at the mean speed since the first step, evaluations included."""
        if self._first is None or step <= self._first[1]:
            return "?"
        began, first = self._first
        seconds = (time.perf_counter() - began) / (step - first) * (self._total - step)
        return duration(seconds)


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``1:23:45``."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
