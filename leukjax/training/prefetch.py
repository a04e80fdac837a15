"""How pixels reach the device: the one seam between batches and steps.

Batches bring their images, from the records or from host memory, read ahead by Grain; or all pixels
lie on the devices already, and a batch is the places of its images among them. `residence` says
which; the batches are the same.
"""

import collections
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from leukjax import sharding
from leukjax.data.loader import Batches
from leukjax.training.lookup import PIXELS, batch_shardings

# Calls whose batches lie on the device ahead of the step: one in use, one under way.
AHEAD = 2


class Feed:
    """Batches on the devices, as an iterator; `waited` is the time that the loop stood still."""

    def __init__(
        self,
        batches: Batches,
        mesh: Mesh,
        start: int,
        stop: int,
        *,
        pixels: UInt8[Array, "n s s 3"] | None = None,
        counts: Iterable[int] | None = None,
    ):
        """Give the batches of the steps from `start` to before `stop`.

        Args:
          batches: of one part.
          mesh: of the run.
          start: first step.
          stop: step before which it ends.
          pixels: `Residence.pixels`.
          counts: number of steps of each call, in turn; where it is above 1, their batches come as
            one, with the steps as first axis. None = one each.
        """
        self.waited = 0.0  # seconds
        self._mesh, self._pixels = mesh, pixels
        self._source: Iterator[Any] = batches.iterate(start, stop, pixels=pixels is None)
        self._counts = iter(itertools.repeat(1) if counts is None else counts)
        self._ready: collections.deque[dict[str, jax.Array]] = collections.deque()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        began = time.perf_counter()
        while len(self._ready) < AHEAD:
            count = next(self._counts, 0)
            taken = list(itertools.islice(self._source, count))
            if not taken:
                break
            self._ready.append(self._put(taken[0] if count == 1 else _stacked(taken), count))
        self.waited += time.perf_counter() - began
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _put(self, batch: dict[str, np.ndarray], count: int) -> dict[str, jax.Array]:
        if self._pixels is None:
            return _onto(batch, batch_shardings(self._mesh, None))
        places = batch_shardings(self._mesh, self._pixels.sharding, count)  # type: ignore[arg-type]
        del places[PIXELS]
        return {**_onto(batch, places), PIXELS: self._pixels}


def _stacked(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _onto(batch: dict[str, np.ndarray], places: Any) -> dict[str, jax.Array]:
    if jax.process_count() == 1:
        return sharding.put(batch, places)
    # This is the transfer that is meant; JAX counts it among the implicit ones.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(
                places[name] if isinstance(places, dict) else places, value
            )
            for name, value in batch.items()
        }
