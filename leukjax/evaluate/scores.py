"""From predictions to printed scores: the table of several models, and operating points.

`score` is the one function from predictions to scores; it is in `metrics.evaluation`, so that
packages below this one use it too.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leukjax.metrics import thresholds
from leukjax.metrics.evaluation import Evaluation, at_threshold, by_subject, score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import MixedSubjectsError
from leukjax.report.provenance import About
from leukjax.report.tables import Row, score_table
from leukjax.rundir import RunDir

__all__ = ["Evaluation", "OperatingPoint", "about_of", "operating_points", "score", "table"]


def about_of(folder: Path, part: str) -> About:
    """Returns what every table must state, from the summary of a finished run."""
    summary = RunDir(folder).summary()
    return About(
        data=summary["data"],
        part=part,
        classes=tuple(summary["classes"]),
        positive=summary["positive"],
        synthetic=summary["synthetic"],
        leaky=summary["leaky"],
        subjects_known=summary["subjects_known"],
        rare=tuple(summary["rare_classes"]),
        groups=summary["groups"],
    )


def table(evaluations: Mapping[str, Evaluation], about: About, *, markdown: bool) -> str:
    """Returns the table of scores of several models on the same images."""
    rows = [Row(name, e.by_image, e.by_subject) for name, e in evaluations.items()]
    first = next(iter(evaluations.values()))
    return score_table(
        rows, about, **first.counts, no_subjects=first.no_subjects, markdown=markdown
    )


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Scores at a threshold.

    Attributes:
      criterion: that chose the threshold, on validation.
      threshold: of the positive class' probability.
      scores: those that depend on a threshold, with intervals.
    """

    criterion: str
    threshold: float
    scores: dict[str, Interval]

    def as_json(self) -> dict[str, Any]:
        """Returns the fields for a JSON file."""
        return dataclasses.asdict(self)


def operating_points(
    criterion: str, validation: Predictions, predictions: Predictions, positive: str
) -> dict[str, OperatingPoint]:
    """Chooses a threshold on validation and scores other predictions at it.

    Args:
      criterion: see `thresholds.choose`.
      validation: predictions of the same model, or ensemble, with the same views.
      predictions: what is scored.
      positive: class of the threshold; two classes only.

    Returns:
      ``image`` and, where subjects have a class, ``subject``: each with a threshold of its own.
    """
    units = {"image": (validation, predictions)}
    with contextlib.suppress(MixedSubjectsError):
        units["subject"] = (by_subject(validation), by_subject(predictions))
    points = {}
    for unit, (chosen_on, scored) in units.items():
        column = scored.classes.index(positive)
        threshold = thresholds.choose(
            criterion, chosen_on.labels == column, chosen_on.probabilities[:, column]
        )
        scores = at_threshold(scored, positive, threshold)
        points[unit] = OperatingPoint(criterion, threshold, scores)
    return points
