"""The files that `leukjax.predict` writes: one row per image, one per subject, a submission."""

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from leukjax.data.datasets.cnmc import CLASSES, OF_LABELS_FILE
from leukjax.errors import UserError
from leukjax.metrics.thresholds import is_confident
from leukjax.predict.batching import Row
from leukjax.storage import csv_writer, open_output, write_atomic

# The challenge's server expects this name in the submitted zip.
SUBMISSION_NAME = "isbi_valid.predict"
_DIGIT = {name: digit for digit, name in OF_LABELS_FILE.items()}

_MAX_PATH = 4_096  # characters in which the subject is searched


class Table:
    """Formats rows as lines of CSV, one by one.

    Columns: path, predicted, p_<class>…; on request: abstained, unlikeness and unlike, subject;
    conversions, error; if available without a request: unlikeness and unlike. docs/howto/predict.md
    describes them.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        confidence: float | None,
        unlikeness: bool,
        subject_pattern: re.Pattern[str] | None,
        unlikeness_last: bool = False,
    ):
        """Chooses the columns.

        Args:
          classes: names, in the order of the probabilities.
          confidence: abstain below it; None = never.
          unlikeness: whether the rows have an out-of-distribution score.
          subject_pattern: its first group, searched in the path, is the subject; None = no column.
          unlikeness_last: put the columns of the out-of-distribution score last, where they were
            added without a request.
        """
        self._classes = tuple(classes)
        self._confidence = confidence
        self._unlikeness = unlikeness and not unlikeness_last
        self._unlikeness_last = unlikeness and unlikeness_last
        self._pattern = subject_pattern
        self.subjects = Subjects(classes)

    def header(self) -> bytes:
        """Returns the first line."""
        return _line(
            [
                "path",
                "predicted",
                *(f"p_{name}" for name in self._classes),
                *(["abstained"] if self._confidence is not None else []),
                *(["unlikeness", "unlike"] if self._unlikeness else []),
                *(["subject"] if self._pattern else []),
                "conversions",
                "error",
                *(["unlikeness", "unlike"] if self._unlikeness_last else []),
            ]
        )

    def line(self, row: Row) -> bytes:
        """Returns the line of an image, and counts it for its subject."""
        predicted = self.predicted(row)
        cells = [row.path, predicted]
        if row.probabilities is None:
            cells += [""] * len(self._classes)
        else:  # nine digits keep every bit of a float32
            cells += [f"{value:.9g}" for value in row.probabilities]
        if self._confidence is not None:
            cells.append("" if row.error else _yes(not predicted))
        value = row.unlikeness
        flag = ["", ""] if value is None else [f"{value:.4g}", _yes(value > 1)]
        if self._unlikeness:
            cells += flag
        if self._pattern:
            # Names in a zip may be longer than any path; the time of a search is not linear.
            match = self._pattern.search(row.path[:_MAX_PATH])
            subject = (match[1] or "") if match else ""
            cells.append(subject)
            self.subjects.add(subject, row, predicted)
        last = flag if self._unlikeness_last else []
        return _line([*cells, ", ".join(row.conversions), row.error, *last])

    def predicted(self, row: Row) -> str:
        """Returns the predicted class; "" for a bad file and below the confidence."""
        if row.probabilities is None:
            return ""
        if self._confidence is not None and not is_confident(row.probabilities, self._confidence):
            return ""
        return self.most_likely(row.probabilities)

    def most_likely(self, probabilities: Float[np.ndarray, " c"]) -> str:
        """Returns the class with the largest probability."""
        return self._classes[int(probabilities.argmax())]


class Subjects:
    """Averages the probabilities of the images of each subject."""

    def __init__(self, classes: Sequence[str]):
        self._classes = tuple(classes)
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, list[int]] = {}  # images, answered, bad

    def add(self, subject: str, row: Row, predicted: str) -> None:
        """Counts an image. One without a class counts in the mean, a bad file does not."""
        counts = self._counts.setdefault(subject, [0, 0, 0])
        sums = self._sums.setdefault(subject, np.zeros(len(self._classes)))
        counts[0] += 1
        counts[1] += bool(predicted)
        counts[2] += row.probabilities is None
        if row.probabilities is not None:
            sums += row.probabilities

    def write(self, path: Path) -> None:
        """Writes ``subject, images, answered, bad, predicted, p_<class>…``, sorted by subject."""
        names = (f"p_{name}" for name in self._classes)
        lines = [_line(["subject", "images", "answered", "bad", "predicted", *names])]
        for subject in sorted(self._sums):
            images, answered, bad = self._counts[subject]
            counts = [str(images), str(answered), str(bad)]
            lines.append(_line([subject, *counts, *self._prediction(subject, images - bad)]))
        write_atomic(path, b"".join(lines))

    def _prediction(self, subject: str, good: int) -> list[str]:
        if not good:
            return [""] * (1 + len(self._classes))
        mean: Float32[np.ndarray, " c"] = (self._sums[subject] / good).astype(np.float32)
        return [self._classes[int(mean.argmax())], *(f"{value:.9g}" for value in mean)]


class Submission:
    """One digit per line, 1 = all and 0 = hem, in the order of the images' numbers.

    A path that ends in .zip gets the zip to submit; any other gets the text.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], names: Iterable[str]):
        """Checks names and classes before any image is predicted.

        Args:
          path: the file to write.
          classes: class names of the model.
          names: of all images, 1.bmp to N.bmp, in any order.

        Raises:
          UserError: other classes, or names that are not those of a test phase.
        """
        if set(classes) != set(CLASSES):
            raise UserError(
                f"--submission={path}: C-NMC has the classes all and hem, the model "
                f"{', '.join(classes)}"
            )
        self._path = path
        self._digits: dict[int, str] = {}
        numbers = sorted(_number(name) for name in names)
        for expected, number in enumerate(numbers, start=1):
            if number != expected:
                what = f"{number}.bmp occurs twice" if number < expected else (
                    f"{expected}.bmp is missing"
                )  # fmt: skip
                raise UserError(f"--submission={path}: {what}; give all images of one test phase")
        self._count = len(numbers)

    def add(self, name: str, predicted: str) -> None:
        """Records the class of an image."""
        self._digits[_number(name)] = _DIGIT[predicted]

    def write(self) -> None:
        """Writes the file.

        Raises:
          UserError: an image has no class, or the file cannot be written.
        """
        for number in range(1, self._count + 1):
            if number not in self._digits:
                raise UserError(
                    f"--submission={self._path}: {number}.bmp has no class; see its row in the "
                    "table; the submission is not written"
                )
        text = "".join(f"{self._digits[number]}\n" for number in sorted(self._digits))
        content = text.encode()
        if self._path.suffix.lower() == ".zip":
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(zipfile.ZipInfo(SUBMISSION_NAME), text)
            content = data.getvalue()
        try:
            with open_output(self._path) as file:
                file.write(content)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"--submission={self._path}: cannot be written ({reason}); choose another"
            ) from error


def _number(name: str) -> int:
    match = re.search(r"(?:^|[/!\\])0*([0-9]{1,9})\.bmp$", name, re.IGNORECASE)
    if match is None:
        raise UserError(
            f"--submission: {name} is not named N.bmp; give the images of one test phase only"
        )
    return int(match[1])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv_writer(text).writerow(cells)
    return text.getvalue().encode()
