"""External test: scores on another data set, beside the run's own test and at its prevalence."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from leukjax.metrics import clustered, confusion
from leukjax.metrics.clustered import Grouped, Statistic
from leukjax.metrics.evaluation import Evaluation, cell, decided, score
from leukjax.metrics.intervals import (
    NAMES,
    RANGE,
    Interval,
    statistic_interval,
)
from leukjax.metrics.leave_one_out import Weights
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import predicted_class

DRAWS = 1000  # of the bootstrap
_DEFINED = 0.95  # share of the draws in which a score must be defined


@dataclasses.dataclass(frozen=True)
class Drop(Interval):
    """A score of the external test minus that of the run's own test.

    Attributes:
      bootstrap: 95 % percentile interval, the groups of both sets resampled independently; None if
        there is none.
    """

    bootstrap: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class ExternalTest(Evaluation):
    """Scores on another data set than that of the run.

    Attributes:
      theirs: the class of each image as the data set calls it.
      left_out: their class -> number of images that no class of the run is given for.
      over: the classes of the run that the data set has; means over classes are over these.
      own_test: scores of the run's own test images of these classes; None where `no_own` says why.
      no_own: reason, else "".
      drop: external minus own, by image; empty without `own_test`.
      at_own_prevalence: scores with the classes as frequent as in the run's own test, by image (see
        `at_prevalence`); empty without `own_test`.
    """

    theirs: Shaped[np.ndarray, " n"]
    left_out: Mapping[str, int]
    over: tuple[str, ...]
    own_test: Evaluation | None
    no_own: str
    drop: dict[str, Drop]
    at_own_prevalence: dict[str, Interval]

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes of the run that the data set does not have."""
        return tuple(name for name in self.predictions.classes if name not in self.over)

    @functools.cached_property
    def confusion(self) -> tuple[tuple[str, ...], Int[np.ndarray, "t c"]]:
        """Their classes, and the number of images of each that got each class of the run."""
        names, member = np.unique(self.theirs, return_inverse=True)
        classes = self.predictions.classes
        predicted = predicted_class(self.decided.probabilities)
        matrix = np.zeros((len(names), len(classes)), np.int64)
        np.add.at(matrix, (member.reshape(-1), predicted), 1)
        return tuple(names.tolist()), matrix

    @functools.cached_property
    def decided(self) -> Predictions:
        """The predictions, at the threshold if there is one."""
        if self.threshold is None:
            return self.predictions
        return decided(self.predictions, self.positive, self.threshold)

    def prevalence(self) -> dict[str, tuple[float, float | None]]:
        """Returns the share of each class in the external test and in the run's own test."""
        shares = class_shares(self.predictions)
        own_shares = (
            [None] * len(shares)
            if self.own_test is None
            else class_shares(self.own_test.predictions)
        )
        return {
            name: (float(share), None if share_of_own is None else float(share_of_own))
            for name, share, share_of_own in zip(
                self.predictions.classes, shares, own_shares, strict=True
            )
        }

    def table(self) -> str:
        """The scores as a text table: external test, the run's own test, and the difference."""
        if self.own_test is None:
            return f"{super().table()}\nNo scores of the run's own test: {self.no_own}."
        rows = [["", "external test", "own test", "difference"]]
        for name, drop in self.drop.items():
            scores = (self.by_image[name], self.own_test.by_image[name], drop)
            rows.append([name.replace("_", " "), *map(cell, scores)])
        return self._page(rows)

    def on_classes(self) -> list[str]:
        """Returns sentences on the classes that are left out or absent."""
        sentences = []
        if self.left_out:
            counts = ", ".join(f"{name} {count:,}" for name, count in self.left_out.items())
            sentences.append(f"Left out by the class map: {counts} images.")
        if self.absent:
            sentences.append(
                f"The data have no image of {', '.join(self.absent)}: means over classes, and the "
                f"own test beside them, are of {', '.join(self.over)} only."
            )
        return sentences

    def _notes(self) -> list[str]:
        return [*self.on_classes(), *super()._notes()]


def external_test(
    predictions: Predictions,
    theirs: Shaped[np.ndarray, " n"],
    left_out: Mapping[str, int],
    own_predictions: Predictions | None,
    *,
    positive: str = "",
    threshold: float | None = None,
    no_own: str = "",
    name: str = "",
    notes: Sequence[str] = (),
) -> ExternalTest:
    """Scores predictions on another data set beside those of the run's own test.

    Args:
      predictions: on the other data set, labelled with the classes of the run.
      theirs: the class of each image as that data set calls it.
      left_out: their class -> number of images that are not in `predictions`.
      own_predictions: of the same model on the run's own test; None if there are none.
      positive, threshold, name, notes: as in `score`.
      no_own: reason why `own_predictions` is None.
    """
    classes = predictions.classes
    over = tuple(name for c, name in enumerate(classes) if (predictions.labels == c).any())
    external = score(predictions, positive, threshold=threshold, name=name, notes=notes, over=over)
    own_scores = None
    if own_predictions is not None:
        kept = [classes.index(name) for name in over]
        own_predictions = own_predictions.take(np.isin(own_predictions.labels, kept))
        missing = [
            name for name in over if not (own_predictions.labels == classes.index(name)).any()
        ]
        if missing:
            own_predictions, no_own = None, f"it has no image of {', '.join(missing)}"
        else:
            own_scores = score(own_predictions, positive, threshold=threshold, over=over)
    drops: dict[str, Drop] = {}
    weighted: dict[str, Interval] = {}
    if own_predictions is not None and own_scores is not None:
        drops = _drops(external, own_scores, over)
        shares = class_shares(own_predictions)
        weighted = at_prevalence(external.predictions, shares, positive, threshold, over)
    fields = {field.name: getattr(external, field.name) for field in dataclasses.fields(external)}
    return ExternalTest(
        **fields,
        theirs=theirs,
        left_out=left_out,
        over=over,
        own_test=own_scores,
        no_own=no_own,
        drop=drops,
        at_own_prevalence=weighted,
    )


def class_shares(predictions: Predictions) -> Float[np.ndarray, " c"]:
    """Returns the share of the images of each class."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    return counts / len(predictions)


def drop(
    external: Interval, own_score: Interval, groups: int, bootstrap: tuple[float, float] | None
) -> Drop:
    """Returns the difference of two independent scores, with an interval made of theirs.

    With d the difference, l1 to u1 the interval of the external score s1, and l2 to u2 that of the
    own score s2, the interval is d - sqrt((s1 - l1)² + (u2 - s2)²) to
    d + sqrt((u1 - s1)² + (s2 - l2)²) (Zou & Donner 2008, Statistics in Medicine 27:1693). With 12
    groups on one side and 28 on the other it covers 97 %, and the bootstrap 91 %
    (tests/metrics/test_coverage.py).

    Args:
      external, own_score: the scores.
      groups: number of groups of both.
      bootstrap: the interval to show beside it.
    """
    sides = (("external test", external), ("own test", own_score))
    if external.value is None or own_score.value is None:
        reason = "; ".join(f"{side}: {s.reason}" for side, s in sides if s.value is None)
        return Drop(None, None, None, "mover", groups, reason)
    d = external.value - own_score.value
    if (
        external.low is None
        or external.high is None
        or own_score.low is None
        or own_score.high is None
    ):
        reason = "; ".join(f"{side}: {s.reason}" for side, s in sides if s.low is None)
        return Drop(d, None, None, "mover", groups, reason)
    below = np.hypot(external.value - external.low, own_score.high - own_score.value)
    above = np.hypot(external.high - external.value, own_score.value - own_score.low)
    return Drop(d, float(d - below), float(d + above), "mover", groups, bootstrap=bootstrap)


def _drops(external: Evaluation, own_test: Evaluation, over: Sequence[str]) -> dict[str, Drop]:
    at_threshold = external.threshold is not None
    drops = {}
    for name in NAMES:
        data = []
        for evaluation in (external, own_test):
            p = evaluation.predictions
            if at_threshold and name in confusion.NAMES:
                p = decided(p, external.positive, evaluation.threshold or 0.0)
            data.append(_grouped(p, over))
        positive = _index(external.predictions, external.positive)
        scores = [clustered.statistic(name, grouped, positive) for grouped in data]
        groups = data[0].groups + data[1].groups
        of_both = (external.by_image[name], own_test.by_image[name])
        has_interval = all(interval.low is not None for interval in of_both)
        resampled = bootstrap(scores, data) if has_interval else None
        drops[name] = drop(*of_both, groups, resampled)
    return drops


def bootstrap(
    scores: Sequence[Statistic], data: Sequence[Grouped], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float] | None:
    """Returns the 95 % percentile interval of the first score minus the second.

    The groups of each set are drawn with replacement, independently of the other set (seeds `seed`
    and `seed + 1`).

    Args:
      scores: of the weights of the groups of each set.
      data: the two sets.
      draws: number of resamples.
      seed: of the draws.

    Returns:
      None if a score is undefined in more than 5 % of the draws.
    """
    first, second = (
        clustered.evaluate(s, clustered.resamples(grouped, draws, seed + i))
        for i, (s, grouped) in enumerate(zip(scores, data, strict=True))
    )
    differences = first - second
    defined = differences[~np.isnan(differences)]
    if len(defined) < _DEFINED * draws:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def at_prevalence(
    predictions: Predictions,
    shares: Float[np.ndarray, " c"],
    positive: str,
    threshold: float | None,
    over: Sequence[str],
) -> dict[str, Interval]:
    """Returns the scores of `confusion.NAMES` as if the classes had other shares.

    Each image of class c counts with the weight w(c) = shares[c] / (share of c in `predictions`):
    the rows of the confusion matrix are scaled, M'(i, j) = shares[i] M(i, j) / sum over k of
    M(i, k). Intervals are those of `statistic_interval`, with the scaling in every resample.

    Args:
      predictions: the images.
      shares: of each class, of sum 1.
      positive, threshold: as in `score`.
      over: the classes that `predictions` has.
    """
    if threshold is not None:
        predictions = decided(predictions, positive, threshold)
    data, index = _grouped(predictions, over), _index(predictions, positive)
    matrices = clustered.confusion_matrices(data)

    def weighted(weights: Weights) -> np.ndarray:
        matrix = matrices(weights)
        rows = matrix.sum(axis=-1, keepdims=True)
        # A class without any image has no row; one that a resample lost has an undefined row.
        scaled = shares[:, None] * confusion.ratio(matrix, rows)
        return np.where(shares[:, None] > 0, scaled, 0.0)

    def statistic_of(name: str) -> Statistic:
        return lambda weights: confusion.score(name, weighted(weights), index, data.classes)

    reach = {name: RANGE.get(name, (0.0, 1.0)) for name in confusion.NAMES}
    return {
        name: statistic_interval(statistic_of(name), data, reach[name], ("score", "score"))[0]
        for name in confusion.NAMES
    }


def _grouped(predictions: Predictions, over: Sequence[str]) -> Grouped:
    averaged = tuple(map(predictions.classes.index, over))
    return clustered.group(
        predictions.labels, predictions.probabilities, predictions.group, averaged
    )


def _index(predictions: Predictions, positive: str) -> int:
    return predictions.classes.index(positive) if positive else 0
