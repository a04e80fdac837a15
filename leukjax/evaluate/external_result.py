"""The result of an external test, and its numbers as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from leukjax.metrics.external import ExternalTest
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.subgroups import Subgroups
from leukjax.predict.external import ExternalPredictions
from leukjax.report.provenance import About

PART = "external test"


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """Probabilities at the temperatures fitted on validation.

    Attributes:
      temperatures: one per run.
      predictions: on the external test.
      scores: values by score, of each set with and without the temperatures.
    """

    temperatures: list[float]
    predictions: Predictions
    scores: dict[str, dict[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Unlike:
    """Images that are unlike the training images.

    Attributes:
      values: out-of-distribution score of each image; above 1 it is unlike.
      images, share: how many are.
    """

    values: Float[np.ndarray, " n"]
    images: int
    share: float


@dataclasses.dataclass(frozen=True)
class Result:
    """An external test.

    Attributes:
      runs: what identifies each run.
      warnings: sentences on the runs that their own scores must state.
      predicted: the predictions.
      test: scores of the class with the largest probability.
      at_threshold: scores at the threshold chosen on validation; None above two classes.
      criterion: of the threshold.
      tta: eight views were averaged.
      calibrated: None where temperatures do not apply.
      unlike: None where the runs cannot tell.
      identical: ids of images that a run was trained on.
      not_compared: why that is not known, else "".
      subgroups: by the attributes of the data set.
    """

    runs: list[dict[str, Any]]
    warnings: list[str]
    predicted: ExternalPredictions
    test: ExternalTest
    at_threshold: ExternalTest | None
    criterion: str
    tta: bool
    calibrated: Calibrated | None
    unlike: Unlike | None
    identical: list[str]
    not_compared: str
    subgroups: Subgroups

    @property
    def about(self) -> About:
        """What tables and figures must state."""
        records = self.predicted.records
        return About(
            records.name,
            PART,
            self.predicted.predictions.classes,
            self.test.positive,
            synthetic=records.synthetic,
            subjects_known=records.subjects_known,
        )


def content(result: Result) -> dict[str, Any]:
    """Returns every number as JSON."""
    test, records = result.test, result.predicted.records
    theirs, matrix = test.confusion
    own_test = test.own_test
    values: dict[str, Any] = {
        "external_test": True,
        "runs": result.runs,
        "tta": result.tta,
        "data": records.name,
        "synthetic": records.synthetic,
        "subjects_known": records.subjects_known,
        "classes": list(test.predictions.classes),
        "positive": test.positive,
        **{name: test.counts[name] for name in ("images", "subjects", "groups", "groups_with")},
        "class_map": dict(result.predicted.ours_of),
        "left_out": dict(test.left_out),
        "absent": list(test.absent),
        **_contrast(test),
        "by_subject": None if test.by_subject is None else _as_json(test.by_subject),
        "own_by_subject": None
        if own_test is None or own_test.by_subject is None
        else _as_json(own_test.by_subject),
        "no_own": test.no_own,
        "own_counts": None if own_test is None else own_test.counts,
        "prevalence": {
            name: {"external": external, "own": of_own}
            for name, (external, of_own) in test.prevalence().items()
        },
        "confusion": {
            "theirs": list(theirs),
            "ours": list(test.predictions.classes),
            "images": matrix.tolist(),
        },
        "identical_to_training": result.identical,
        "not_compared": result.not_compared,
        "subgroups": [
            {**dataclasses.asdict(row), "scores": _as_json(row.scores)}
            for row in result.subgroups.rows
        ],
    }
    if result.at_threshold is not None:
        threshold = {"criterion": result.criterion, "threshold": result.at_threshold.threshold}
        values["at_threshold"] = threshold | _contrast(result.at_threshold)
    if result.calibrated is not None:
        values["calibration"] = {
            "temperatures": result.calibrated.temperatures,
            "scores": result.calibrated.scores,
        }
    if result.unlike is not None:
        values["unlike"] = {"images": result.unlike.images, "share": result.unlike.share}
    return values


def _contrast(test: ExternalTest) -> dict[str, Any]:
    return {
        "by_image": _as_json(test.by_image),
        "own": {} if test.own_test is None else _as_json(test.own_test.by_image),
        "drop": _as_json(test.drop),
        "at_own_prevalence": _as_json(test.at_own_prevalence),
    }


def _as_json(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: dataclasses.asdict(score) for name, score in scores.items()}
