"""Prefetches batches to the devices, and plans how many steps each dispatch does."""

import collections
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from leukjax import sharding
from leukjax.data.loader import Batches
from leukjax.training.data_placement import DEVICE_IMAGES, batch_shardings
from leukjax.training.training_data import GivenBatches

# Dispatches whose batches are on the devices ahead of the step: one in use, one being transferred.
AHEAD = 2


class DevicePrefetcher:
    """Iterates over batches on the devices; `waited` counts the seconds that the loop waited."""

    def __init__(
        self,
        batches: Batches | GivenBatches,
        mesh: Mesh,
        start: int,
        stop: int,
        *,
        device_images: UInt8[Array, "n s s 3"] | None = None,
        counts: Iterable[int] | None = None,
    ):
        """Prefetches the batches of the steps from `start` to before `stop`.

        Args:
          batches: of one split.
          mesh: the devices.
          start: first step.
          stop: step before which it ends.
          device_images: of `DataPlacement`: batches then bring indices in place of images.
          counts: number of steps of each dispatch, in turn; the batches of several steps come as
            one, with the steps as first axis. None: one step each.
        """
        self.waited = 0.0
        self._mesh, self._device_images = mesh, device_images
        self._source: Iterator[Any] = batches.iterate(start, stop, images=device_images is None)
        self._counts = iter(itertools.repeat(1) if counts is None else counts)
        self._ready: collections.deque[dict[str, jax.Array]] = collections.deque()

    def __iter__(self) -> "DevicePrefetcher":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        began = time.perf_counter()
        while len(self._ready) < AHEAD:
            count = next(self._counts, 0)
            taken = list(itertools.islice(self._source, count))
            if not taken:
                break
            self._ready.append(self._put(taken[0] if count == 1 else _stack(taken), count))
        self.waited += time.perf_counter() - began
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _put(self, batch: dict[str, np.ndarray], count: int) -> dict[str, jax.Array]:
        if self._device_images is None:  # one step each: several need device images
            return _transfer(batch, batch_shardings(self._mesh, None))
        images: Any = self._device_images
        shardings = batch_shardings(self._mesh, images.sharding, count)
        del shardings[DEVICE_IMAGES]
        return {**_transfer(batch, shardings), DEVICE_IMAGES: images}


def _stack(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _transfer(batch: dict[str, np.ndarray], shardings: Any) -> dict[str, jax.Array]:
    if jax.process_count() == 1:
        return sharding.put(batch, shardings)
    # This transfer is intended; JAX counts it among the implicit ones.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(
                shardings[name] if isinstance(shardings, dict) else shardings, value
            )
            for name, value in batch.items()
        }


def plan_dispatches(
    start: int, stop: int, longest: int, *, every: Sequence[int] = (), at: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
    """Yields (first step, number of steps) of each dispatch from `start` to `stop`.

    A dispatch never runs across a step at which the loop does something else. It does `longest`
    steps if that many are left before the next such step, and one step otherwise: so only two
    functions are compiled.

    Args:
      start: first step.
      stop: step before which the last dispatch ends.
      longest: steps of a long dispatch.
      every: periods of evaluations and checkpoints, counted from step 0.
      at: single steps (the first and the last of a trace).
    """
    step = start
    while step < stop:
        periodic = [period * (step // period + 1) for period in every]
        single = [moment for moment in at if moment > step]
        left = min([stop, *periodic, *single, math.inf]) - step
        count = longest if left >= longest else 1
        yield step, count
        step += count
