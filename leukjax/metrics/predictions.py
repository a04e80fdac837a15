"""Predictions as a table with one row per image: the source of every score."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from leukjax import storage
from leukjax.errors import UserError
from leukjax.metrics.scores import predicted_class
from leukjax.storage import csv_writer, write_atomic

SUM_TOLERANCE = 1e-3  # of a row's probabilities: three digits suffice
MAX_BYTES = 2**29  # of a file
MAX_ROWS = 3_000_000
_MAX_CHARACTERS = 2**28  # of a column; NumPy stores every text with the length of the longest
_FIXED = ("id", "subject", "group", "label", "predicted")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a model for the images of one split.

    Attributes:
        classes: names, in the order of the columns of `probabilities`.
        id, subject, group: of each image.
        labels: index of the true class.
        probabilities: one row per image.
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
        """Returns these rows, in this order."""
        columns = (self.id, self.subject, self.group, self.labels, self.probabilities)
        return Predictions(self.classes, *(column[rows] for column in columns))

    def write(self, path: Path, more: Mapping[str, Sequence[str]] | None = None) -> None:
        """Writes ``id, subject, group, label, predicted, p_<class>…`` atomically.

        Numbers have the digits that restore every bit: nine for a float32, up to 17 for a float64.

        Args:
            path: the file.
            more: further columns, at the end.
        """
        more = more or {}
        text = io.StringIO()
        out = csv_writer(text)
        out.writerow([*_FIXED, *(f"p_{name}" for name in self.classes), *more])
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
                    *(column[row] for column in more.values()),
                ]
            )
        write_atomic(path, text.getvalue())


def read(path: Path, dtype: type = np.float64) -> Predictions:
    """Reads a file of `Predictions.write`, or of another tool in the same format.

    Args:
        path: a CSV file with a header; additional columns and another order are allowed.
        dtype: of the probabilities. float64 restores what was written; in float32 numbers below
            1e-45 become 0.

    Raises:
        UserError: no such file, a missing column, or an invalid value.
    """
    try:
        reader = csv.reader(io.StringIO(storage.read_text(path, MAX_BYTES), newline=""))
        header, *rows = itertools.islice(reader, MAX_ROWS + 2)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read as predictions ({reason}); write it again"
        ) from error
    classes = tuple(name.removeprefix("p_") for name in header if name.startswith("p_"))
    missing = [name for name in _FIXED if name not in header]
    if missing or len(classes) < 2:
        raise UserError(f"{path}: lacks the columns {', '.join(missing) or 'p_<class>'}")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have the same name; write it again")
    if not rows:
        raise UserError(f"{path}: contains no predictions; write it again")
    if len(rows) > MAX_ROWS:
        raise UserError(f"{path}: has more than {MAX_ROWS:,} rows; split it")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(row)} values for {len(header)} columns; "
                "correct the row"
            )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    try:
        class_labels = {name: label for label, name in enumerate(classes)}
        labels = np.array([_label(name, class_labels) for name in columns["label"]], np.int32)
        numbers = [list(map(float, columns[f"p_{name}"])) for name in classes]
        probabilities: np.ndarray = np.array(numbers, dtype).T.copy()
        names, subjects, groups = (_texts(columns[name]) for name in ("id", "subject", "group"))
    except ValueError as error:
        raise UserError(f"{path}: {error}; correct the row or write the file again") from error
    return Predictions(classes, names, subjects, groups, labels, probabilities)


def _label(name: str, labels: Mapping[str, int]) -> int:
    if name not in labels:
        raise ValueError(
            f"the label {name[:100]!r} is not in the classes {', '.join(labels)}"[:300]
        )
    return labels[name]


def _texts(values: Sequence[str]) -> np.ndarray:
    longest = max(map(len, values))
    if longest * len(values) > _MAX_CHARACTERS:
        raise ValueError(f"a text has {longest:,} characters, too many for {len(values):,} rows")
    return np.array(values, dtype=str)


def mean(members: Sequence[Float[np.ndarray, "n c"]]) -> Float[np.ndarray, "n c"]:
    """Returns the mean probability of an ensemble in float64.

    Every command uses this function, so that they agree to the last bit.
    """
    return np.mean([np.asarray(member, np.float64) for member in members], axis=0)


def read_checked(path: Path) -> Predictions:
    """Reads predictions of any tool, sorted by id, with the probabilities as written (float64).

    Raises:
        UserError: as `read`; or an id occurs twice, or a row is not a distribution (a diverged run
            writes NaN).
    """
    predictions = read(path, np.float64)
    check(path, predictions)
    return predictions.take(np.argsort(predictions.id, kind="stable"))


def check(path: Path, predictions: Predictions) -> None:
    """Checks predictions read from a file.

    Raises:
        UserError: an id occurs twice, or a row of probabilities is not a distribution.
    """
    ids, probabilities = predictions.id, predictions.probabilities
    names, first = np.unique(ids, return_index=True)
    if len(names) < len(ids):
        twice = ids[np.setdiff1d(np.arange(len(ids)), first)[0]]
        raise UserError(f"{path}: id {twice} occurs twice; keep one row per image")
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise UserError(
            f"{path}, line {bad[0] + 2}: a probability of {ids[bad[0]]} is not a finite number"
            f" ({len(bad)} such rows); correct the model or the row"
        )
    off = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1) > SUM_TOLERANCE
    bad = np.flatnonzero(off | (probabilities < 0).any(axis=1))
    if len(bad):
        raise UserError(
            f"{path}, line {bad[0] + 2}: the probabilities of {ids[bad[0]]} are"
            f" {', '.join(f'{p:g}' for p in probabilities[bad[0]])}, which do not sum to 1"
            f" ({len(bad)} such rows); write softmax outputs, not logits"
        )
