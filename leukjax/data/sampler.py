"""The order of the training images: a pure function of seed and step, without pixels."""

import threading

import numpy as np
from jaxtyping import Int

from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

SAMPLINGS = ("as_is", "class_balanced", "subject_balanced")

_EPOCHS = 2**32  # stream of the permutations of epochs; smaller numbers are pools


class Order:
    """The endless sequence of training batches; no batch crosses an epoch.

    An epoch has as many positions as there are rows; the remainder that fills no batch is dropped.
    The positions are permuted in each epoch by a permutation of (seed, epoch); `sampling` decides
    what is permuted:

    as_is: each row once.
    class_balanced: each of the C classes n // C times (the first n % C classes once more). A class
      yields its members one permutation after the other and continues in the next epoch where it
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
            raise UserError(f"data.sampling: {sampling!r} is not one of {', '.join(SAMPLINGS)}")
        self.batches_per_epoch = len(rows) // batch_size
        self._rows = np.asarray(rows, np.int32)
        self._batch_size = batch_size
        self._seed = seed
        self._pools: list[_Pool] = []
        if sampling != "as_is":
            column = manifest.label if sampling == "class_balanced" else manifest.subject
            _, codes = np.unique(column[self._rows], return_inverse=True)
            members = [self._rows[codes == code] for code in range(codes.max() + 1)]
            self._pools = [_Pool(rows, seed, number) for number, rows in enumerate(members)]
        self._lock = threading.Lock()
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> Int[np.ndarray, "batch_size"]:
        """Returns the rows of the global batch of this step, int32."""
        epoch, number = divmod(step, self.batches_per_epoch)
        start = number * self._batch_size
        return self._epoch(epoch)[start : start + self._batch_size]

    def _epoch(self, epoch: int) -> Int[np.ndarray, "n"]:
        """Returns the rows of an epoch in their order."""
        with self._lock:
            if epoch not in self._epochs:
                # Two at most: batches are read ahead across the border of two epochs.
                self._epochs = {e: rows for e, rows in self._epochs.items() if e == epoch - 1}
                order = permutation(len(self._rows), self._seed, _EPOCHS, epoch)
                self._epochs[epoch] = self._rows_of(epoch)[order]
            return self._epochs[epoch]

    def _rows_of(self, epoch: int) -> Int[np.ndarray, "n"]:
        """Returns the rows of an epoch before they are permuted."""
        if not self._pools:
            return self._rows
        rows = np.empty_like(self._rows)
        for number, pool in enumerate(self._pools):
            share = rows[number :: len(self._pools)]
            share[:] = pool.take(epoch * len(share), len(share))
        return rows

    def __getstate__(self) -> dict:
        return vars(self) | {"_lock": None}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()


class _Pool:
    """Rows that are yielded endlessly, one permutation of them after the other."""

    def __init__(self, rows: np.ndarray, seed: int, number: int) -> None:
        self._rows, self._seed, self._number = rows, seed, number

    def take(self, start: int, count: int) -> np.ndarray:
        """Returns the rows at positions start to start + count - 1 of the endless sequence."""
        size = len(self._rows)
        first, last = start // size, (start + count - 1) // size
        orders = [permutation(size, self._seed, self._number, i) for i in range(first, last + 1)]
        return self._rows[np.concatenate(orders)[start - first * size :][:count]]


def permutation(n: int, seed: int, stream: int, number: int) -> Int[np.ndarray, "n"]:
    """Returns permutation `number` of a stream: a pure function of its arguments.

    The order of n numbers of the Philox generator with key (seed, stream) and counter `number`.
    NumPy keeps the generator's raw numbers stable between versions, not its `permutation`.
    """
    key, counter = np.array([seed, stream], np.uint64), np.array([0, 0, 0, number], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(n), kind="stable")
