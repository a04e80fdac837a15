"""Batches as a pure function of seed and step, for any number of processes, read ahead by Grain."""

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
from leukjax.data.sampler import Order
from leukjax.errors import UserError


def check_fills(batch_size: int, images: int) -> None:
    """Refuse a batch that the training images cannot fill.

    Raises:
      UserError: it says how large a batch may be.
    """
    if images < batch_size:
        raise UserError(
            f"train.batch_size: a batch of {batch_size} cannot be filled by the {images} "
            f"training images: use {images} or less"
        )


class Places(TypedDict):
    """A process' part of a global batch without its pixels.

    label: int32[b]. mask: bool[b], False on padding. index: int32[b], the record's row.
    """

    label: Int32[np.ndarray, "b"]
    mask: Bool[np.ndarray, "b"]
    index: Int32[np.ndarray, "b"]


class Batch(Places):
    """A process' part of a global batch; image: uint8[b, S, S, 3]."""

    image: UInt8[np.ndarray, "b s s 3"]


class Images(Protocol):
    """What batches are read from: `records.Records`, or the same pixels in `decoded.Decoded`."""

    manifest: Manifest

    def images(self, rows: Int[np.ndarray, "n"], /) -> UInt8[np.ndarray, "n s s 3"]: ...


class Batches:
    """The batches of one part (training, validation, test) of the records.

    Training: step 0, 1, … without end, ordered as `order.Order` says. Evaluation: the rows as
    given, once, the last batch padded by repeating the last row, with `mask` False there.
    Each process gets a contiguous slice of the global batch, so that the slices of any number of
    processes, put together, are the same batch.

    Attributes:
      steps_per_epoch: batches in an epoch (training) or in all (evaluation).
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
        """Sets up the batches; nothing is read.

        Args:
          records: the images and their manifest.
          rows: the records of this part.
          batch_size: images a batch over all processes.
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
                f"{field}: {batch_size} images a batch cannot be shared evenly by {process_count} "
                f"processes: use a multiple of {process_count}"
            )
        if not len(rows):
            raise UserError("split.protocol: this part of the data holds no image")
        if training:
            check_fills(batch_size, len(rows))
        self._records = records
        self._rows = rows
        self._batch_size = batch_size
        self._order = (
            Order(records.manifest, rows, batch_size, seed, sampling) if training else None
        )
        part = batch_size // process_count
        self._own = slice(process_index * part, (process_index + 1) * part)
        self._threads, self._workers, self._prefetch = threads, workers, prefetch
        whole, rest = divmod(len(rows), batch_size)
        self.steps_per_epoch = whole if training or not rest else whole + 1

    def indices(self, step: int) -> Int32[np.ndarray, "batch_size"]:
        """Records of the global batch of this step; reads no pixels.

        Raises:
          IndexError: a negative step, or in evaluation one behind the last.
        """
        self._check(step)
        if self._order is not None:
            return self._order.batch(step)
        places = step * self._batch_size + np.arange(self._batch_size)
        return self._rows[np.minimum(places, len(self._rows) - 1)]

    def mask(self, step: int) -> Bool[np.ndarray, "batch_size"]:
        """True for each image of the global batch that counts, False for padding."""
        self._check(step)
        if self._order is not None:
            return np.ones(self._batch_size, bool)
        return step * self._batch_size + np.arange(self._batch_size) < len(self._rows)

    def batch(self, step: int) -> Batch:
        """This process' slice of the batch of this step."""
        places = self.places(step)
        return {"image": self._records.images(places["index"]), **places}

    def places(self, step: int) -> Places:
        """What `batch` gives, without the image."""
        rows = self.indices(step)[self._own]
        return {
            "label": self._records.manifest.label[rows],
            "mask": self.mask(step)[self._own],
            "index": rows,
        }

    def iterate(self, start: int, stop: int, *, pixels: bool = True) -> Iterator[Any]:
        """Yields `batch(start)` … `batch(stop - 1)`, read ahead in threads or worker processes.

        Starting late costs nothing. Close the iterator (or let it go) to stop the reading early.

        Args:
          start: first step.
          stop: step before which it ends.
          pixels: False yields `places` instead, in a thread.

        Raises:
          UserError: a worker process died; the cause is most often a /dev/shm that is too small.
        """
        steps = grain.MapDataset.range(start, stop).map(self.batch if pixels else self.places)
        # A thread reads a whole batch, so more threads than batches ahead would only wait.
        ahead = max(1, self._prefetch // max(1, self._workers))
        options = grain.ReadOptions(min(self._threads, ahead), ahead)
        dataset = steps.to_iter_dataset(options)
        if self._workers and pixels:
            _parse_flags()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=ahead),
                worker_init_fn=_die_with_parent,
            )
        iterator = iter(dataset)
        try:
            yield from iterator
        except (RuntimeError, OSError) as error:
            lost = self._lost_worker(error) if self._workers and pixels else None
            if lost is None:
                raise
            raise lost from error
        finally:
            iterator.close()

    def _lost_worker(self, error: RuntimeError | OSError) -> UserError | None:
        """What to raise if an error is that of a worker process that died, or None.

        A write beyond the end of /dev/shm is a signal, SIGBUS; a few calls say so by an error.
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
            f"data.workers: /dev/shm{_room()} is too small for batches of {size / 1e6:,.1f} MB "
            f"from {self._workers} processes, about {need / 1e6:,.0f} MB in all. Enlarge it "
            "(docker run --shm-size), or read in threads with --config.data.workers=0, and start "
            "again"
        )

    def _check(self, step: int) -> None:
        if step < 0 or (self._order is None and step >= self.steps_per_epoch):
            raise IndexError(f"step {step} of {self.steps_per_epoch}")


def _room() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return " (not there)"
    return f" ({usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB free)"


def _parse_flags() -> None:
    """Lets Grain read its flags where no command line was parsed (a notebook, a test)."""
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
