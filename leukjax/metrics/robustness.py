"""Scores under distortion: by severity, as drops paired by group, and relative to a reference.

Everything is computed from predictions on the same images, clean and distorted. A drop is the clean
score minus the distorted one; leaving a group out leaves it out of both.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from leukjax.metrics import clustered, comparisons
from leukjax.metrics.intervals import ZERO, Interval, interval, statistic_interval
from leukjax.metrics.leave_one_out import Weights
from leukjax.metrics.predictions import Predictions

SCORES = ("balanced_accuracy", "accuracy", "auroc")
MAIN = "balanced_accuracy"  # of the published benchmark


@dataclasses.dataclass(frozen=True)
class Point:
    """One score at one severity (0 = clean).

    Attributes:
        score: a name of `SCORES`.
        severity: 0 to 5.
        interval: the score with its interval.
        drop: clean minus this score, with its paired interval; 0 without interval at severity 0.
    """

    score: str
    severity: int
    interval: Interval
    drop: Interval


@dataclasses.dataclass(frozen=True)
class Curve:
    """One distortion on one kind of background.

    Attributes:
        distortion, background: their names.
        points: for each score, severities 0 to 5.
        mean_drop: of `MAIN`, over severities 1 to 5, with its paired interval.
    """

    distortion: str
    background: str
    points: dict[str, list[Point]]
    mean_drop: Interval

    def values(self) -> list[float | None]:
        """Returns `MAIN` at severities 0 to 5."""
        return [point.interval.value for point in self.points[MAIN]]


@dataclasses.dataclass(frozen=True)
class Relative:
    """A curve relative to that of a reference model on the same images.

    Attributes:
        error: sum of the errors (1 - balanced accuracy) over severities, divided by the reference's
            (the benchmark's "balanced error"); None if the reference makes no error.
        drop: mean drop divided by the reference's; None if the reference does not drop.
        reason: why a value is None; else empty.
    """

    error: float | None
    drop: float | None
    reason: str = ""


def curve(
    distortion: str,
    background: str,
    clean: Predictions,
    distorted: Mapping[int, Predictions],
    positive: int,
) -> Curve:
    """Returns scores, drops and intervals of one distortion, from its predictions by severity."""
    base = _grouped(clean)
    levels = {
        severity: _grouped(predictions) for severity, predictions in sorted(distorted.items())
    }
    points = {}
    for score in SCORES:
        start = interval(score, base, positive)
        no_drop = Interval(0.0, None, None, "jackknife", start.groups)
        points[score] = [Point(score, 0, start, no_drop if start.value is not None else start)]
        for severity, data in levels.items():
            drop = _drop(score, base, data, positive)
            points[score].append(Point(score, severity, interval(score, data, positive), drop))
    return Curve(distortion, background, points, _mean_drop(base, list(levels.values()), positive))


def relative(curve: Curve, reference: Curve) -> Relative:
    """Returns errors and drops divided by a reference model's (Di Salvo et al. 2024, MedMNIST-C).

    There the reference is a fixed network on another data set, and a clean error of 0 ends the
    evaluation; here it is a model of the same study, and an undefined ratio is None.
    """
    errors = []
    for model in (curve, reference):
        values = model.values()[1:]
        if None in values:
            return Relative(None, None, "balanced accuracy is undefined")
        errors.append(sum(1 - float(value) for value in values if value is not None))
    reasons = []
    error = errors[0] / errors[1] if errors[1] > ZERO else None
    if error is None:
        reasons.append("the reference makes no error at any severity")
    fall, base = curve.mean_drop.value, reference.mean_drop.value
    drop = fall / base if fall is not None and base is not None and base > ZERO else None
    if drop is None:
        reasons.append("the reference does not drop")
    return Relative(error, drop, "; ".join(reasons))


def _grouped(predictions: Predictions) -> clustered.Grouped:
    return clustered.group(predictions.labels, predictions.probabilities, predictions.group)


def _drop(name: str, clean: clustered.Grouped, data: clustered.Grouped, positive: int) -> Interval:
    drop = comparisons.difference(name, clean, data, positive)
    return Interval(drop.difference, drop.low, drop.high, "jackknife", drop.groups, drop.reason)


def _mean_drop(
    clean: clustered.Grouped, levels: Sequence[clustered.Grouped], positive: int
) -> Interval:
    clean_score = clustered.statistic(MAIN, clean, positive)
    level_scores = [clustered.statistic(MAIN, data, positive) for data in levels]

    def drop(weights: Weights) -> np.ndarray:
        return clean_score(weights) - np.mean([score(weights) for score in level_scores], axis=0)

    return statistic_interval(drop, clean, (-1.0, 1.0), ("drop", "score"))[0]
