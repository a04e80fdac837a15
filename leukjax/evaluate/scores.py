"""Predictions become scores with intervals: by image, by subject, and at an operating point."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leukjax.metrics import confusion, thresholds
from leukjax.metrics.intervals import Interval, intervals
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import subject_table
from leukjax.report.provenance import About
from leukjax.report.text_tables import Row, score_table
from leukjax.rundir import RunDir


def about_of(folder: Path, part: str) -> About:
    """What every table must say, from the summary of a finished run."""
    summary = RunDir(folder).summary()
    return About(
        data=summary["data"],
        part=part,
        classes=tuple(summary["classes"]),
        positive=summary["positive"],
        synthetic=summary["synthetic"],
        leaky=summary["leaky"],
        subjects_known=summary["subjects_known"],
    )


def by_subject(found: Predictions) -> Predictions | str:
    """A row a subject, the mean probability of its cells; or why there is none."""
    table = subject_table(found.labels, found.probabilities, found.subject, found.group)
    if isinstance(table, str):
        return table
    return Predictions(
        found.classes, table.names, table.names, table.groups, table.labels, table.probabilities
    )


def with_intervals(found: Predictions, positive: str) -> dict[str, Interval]:
    """Every score with its interval over groups."""
    # Above two classes nothing speaks of the positive one.
    positive = positive or found.classes[0]
    return intervals(found.labels, found.probabilities, found.group, found.classes, positive)


def table(found: Mapping[str, Predictions], about: About, *, markdown: bool) -> str:
    """The table of scores of several models on the same images."""
    rows, why = [], ""
    for name, of in found.items():
        subjects = by_subject(of)
        why = subjects if isinstance(subjects, str) else ""
        rows.append(
            Row(
                name,
                with_intervals(of, about.positive),
                None if isinstance(subjects, str) else with_intervals(subjects, about.positive),
            )
        )
    first = next(iter(found.values()))
    held = {
        name: len(np.unique(first.group[first.labels == label]))
        for label, name in enumerate(first.classes)
    }
    return score_table(
        rows,
        about,
        images=len(first),
        subjects=len(np.unique(first.subject)),
        groups=len(np.unique(first.group)),
        groups_with=held,
        no_subjects=why,
        markdown=markdown,
    )


@dataclasses.dataclass(frozen=True)
class Operating:
    """Scores at a threshold.

    Attributes:
      criterion: that chose it, on validation.
      threshold: of the positive class' probability.
      scores: those that a threshold changes, with intervals.
    """

    criterion: str
    threshold: float
    scores: dict[str, Interval]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return dataclasses.asdict(self)


def at_threshold(
    criterion: str, validation: Predictions, found: Predictions, positive: str
) -> Operating:
    """Choose a threshold on validation, and score other predictions at it.

    Args:
      criterion: see `metrics.operating.choose`.
      validation: of the same model, or ensemble, with the same views.
      found: what is scored.
      positive: the class that the threshold is of; two classes only.
    """
    column = found.classes.index(positive)
    threshold = thresholds.choose(
        criterion, validation.labels == column, validation.probabilities[:, column]
    )
    called = thresholds.reached(found.probabilities[:, column], threshold)
    # The scores take the class with the largest probability: the called one gets all of it.
    certain = np.where(np.eye(2, dtype=bool)[column], called[:, None], ~called[:, None])
    decided = dataclasses.replace(found, probabilities=certain.astype(np.float32))
    scores = with_intervals(decided, positive)
    return Operating(criterion, threshold, {name: scores[name] for name in confusion.NAMES})
