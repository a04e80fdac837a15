"""Batches as a pure function of seed and step, for any number of processes; Grain reads ahead."""

import errno
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol, TypedDict

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, Int32, UInt8

from leukjax.data.manifest import Manifest
from leukjax.errors import UserError

SAMPLINGS = ("as_is", "class_balanced", "subject_balanced")

_EPOCHS = 2**32  # stream of the permutations of epochs; smaller numbers are pools


def check_fills(batch_size: int, images: int) -> None:
    """Raises UserError if the training images cannot fill a batch."""
    if images < batch_size:
        raise UserError(
            f"train.batch_size: a batch of {batch_size} cannot be filled by the {images} "
            f"training images: use {images} or less"
        )


class BatchFields(TypedDict):
    """The slice of a global batch that one process gets, without images.

    label: int32[b]. mask: bool[b], False on padding. index: int32[b], row of the record.
    """

    label: Int32[np.ndarray, "b"]
    mask: Bool[np.ndarray, "b"]
    index: Int32[np.ndarray, "b"]


class Batch(BatchFields):
    """The slice of a global batch that one process gets; image: uint8[b, S, S, 3]."""

    image: UInt8[np.ndarray, "b s s 3"]


class Images(Protocol):
    """What batches are read from: `records.Records` or `image_store.Decoded`."""

    manifest: Manifest

    def images(self, rows: Int[np.ndarray, "n"], /) -> UInt8[np.ndarray, "n s s 3"]: ...


class Batches:
    """The batches of one split (train, validation, test) of the records.

    Training: steps 0, 1, … without end, in the order of `Order`. Evaluation: the rows as given,
    once; the last batch is padded by repeating the last row, with `mask` False there. Each process
    gets a contiguous slice of the global batch, so that the slices of any number of processes
    concatenate to the same batch.

    Attributes:
      steps_per_epoch: batches per epoch (training) or in total (evaluation).
    """

    def __init__(
        self,
        records: Images,
        rows: Int[np.ndarray, "n"],
        batch_size: int,
        *,
        training: bool,
        seed: int = 0,
        sampling: str = "as_is",
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 8,
        workers: int = 0,
        prefetch: int = 4,
    ) -> None:
        """Sets up the batches; reads nothing.

        Args:
          records: the images and their manifest.
          rows: the records of this split.
          batch_size: images per batch over all processes.
          training: see the class.
          seed: of the training order, 0..2**32-1.
          sampling: training: as_is, class_balanced or subject_balanced.
          process_index: this process, 0..process_count-1.
          process_count: processes that share each batch.
          threads: threads that read (in each worker process, if there are any).
          workers: processes that read; 0 = threads of this process.
          prefetch: batches read ahead.

        Raises:
          UserError: no rows, fewer rows than a training batch, a batch that the processes cannot
            share evenly, unknown sampling.
        """
        rows = np.asarray(rows, np.int32)
        field = "train.batch_size" if training else "train.eval_batch_size"
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"{field}: {batch_size} images per batch cannot be shared evenly by "
                f"{process_count} processes: use a multiple of {process_count}"
            )
        if not len(rows):
            raise UserError("split.protocol: this split holds no image")
        if training:
            check_fills(batch_size, len(rows))
        self._records = records
        self._rows = rows
        self._batch_size = batch_size
        self._order = (
            Order(records.manifest, rows, batch_size, seed, sampling) if training else None
        )
        part = batch_size // process_count
        self._slice = slice(process_index * part, (process_index + 1) * part)
        self._threads, self._workers, self._prefetch = threads, workers, prefetch
        whole, rest = divmod(len(rows), batch_size)
        self.steps_per_epoch = whole if training or not rest else whole + 1

    def indices(self, step: int) -> Int32[np.ndarray, "batch_size"]:
        """Returns the records of the global batch of this step; reads no image.

        Raises:
          IndexError: a negative step, or in evaluation one after the last.
        """
        self._check(step)
        if self._order is not None:
            return self._order.batch(step)
        positions = step * self._batch_size + np.arange(self._batch_size)
        return self._rows[np.minimum(positions, len(self._rows) - 1)]

    def mask(self, step: int) -> Bool[np.ndarray, "batch_size"]:
        """Returns True for each image of the global batch, False for padding."""
        self._check(step)
        if self._order is not None:
            return np.ones(self._batch_size, bool)
        return step * self._batch_size + np.arange(self._batch_size) < len(self._rows)

    def batch(self, step: int) -> Batch:
        """Returns this process's slice of the batch of this step."""
        fields = self.fields(step)
        return {"image": self._records.images(fields["index"]), **fields}

    def fields(self, step: int) -> BatchFields:
        """Returns `batch` without the images."""
        rows = self.indices(step)[self._slice]
        return {
            "label": self._records.manifest.label[rows],
            "mask": self.mask(step)[self._slice],
            "index": rows,
        }

    def iterate(self, start: int, stop: int, *, images: bool = True) -> Iterator[Any]:
        """Yields `batch(start)` … `batch(stop - 1)`, read ahead in threads or worker processes.

        Starting at a late step costs nothing. Close the iterator (or delete it) to stop early.

        Args:
          start: first step.
          stop: step before which it ends.
          images: False yields `fields` instead, in a thread.

        Raises:
          UserError: a worker process died; the cause is most often a /dev/shm that is too small.
        """
        steps = grain.MapDataset.range(start, stop).map(self.batch if images else self.fields)
        # A thread reads a whole batch, so more threads than batches ahead would only wait.
        ahead = max(1, self._prefetch // max(1, self._workers))
        options = grain.ReadOptions(min(self._threads, ahead), ahead)
        dataset = steps.to_iter_dataset(options)
        if self._workers and images:
            _parse_flags()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=ahead),
                worker_init_fn=_die_with_parent,
            )
        iterator = iter(dataset)
        try:
            yield from iterator
        except (RuntimeError, OSError) as error:
            lost = self._lost_worker(error) if self._workers and images else None
            if lost is None:
                raise
            raise lost from error
        finally:
            iterator.close()

    def _lost_worker(self, error: RuntimeError | OSError) -> UserError | None:
        """Returns what to raise if a worker process died, else None.

        Writing beyond the end of /dev/shm raises the signal SIGBUS; a few calls raise an error.
        """
        status = re.search(r"terminated unexpectedly with exit code (-?[0-9]+)", str(error))
        full = isinstance(error, OSError) and (
            error.errno in (errno.ENOSPC, errno.ENOMEM) or "psm_" in str(error)
        )
        if status and int(status[1]) != -signal.SIGBUS:
            return UserError(
                f"data.workers: a worker process ended with status {status[1]}"
                f"{' (killed; out of memory?)' if int(status[1]) == -signal.SIGKILL else ''}. Use "
                "fewer, or read in threads with --config.data.workers=0, and start again"
            )
        if not status and not full:
            return None
        size = self.batch(0)["image"].nbytes
        need = self._workers * (self._prefetch // self._workers + 2) * size
        return UserError(
            f"data.workers: /dev/shm{_shared_memory()} is too small for batches of "
            f"{size / 1e6:,.1f} MB from {self._workers} processes, about {need / 1e6:,.0f} MB in "
            "all. Enlarge it (docker run --shm-size), or read in threads with "
            "--config.data.workers=0, and start again"
        )

    def _check(self, step: int) -> None:
        if step < 0 or (self._order is None and step >= self.steps_per_epoch):
            raise IndexError(f"step {step} of {self.steps_per_epoch}")


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


def _shared_memory() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return " (missing)"
    return f" ({usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free)"


def _parse_flags() -> None:
    """Lets Grain read its flags if no command line was parsed (a notebook, a test)."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["leukjax"])


def _die_with_parent(worker: int, workers: int) -> None:
    """Ends this worker process when its parent ends in any way, SIGKILL and `os._exit` included."""
    del worker, workers
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
