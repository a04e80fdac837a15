"""Predictions as a table: one row an image, the source of every score."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax.errors import UserError
from leukjax.metrics.scores import predicted_class
from leukjax.storage import csv_writer, write_atomic

SUM_TOLERANCE = 1e-3  # of a row's probabilities: three digits are enough
_FIXED = ("id", "subject", "group", "label", "predicted")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model said of the images of one part.

    Attributes:
        classes: names, in the order of the columns of `probabilities`.
        id, subject, group: of each image.
        labels: index of the true class.
        probabilities: a row an image.
    """

    classes: tuple[str, ...]
    id: Shaped[np.ndarray, " n"]
    subject: Shaped[np.ndarray, " n"]
    group: Shaped[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Predictions":
        """These rows, in this order."""
        columns = (self.id, self.subject, self.group, self.labels, self.probabilities)
        return Predictions(self.classes, *(column[rows] for column in columns))

    def write(self, path: Path) -> None:
        """Write ``id, subject, group, label, predicted, p_<class>…``, whole or not at all.

        Numbers have the digits that give them back to the last bit: nine of a float32, up to 17 of
        a float64.
        """
        text = io.StringIO()
        out = csv_writer(text)
        out.writerow([*_FIXED, *(f"p_{name}" for name in self.classes)])
        predicted = predicted_class(self.probabilities)
        exact = self.probabilities.dtype == np.float64
        for row, probabilities in enumerate(self.probabilities):
            out.writerow(
                [
                    self.id[row],
                    self.subject[row],
                    self.group[row],
                    self.classes[self.labels[row]],
                    self.classes[predicted[row]],
                    *(repr(float(v)) if exact else f"{v:.9g}" for v in probabilities),
                ]
            )
        write_atomic(path, text.getvalue())


def read(path: Path, dtype: type = np.float64) -> Predictions:
    """Read what `Predictions.write` wrote, or another tool in the same form.

    Args:
        path: a CSV with a header; more columns and another order of columns are welcome.
        dtype: of the probabilities. float64 gives back what is written; in float32 what is below
            1e-45 becomes 0.

    Raises:
        UserError: no such file, a missing column, or a value that is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as predictions ({why}); make it again") from error
    classes = tuple(name.removeprefix("p_") for name in header if name.startswith("p_"))
    missing = [name for name in _FIXED if name not in header]
    if missing or len(classes) < 2:
        raise UserError(f"{path}: misses the columns {', '.join(missing) or 'p_<class>'}")
    if not rows:
        raise UserError(f"{path}: holds no predictions; make it again")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(row)} values under {len(header)} titles; mend the row"
            )
    try:
        columns = dict(zip(header, np.array(rows, dtype=str).T, strict=True))
        labels = np.array([classes.index(name) for name in columns["label"]], np.int32)
        probabilities = np.stack([columns[f"p_{name}"].astype(dtype) for name in classes], axis=1)
    except ValueError as error:
        raise UserError(f"{path}: {error}; mend the row or make the file again") from error
    return Predictions(
        classes, columns["id"], columns["subject"], columns["group"], labels, probabilities
    )


def read_checked(path: Path) -> Predictions:
    """Read predictions of any tool, sorted by id, probabilities as they are written (float64).

    Raises:
        UserError: as `read`; or an id that occurs twice, or probabilities that are no probabilities
            (a run that diverged writes NaN).
    """
    found = read(path, np.float64)
    ids, probabilities = found.id, found.probabilities
    names, first = np.unique(ids, return_index=True)
    if len(names) < len(ids):
        twice = ids[np.setdiff1d(np.arange(len(ids)), first)[0]]
        raise UserError(f"{path}: id {twice} occurs twice; keep one row an image")
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise UserError(
            f"{path}, line {bad[0] + 2}: a probability of {ids[bad[0]]} is not a finite number"
            f" ({len(bad)} such rows); mend the model or the row"
        )
    off = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1) > SUM_TOLERANCE
    bad = np.flatnonzero(off | (probabilities < 0).any(axis=1))
    if len(bad):
        raise UserError(
            f"{path}, line {bad[0] + 2}: the probabilities of {ids[bad[0]]} are"
            f" {', '.join(f'{p:g}' for p in probabilities[bad[0]])}, which do not sum to 1"
            f" ({len(bad)} such rows); write softmax outputs, not logits"
        )
    order = np.argsort(ids, kind="stable")
    return found.take(order)
