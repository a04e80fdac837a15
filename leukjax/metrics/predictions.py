"""Predictions as a table: one row an image, the source of every score."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from leukjax.errors import UserError
from leukjax.files import write_whole
from leukjax.metrics.scores import predicted_class

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

    def write(self, path: Path) -> None:
        """Write ``id, subject, group, label, predicted, p_<class>…``, whole or not at all.

        Nine digits give a float32 back to the last bit.
        """
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow([*_FIXED, *(f"p_{name}" for name in self.classes)])
        predicted = predicted_class(self.probabilities)
        for row, probabilities in enumerate(self.probabilities):
            out.writerow(
                [
                    self.id[row],
                    self.subject[row],
                    self.group[row],
                    self.classes[self.labels[row]],
                    self.classes[predicted[row]],
                    *(f"{value:.9g}" for value in probabilities),
                ]
            )
        write_whole(path, text.getvalue())


def read(path: Path) -> Predictions:
    """Read what `Predictions.write` wrote; probabilities come as float32.

    Raises:
        UserError: no such file, a missing column, or a value that is none.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as predictions ({error}); train again") from error
    classes = tuple(name.removeprefix("p_") for name in header if name.startswith("p_"))
    missing = [name for name in _FIXED if name not in header]
    if missing or len(classes) < 2:
        raise UserError(f"{path}: misses the columns {', '.join(missing) or 'p_<class>'}")
    try:
        columns = dict(zip(header, np.array(rows, dtype=str).T, strict=True))
        labels = np.array([classes.index(name) for name in columns["label"]], np.int32)
        probabilities = np.stack(
            [columns[f"p_{name}"].astype(np.float32) for name in classes], axis=1
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}; mend the row or train again") from error
    return Predictions(
        classes, columns["id"], columns["subject"], columns["group"], labels, probabilities
    )
