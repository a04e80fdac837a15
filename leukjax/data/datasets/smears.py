"""Smears: the embedded data set of synthetic cells."""

import hashlib
import threading
from collections import Counter, OrderedDict
from concurrent.futures import Future
from dataclasses import astuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data.dataset import Dataset, names_config_fields
from leukjax.data.source import INFO, Entry, Note
from leukjax.data.synthetic import specimens

_BLOCKS_KEPT = 8


class Smears(Dataset):
    """Synthetic blood cells on black, leukaemic (all) or healthy (hem), drawn by leukjax.

    Cells are drawn in blocks when they are read; the last few blocks are kept, and threads that
    read cells of one block draw it once.
    """

    def __init__(
        self, subjects: int = 60, cells: int = 20, *, seed: int = 0, positive: str = ""
    ) -> None:
        """Lists the cells; none is drawn yet.

        Half of the subjects are of class all ("1", "2", …), half of class hem ("H1", …); ids are
        like "smear_H12_07". Images are 96 px per side.

        Args:
          subjects: number of subjects.
          cells: mean number of cells per subject.
          seed: of the images.
          positive: class of precision, recall and F1; "" = all.

        Raises:
          UserError: `positive` is not a class.
        """
        self._seed, self._cells = seed, cells
        self._blocks: OrderedDict[tuple[int, int], Future] = OrderedDict()
        self._lock = threading.Lock()
        entries = [
            Entry(
                cell_id(index, number),
                "",
                specimens.subject_label(index),
                specimens.subject_name(index),
            )
            for index in range(subjects)
            for number in range(specimens.subject_cells(seed, index, cells))
        ]
        counts = Counter(entry.label for entry in entries)
        per_class = ", ".join(
            f"{counts[label]} {name}" for label, name in enumerate(specimens.CLASSES)
        )
        super().__init__(
            name="smears",
            classes=specimens.CLASSES,
            positive=positive or "all",
            entries=entries,
            notes=[
                Note(
                    INFO,
                    f"smears are SYNTHETIC: {per_class} cells of {subjects} subjects, drawn with "
                    f"seed {seed}; scores on them say nothing about patients",
                )
            ],
            synthetic=True,
            config_fields={
                "data.smears_subjects": subjects,
                "data.smears_cells": cells,
                "data.smears_seed": seed,
                "data.positive": positive,
            },
        )

    def image(self, entry: Entry) -> UInt8[np.ndarray, "h w 3"]:
        index, number = cell_of(entry.id)
        block, position = divmod(number, specimens.BLOCK)
        return self._block(index, block)[position]

    def stat_key(self) -> str:
        digest = hashlib.sha256(repr((specimens.VERSION, specimens.SIZE, self._seed)).encode())
        # The number of cells of a subject follows from `cells`, and so do their pixels.
        digest.update(repr((self._cells, self.classes)).encode())
        for entry in self.entries:
            digest.update(repr(astuple(entry)).encode())
        return digest.hexdigest()

    def _block(self, index: int, block: int) -> UInt8[np.ndarray, "n h w 3"]:
        with self._lock:
            future = self._blocks.get((index, block))
            is_new = future is None
            if future is None:
                future = self._blocks[(index, block)] = Future()
                while len(self._blocks) > _BLOCKS_KEPT:
                    self._blocks.popitem(last=False)
        if is_new:
            try:
                future.set_result(
                    specimens.draw_block(self._seed, index, block, self._cells).images
                )
            except BaseException as error:
                with self._lock:
                    self._blocks.pop((index, block), None)
                future.set_exception(error)
        return future.result()


@names_config_fields
def make(data: ConfigDict) -> Smears:
    """Returns the data set of the `data` section of a config."""
    return Smears(
        data.smears_subjects, data.smears_cells, seed=data.smears_seed, positive=data.positive
    )


def cell_id(index: int, number: int) -> str:
    """Returns the id of a cell of a subject: (23, 7) -> "smear_H12_07"."""
    return f"smear_{specimens.subject_name(index)}_{number:02d}"


def cell_of(id: str) -> tuple[int, int]:
    """Returns the index of the subject and the number of the cell; the inverse of `cell_id`."""
    _, subject, number = id.split("_")
    healthy = subject.startswith("H")
    return 2 * (int(subject.removeprefix("H")) - 1) + healthy, int(number)
