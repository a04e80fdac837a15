"""smears: the embedded data set, drawn and not photographed."""

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data.builder import Builder
from leukjax.data.dataset import Entry, Source, positive_class
from leukjax.data.synthetic import specimens

_BLOCKS_KEPT = 8


@dataclass(kw_only=True)
class Drawing(Source):
    """Cells that are drawn when they are asked for.

    Cells are drawn by the block; the last few blocks are kept, and threads that ask for cells of
    one block draw it once.
    """

    seed: int
    cells: int
    _kept: OrderedDict[tuple[int, int], Future] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def read(self, entry: Entry) -> bytes:
        return self.image(entry).tobytes()

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        index, number = cell_of(entry.id)
        block, place = divmod(number, specimens.BLOCK)
        return self._block(index, block)[place]

    def stat_key(self) -> str:
        digest = hashlib.sha256(repr((specimens.VERSION, specimens.SIZE, self.seed)).encode())
        # The number of cells of a subject follows from `cells`, and so do their pixels.
        digest.update(repr((self.cells, self.classes)).encode())
        for entry in self.entries:
            digest.update(repr(astuple(entry)).encode())
        return digest.hexdigest()

    def _block(self, index: int, block: int) -> UInt8[np.ndarray, "n h w 3"]:
        with self._lock:
            future = self._kept.get((index, block))
            mine = future is None
            if future is None:
                future = self._kept[(index, block)] = Future()
                while len(self._kept) > _BLOCKS_KEPT:
                    self._kept.popitem(last=False)
        if mine:
            try:
                future.set_result(specimens.draw_block(self.seed, index, block, self.cells).images)
            except BaseException as error:
                with self._lock:
                    self._kept.pop((index, block), None)
                future.set_exception(error)
        return future.result()


def source(data: ConfigDict) -> Drawing:
    """Drawn cells of `data.smears_subjects` subjects, `data.smears_cells` each on average.

    Half of the subjects are of class all ("1", "2", …), half of class hem ("H1", …); ids are
    "smear_H12_07"; positive is all. Images are 96 px a side, on black.

    Raises:
      UserError: `data.positive` names no class.
    """
    seed, cells = data.smears_seed, data.smears_cells
    entries = [
        Entry(
            cell_id(index, number),
            "",
            specimens.subject_label(index),
            specimens.subject_name(index),
        )
        for index in range(data.smears_subjects)
        for number in range(specimens.subject_cells(seed, index, cells))
    ]
    counts = ", ".join(
        f"{sum(entry.label == label for entry in entries)} {name}"
        for label, name in enumerate(specimens.CLASSES)
    )
    note = (
        f"smears are SYNTHETIC: {counts} cells of {data.smears_subjects} subjects, drawn with seed "
        f"{seed}; scores on them say nothing about patients"
    )
    return Drawing(
        name="smears",
        classes=specimens.CLASSES,
        positive=positive_class(data.positive, specimens.CLASSES, "all"),
        entries=entries,
        notes=[note],
        synthetic=True,
        seed=seed,
        cells=cells,
    )


def cell_id(index: int, number: int) -> str:
    """Id of a cell of a subject: (23, 7) -> "smear_H12_07"."""
    return f"smear_{specimens.subject_name(index)}_{number:02d}"


def cell_of(id: str) -> tuple[int, int]:
    """Index of the subject and number of the cell of an id: the inverse of `cell_id`."""
    _, subject, number = id.split("_")
    healthy = subject.startswith("H")
    return 2 * (int(subject.removeprefix("H")) - 1) + healthy, int(number)


class Smears(Builder):
    """Synthetic blood cells on black, drawn by leukjax: leukaemic (all) or healthy (hem)."""

    VERSION = tfds.core.Version("1.0.0")

    make_source = staticmethod(source)
