"""Which record stands where in training: a pure function of seed and step, without pixels."""

import threading

import numpy as np
from jaxtyping import Int

from leukjax.data import permutation
from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

SAMPLINGS = ("as_is", "class_balanced", "subject_balanced")
# Places that are permuted at once: half a megabyte, a millisecond or two.
_BLOCK = 1 << 16


class Order:
    """The endless sequence of training batches; no batch crosses an epoch.

    An epoch has n places, as many as there are rows, and the rest that fills no batch is dropped.
    The places are permuted anew in each epoch; what stands at them is decided by `sampling`:

    as_is: each row once.
    class_balanced: each of the C classes n // C times (the first n % C classes once more). A class
      hands out its members one permutation after the other and goes on in the next epoch where it
      stopped, so that over time its members are used equally often.
    subject_balanced: the same with subjects in place of classes.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: Int[np.ndarray, "n"],
        batch_size: int,
        seed: int,
        sampling: str = "as_is",
    ) -> None:
        """Prepares the order of `rows` of the manifest; `seed` in 0..2**32-1.

        Raises:
          UserError: unknown `sampling`.
        """
        if sampling not in SAMPLINGS:
            raise UserError(f"data.sampling: {sampling!r} is none of {', '.join(SAMPLINGS)}")
        self.batches_per_epoch = len(rows) // batch_size
        self._rows = np.asarray(rows, np.int32)
        self._batch_size = batch_size
        self._seed = permutation.seed_of_shuffle(seed)
        self._pools: list[_Pool] = []
        if sampling != "as_is":
            column = manifest.label if sampling == "class_balanced" else manifest.subject
            _, codes = np.unique(column[self._rows], return_inverse=True)
            members = [self._rows[codes == code] for code in range(codes.max() + 1)]
            self._pools = [_Pool(rows, seed, number) for number, rows in enumerate(members)]
        # Readers of neighbouring batches share the table of their epoch, and the permuted places.
        self._lock = threading.Lock()
        self._tables: dict[int, np.ndarray] = {}
        self._blocks: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> Int[np.ndarray, "batch_size"]:
        """Rows of the global batch of this step, int32."""
        epoch, number = divmod(step, self.batches_per_epoch)
        start = number * self._batch_size
        stop = start + self._batch_size
        parts = []
        for block in range(start // _BLOCK, (stop - 1) // _BLOCK + 1):
            first = block * _BLOCK
            parts.append(self._block(epoch, block)[max(start - first, 0) : stop - first])
        return self._table(epoch)[np.concatenate(parts)]

    def _block(self, epoch: int, block: int) -> Int[np.ndarray, "m"]:
        """What the places from `block * _BLOCK` on hold in this epoch."""
        with self._lock:
            if (epoch, block) not in self._blocks:
                # Two at most: batches are read ahead across a border.
                self._blocks = dict(list(self._blocks.items())[-1:])
                n, start = len(self._rows), block * _BLOCK
                seed = (self._seed + epoch) % 2**32
                held = permutation.permuted(start, min(start + _BLOCK, n), n, seed)
                self._blocks[epoch, block] = held
            return self._blocks[epoch, block]

    def _table(self, epoch: int) -> Int[np.ndarray, "n"]:
        """The row at each place of an epoch before the places are permuted."""
        if not self._pools:
            return self._rows
        with self._lock:
            if epoch not in self._tables:
                # Two epochs at most: batches are read ahead across their border.
                self._tables = {e: t for e, t in self._tables.items() if e == epoch - 1}
                table = np.empty_like(self._rows)
                for number, pool in enumerate(self._pools):
                    share = table[number :: len(self._pools)]
                    share[:] = pool.take(epoch * len(share), len(share))
                self._tables[epoch] = table
            return self._tables[epoch]

    def __getstate__(self) -> dict:
        return vars(self) | {"_lock": None}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()


class _Pool:
    """Rows that are handed out without end, one permutation of them after the other.

    The permutations are NumPy's (the stream of a Philox counter, which NumPy keeps stable between
    versions): Grain's take 2 ms an index where there are few rows to permute.
    """

    def __init__(self, rows: np.ndarray, seed: int, number: int) -> None:
        self._rows = rows
        self._key = np.array([seed, number], np.uint64)

    def take(self, start: int, count: int) -> np.ndarray:
        size = len(self._rows)
        first, last = start // size, (start + count - 1) // size
        drawn = np.concatenate([self._permutation(i) for i in range(first, last + 1)])
        return self._rows[drawn[start - first * size :][:count]]

    def _permutation(self, number: int) -> np.ndarray:
        stream = np.random.Philox(key=self._key, counter=np.array([0, 0, 0, number], np.uint64))
        return np.argsort(stream.random_raw(len(self._rows)), kind="stable")
