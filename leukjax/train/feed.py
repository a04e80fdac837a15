"""How pixels reach the device: the one seam between batches and steps.

Today batches stream from the records, read ahead by Grain. A mode that keeps the whole set in host
or device memory changes this file alone, and gives the same batches.
"""

import collections
import time
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from leukjax.data.batches import Batch, Batches
from leukjax.sharding import batch_sharding

# Batches that lie on the device ahead of the step: one in use, one under way.
AHEAD = 2


class Feed:
    """Batches on the devices, as an iterator; `waited` is the time that the loop stood still."""

    def __init__(self, batches: Batches, mesh: Mesh, start: int, stop: int):
        """Give the batches of the steps from `start` to before `stop`."""
        self.waited = 0.0  # seconds
        self._sharding = batch_sharding(mesh)
        self._source: Iterator[Batch] = batches.iterate(start, stop)
        self._ready: collections.deque[dict[str, jax.Array]] = collections.deque()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        began = time.perf_counter()
        while len(self._ready) < AHEAD:
            batch = next(self._source, None)
            if batch is None:
                break
            self._ready.append(self._put(batch))
        self.waited += time.perf_counter() - began
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _put(self, batch: Batch) -> dict[str, jax.Array]:
        if jax.process_count() == 1:
            return jax.device_put(batch, self._sharding)
        # This is the transfer that is meant; JAX counts it among the implicit ones.
        with jax.transfer_guard_host_to_device("allow"):
            return {
                name: jax.make_array_from_process_local_data(self._sharding, value)
                for name, value in batch.items()
            }
