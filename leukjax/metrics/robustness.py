"""What distortion costs: scores by severity, drops paired by group, and drops next to a reference.

Everything is computed from predictions on the same images, distorted and not. A drop is the clean
score less the distorted one, so that harm is positive; leaving a group out leaves it out of both.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from leukjax.metrics import clustered, comparisons
from leukjax.metrics.intervals import Interval, interval
from leukjax.metrics.jackknife import ZERO, Estimate, NoIntervalError, bounds, jackknife
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
        drop: clean less this, with its paired interval; 0 without interval at severity 0.
    """

    score: str
    severity: int
    interval: Interval
    drop: Interval


@dataclasses.dataclass(frozen=True)
class Curve:
    """One distortion on one kind of background.

    Attributes:
        distortion, background: which.
        points: for each score, severities 0 to 5.
        mean_drop: of `MAIN`, over severities 1 to 5, with its paired interval.
    """

    distortion: str
    background: str
    points: dict[str, list[Point]]
    mean_drop: Interval

    def values(self) -> list[float | None]:
        """`MAIN` at severities 0 to 5."""
        return [point.interval.value for point in self.points[MAIN]]


@dataclasses.dataclass(frozen=True)
class Relative:
    """A curve next to that of a reference model on the same images.

    Attributes:
        error: sum of the errors (1 - balanced accuracy) over severities, over the reference's
            (the benchmark's "balanced error"); None where the reference makes none.
        drop: mean drop over the reference's; None where the reference does not drop.
        reason: why something is None, else empty.
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
    """Scores, drops and intervals of one distortion, from its predictions by severity."""
    base = _grouped(clean)
    levels = {severity: _grouped(table) for severity, table in sorted(distorted.items())}
    points = {}
    for score in SCORES:
        start = interval(score, base, positive)
        none = Interval(0.0, None, None, "jackknife", start.groups)
        row = [Point(score, 0, start, none if start.value is not None else start)]
        for severity, data in levels.items():
            drop = _drop(score, base, data, positive)
            row.append(Point(score, severity, interval(score, data, positive), drop))
        points[score] = row
    return Curve(distortion, background, points, _mean_drop(base, list(levels.values()), positive))


def relative(mine: Curve, reference: Curve) -> Relative:
    """Errors and drops as multiples of a reference model's (Di Salvo et al. 2024, MedMNIST-C).

    There the reference is a fixed network on another data set, and a clean error of 0 ends the
    evaluation; here it is a model of the same study, and a ratio that does not exist is None.
    """
    errors = []
    for one in (mine, reference):
        values = one.values()[1:]
        if None in values:
            return Relative(None, None, "balanced accuracy is undefined")
        errors.append(sum(1 - float(value) for value in values if value is not None))
    reasons = []
    error = errors[0] / errors[1] if errors[1] > ZERO else None
    if error is None:
        reasons.append("the reference makes no error at any severity")
    fall, base = mine.mean_drop.value, reference.mean_drop.value
    drop = fall / base if fall is not None and base is not None and base > ZERO else None
    if drop is None:
        reasons.append("the reference does not drop")
    return Relative(error, drop, "; ".join(reasons))


def _grouped(found: Predictions) -> clustered.Grouped:
    return clustered.group(found.labels, found.probabilities, found.group)


def _drop(score: str, clean: clustered.Grouped, data: clustered.Grouped, positive: int) -> Interval:
    found = comparisons.difference(score, clean, data, positive)
    return Interval(
        found.difference, found.low, found.high, "jackknife", found.groups, found.reason
    )


def _mean_drop(
    clean: clustered.Grouped, levels: Sequence[clustered.Grouped], positive: int
) -> Interval:
    start = clustered.statistic(MAIN, clean, positive)
    others = [clustered.statistic(MAIN, data, positive) for data in levels]

    def score(weights: np.ndarray) -> np.ndarray:
        return start(weights) - np.mean([other(weights) for other in others], axis=0)

    value = float(score(np.ones((1, clean.groups)))[0])
    if np.isnan(value):
        return Interval(None, None, None, "jackknife", clean.groups, "the score is undefined")
    try:
        found = jackknife(score, clean, value)
    except NoIntervalError as none:
        return Interval(value, None, None, "jackknife", clean.groups, str(none))
    if found.error < ZERO:
        why = "the drop is the same whichever group is left out"
        return Interval(value, None, None, "jackknife", clean.groups, why)
    low, high = bounds(Estimate(value, found.error, found.df), -1.0, 1.0)
    return Interval(value, low, high, "jackknife", clean.groups)
