"""The tables of `leukjax.predict`: one row an image, one row a subject."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from leukjax.metrics.selective import answers
from leukjax.predict.batching import Row
from leukjax.storage import csv_writer, write_atomic

_MAX_PATH = 4_096  # characters in which the subject is searched


class Table:
    """Turns rows into lines of CSV, as they come.

    Columns: path, predicted, p_<class>…; where asked for: abstained, unlikeness and unlike,
    subject; conversions, error; where known without being asked for: unlikeness and unlike.
    docs/predict.md says what they hold.
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
        """Choose the columns.

        Args:
          classes: names, in the order of the probabilities.
          confidence: abstain below it; None = answer always.
          unlikeness: whether the rows hold it.
          subject_pattern: its first group, searched in the path, is the subject; None = no column.
          unlikeness_last: its columns are the last ones; they were added when the others had their
            places.
        """
        self._classes = tuple(classes)
        self._confidence = confidence
        self._unlikeness = unlikeness and not unlikeness_last
        self._unlikeness_last = unlikeness and unlikeness_last
        self._pattern = subject_pattern
        self.subjects = Subjects(classes)

    def header(self) -> bytes:
        """The first line."""
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
        """The line of an image, which is counted for its subject."""
        answer = self.predicted(row)
        cells = [row.path, answer]
        if row.probabilities is None:
            cells += [""] * len(self._classes)
        else:  # nine digits give a float32 back to the last bit
            cells += [f"{value:.9g}" for value in row.probabilities]
        if self._confidence is not None:
            cells.append("" if row.error else _yes(not answer))
        value = row.unlikeness
        flag = ["", ""] if value is None else [f"{value:.4g}", _yes(value > 1)]
        if self._unlikeness:
            cells += flag
        if self._pattern:
            # Names in a zip may be longer than any path; the time of a search is not linear.
            match = self._pattern.search(row.path[:_MAX_PATH])
            subject = (match[1] or "") if match else ""
            cells.append(subject)
            self.subjects.add(subject, row, answer)
        last = flag if self._unlikeness_last else []
        return _line([*cells, ", ".join(row.conversions), row.error, *last])

    def predicted(self, row: Row) -> str:
        """The class with the largest probability; "" for a bad file, and where it abstains."""
        if row.probabilities is None:
            return ""
        if self._confidence is not None and not answers(row.probabilities, self._confidence):
            return ""
        return self._classes[int(row.probabilities.argmax())]


class Subjects:
    """Sums by subject: the mean probability of its images."""

    def __init__(self, classes: Sequence[str]):
        self._classes = tuple(classes)
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, list[int]] = {}  # images, answered, bad

    def add(self, subject: str, row: Row, answer: str) -> None:
        """Count an image; one that abstained counts in the mean, a bad file does not."""
        counts = self._counts.setdefault(subject, [0, 0, 0])
        sums = self._sums.setdefault(subject, np.zeros(len(self._classes)))
        counts[0] += 1
        counts[1] += bool(answer)
        counts[2] += row.probabilities is None
        if row.probabilities is not None:
            sums += row.probabilities

    def write(self, path: Path) -> None:
        """Write ``subject, images, answered, bad, predicted, p_<class>…``, sorted by subject."""
        names = (f"p_{name}" for name in self._classes)
        lines = [_line(["subject", "images", "answered", "bad", "predicted", *names])]
        for subject in sorted(self._sums):
            images, answered, bad = self._counts[subject]
            counts = [str(images), str(answered), str(bad)]
            lines.append(_line([subject, *counts, *self._of(subject, images - bad)]))
        write_atomic(path, b"".join(lines))

    def _of(self, subject: str, good: int) -> list[str]:
        if not good:
            return [""] * (1 + len(self._classes))
        mean: Float32[np.ndarray, " c"] = (self._sums[subject] / good).astype(np.float32)
        return [self._classes[int(mean.argmax())], *(f"{value:.9g}" for value in mean)]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv_writer(text).writerow(cells)
    return text.getvalue().encode()
