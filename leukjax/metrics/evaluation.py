"""Scores of predictions by image and by subject, with confidence intervals.

Run reports, `evaluate`, `crossval`, `compare` and `Predictor.evaluate` use `score`, so that the
same predictions get the same numbers everywhere.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from leukjax.metrics import clustered, confusion, thresholds
from leukjax.metrics.intervals import METHODS, Interval, interval, intervals
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import (
    MixedSubjectsError,
    Scores,
    predicted_class,
    scores,
    subject_table,
)


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of one set of predictions, with 95 % confidence intervals over groups.

    Attributes:
      predictions: the scored predictions, one row per image.
      positive: class of precision, recall, specificity, F1 and AUROC; "" above two classes.
      by_image: every score of `intervals.NAMES`, one row per image.
      by_subject: the same, one row per subject (mean probability of its images); None where
        `no_subjects` says why there are none.
      no_subjects: reason, else "".
      threshold: of the positive class; None = the class with the largest probability is predicted.
        With a threshold the scores of `confusion.NAMES` are taken at it.
      name: of the data, for the title of the table.
      notes: sentences that the table must state, for instance that the data are synthetic.
    """

    predictions: Predictions
    positive: str
    by_image: dict[str, Interval]
    by_subject: dict[str, Interval] | None
    no_subjects: str = ""
    threshold: float | None = None
    name: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def scores(self) -> Scores:
        """All scores without intervals, those of each class and the reasons of undefined ones."""
        p = self.predictions
        return scores(p.labels, p.probabilities, p.classes, self.positive)

    @functools.cached_property
    def by_class(self) -> dict[str, dict[str, Interval]]:
        """Precision, recall, specificity, F1 and AUROC of each class against the rest, by image."""
        return _by_class(self.predictions)

    def without(self, classes: Sequence[str]) -> dict[str, Interval]:
        """Balanced accuracy and macro F1, by image, as means without some classes.

        All images count: one of these classes that is taken for another is an error of the other.

        Returns:
          {} if none of them has images, or fewer than two others have.
        """
        p = self.predictions
        present = np.unique(p.labels).tolist()
        left = [c for c in present if p.classes[c] not in classes]
        if len(left) < 2 or len(left) == len(present):
            return {}
        grouped = clustered.group(p.labels, p.probabilities, p.group, tuple(left))
        return {name: interval(name, grouped, 0) for name in ("balanced_accuracy", "macro_f1")}

    @functools.cached_property
    def counts(self) -> dict[str, Any]:
        """Numbers of images, subjects and groups, and of the groups that hold each class."""
        p = self.predictions
        return {
            "images": len(p),
            "subjects": len(np.unique(p.subject)),
            "groups": len(np.unique(p.group)),
            "groups_with": {
                name: len(np.unique(p.group[p.labels == label]))
                for label, name in enumerate(p.classes)
            },
        }

    def table(self) -> str:
        """The scores as a text table: one row per score, one column per unit."""
        units = {"by image": self.by_image, "by subject": self.by_subject or {}}
        units = {unit: scores for unit, scores in units.items() if scores}
        rows = [["", *units]]
        for name in self.by_image:
            cells = [cell(scores[name]) for scores in units.values()]
            rows.append([name.replace("_", " "), *cells])
        return self._page(rows)

    def _page(self, rows: list[list[str]]) -> str:
        """Title, a table of cells, and notes."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([self._title(), "", *lines, "", *self._notes()])

    def __repr__(self) -> str:
        return self.table()

    def _title(self) -> str:
        images, subjects, groups = (self.counts[k] for k in ("images", "subjects", "groups"))
        name = f"{self.name}: " if self.name else ""
        positive = f"; positive class: {self.positive}" if self.positive else ""
        return f"{name}{images:,} images, {subjects:,} subjects, {groups:,} groups{positive}"

    def _notes(self) -> list[str]:
        units = (self.by_image, self.by_subject or {})
        intervals = [interval for scores in units for interval in scores.values()]
        methods = {interval.method for interval in intervals if interval.low is not None}
        notes = [
            f"* {METHODS[m]}." if m == "exact" else f"95 % intervals over groups: {METHODS[m]}."
            for m in METHODS
            if m in methods
        ]
        if self.threshold is not None:
            notes.insert(0, f"Threshold of {self.positive}: {self.threshold:.4g}.")
        if self.no_subjects:
            notes.append(f"By subject: none; {self.no_subjects}.")
        if absent := [c for c, count in self.counts["groups_with"].items() if not count]:
            notes.append(f"No image of {', '.join(absent)}: means are over the other classes.")
        reasons = dict.fromkeys(interval.reason for interval in intervals if interval.reason)
        return [*self.notes, *notes, *(f"–: {reason}." for reason in reasons)]


def score(
    predictions: Predictions,
    positive: str = "",
    *,
    threshold: float | None = None,
    name: str = "",
    notes: Sequence[str] = (),
    over: Sequence[str] | None = None,
) -> Evaluation:
    """Computes the scores of predictions by image and by subject, with intervals over groups.

    Args:
      predictions: one row per image.
      positive: the positive class; "" = the first of two, none above two classes.
      threshold: predict the positive class where its probability reaches it; two classes only.
      name: of the data, for the title of the table.
      notes: sentences that the table must state.
      over: the classes that means over classes are taken of; None = those with images.

    Raises:
      ValueError: `positive` is not a class, or a threshold is given above two classes.
    """
    classes = predictions.classes
    if len(classes) == 2 and not positive:
        positive = classes[0]
    if positive and positive not in classes:
        raise ValueError(f"unknown class {positive!r}; the classes are {', '.join(classes)}")
    if threshold is not None and len(classes) != 2:
        raise ValueError(f"threshold: needs two classes; these are {', '.join(classes)}")
    averaged = None if over is None else tuple(map(classes.index, over))
    by_image = _intervals(predictions, positive, threshold, averaged)
    subjects, reason = None, ""
    try:
        grouped = by_subject(predictions)
        # Where every image has a subject of its own, the two are the same.
        is_same = len(grouped) == len(predictions)
        subjects = by_image if is_same else _intervals(grouped, positive, threshold, averaged)
    except MixedSubjectsError as error:
        reason = str(error)
    return Evaluation(
        predictions, positive, by_image, subjects, reason, threshold, name, tuple(notes)
    )


def by_subject(predictions: Predictions) -> Predictions:
    """Returns one row per subject with the mean probability of its images.

    Raises:
      MixedSubjectsError: a subject has images of several classes.
    """
    p = predictions
    table = subject_table(p.labels, p.probabilities, p.subject, p.group)
    return Predictions(
        p.classes, table.names, table.names, table.groups, table.labels, table.probabilities
    )


def at_threshold(
    predictions: Predictions,
    positive: str,
    threshold: float,
    over: tuple[int, ...] | None = None,
) -> dict[str, Interval]:
    """Returns the scores of `confusion.NAMES` at a threshold of the positive class."""
    scores = _intervals(decided(predictions, positive, threshold), positive, None, over)
    return {name: scores[name] for name in confusion.NAMES}


def decided(predictions: Predictions, positive: str, threshold: float) -> Predictions:
    """Returns predictions with probabilities of 0 and 1: 1 for the class that is predicted.

    The positive class is predicted where its probability reaches the threshold; two classes only.
    """
    column = predictions.classes.index(positive)
    is_positive = thresholds.reached(predictions.probabilities[:, column], threshold)
    # The scores use the class with the largest probability, so the predicted class gets 1.
    predicted = is_positive[:, None]
    certain = np.where(np.eye(2, dtype=bool)[column], predicted, ~predicted)
    return dataclasses.replace(predictions, probabilities=certain.astype(np.float32))


def _intervals(
    predictions: Predictions,
    positive: str,
    threshold: float | None,
    over: tuple[int, ...] | None,
) -> dict[str, Interval]:
    p = predictions
    # Above two classes no score depends on the positive one.
    first = positive or p.classes[0]
    scores = intervals(p.labels, p.probabilities, p.group, p.classes, first, over)
    if threshold is not None:
        scores |= at_threshold(p, positive, threshold, over)
    return scores


def _by_class(predictions: Predictions) -> dict[str, dict[str, Interval]]:
    grouped = clustered.group(predictions.labels, predictions.probabilities, predictions.group)
    predicted = predicted_class(predictions.probabilities)
    result = {}
    for c, name in enumerate(predictions.classes):
        labels = (predictions.labels == c).astype(int)

        def against_rest(p: np.ndarray, labels: np.ndarray = labels) -> clustered.Grouped:
            both = np.stack([1 - p, p], axis=1)
            return dataclasses.replace(grouped, labels=labels, probabilities=both)

        called = against_rest((predicted == c).astype(float))
        result[name] = {score: interval(score, called, 1) for score in confusion.ONE_CLASS}
        probability = predictions.probabilities[:, c].astype(np.float64)
        result[name]["auroc"] = interval("auroc", against_rest(probability), 1)
    return result


def cell(score: Interval) -> str:
    """Returns a score and its interval as text: "–" for a missing one, * for an exact one."""
    if score.value is None:
        return "–"
    text = f"{score.value:.3f}"
    if score.low is None or score.high is None:
        return f"{text} –"
    star = "*" if score.method == "exact" else ""
    return f"{text} [{score.low:.3f}, {score.high:.3f}]{star}"
