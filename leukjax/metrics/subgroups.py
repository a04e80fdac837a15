"""Scores of subgroups: of the images with each value of an attribute, as the sex or the site."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import numpy as np

from leukjax.metrics import clustered
from leukjax.metrics.intervals import Interval, interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import scores

MIN_GROUPS = 5  # below it a subgroup has scores without intervals
MAX_VALUES = 32  # of an attribute; one with more identifies people, or needs bands
MAX_ATTRIBUTES = 64
NOT_STATED = "(not stated)"
SCORES_OF_TWO = ("accuracy", "balanced_accuracy", "recall", "specificity", "auroc")
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")  # above two classes

# column -> id -> value
Attributes = Mapping[str, Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The images with one value of an attribute.

    Attributes:
      attribute, value: as in the attributes of the data.
      images, groups: how many.
      scores: by name; without intervals below `MIN_GROUPS` groups.
    """

    attribute: str
    value: str
    images: int
    groups: int
    scores: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Subgroups:
    """Scores by subgroup.

    Attributes:
      rows: sorted by attribute, in the order of the attributes, and by value.
      notes: sentences on attributes that are left out.
    """

    rows: list[Subgroup]
    notes: list[str]


def subgroups(predictions: Predictions, attributes: Attributes, positive: str) -> Subgroups:
    """Returns the scores of each subgroup, with intervals over groups.

    Args:
      predictions: one row per image.
      attributes: values by the ids of the images; an image without a value is in a subgroup of its
        own, `NOT_STATED`.
      positive: class of recall, specificity and AUROC; "" above two classes.
    """
    rows: list[Subgroup] = []
    notes: list[str] = []
    for name, value_of in attributes.items():
        values = [value_of.get(i, "") or NOT_STATED for i in predictions.id.tolist()]
        counts = Counter(values)
        if len(rows) and len({row.attribute for row in rows}) == MAX_ATTRIBUTES:
            notes.append(f"More than {MAX_ATTRIBUTES} attributes: the others are left out.")
            break
        if len(counts) > MAX_VALUES:
            notes.append(f"{name} is left out: it has {len(counts):,} values, above {MAX_VALUES}.")
        elif len(counts) == 1:
            notes.append(f"{name} is left out: it is {values[0]} for every image.")
        else:
            for value in sorted(counts):
                chosen = predictions.take(np.array([stated == value for stated in values]))
                rows.append(_subgroup(name, value, chosen, positive))
    return Subgroups(rows, notes)


def score_names(predictions: Predictions) -> tuple[str, ...]:
    """Returns the names of the scores of a subgroup."""
    return SCORES_OF_TWO if len(predictions.classes) == 2 else SCORES


def _subgroup(attribute: str, value: str, p: Predictions, positive: str) -> Subgroup:
    data = clustered.group(p.labels, p.probabilities, p.group)
    index = p.classes.index(positive) if positive else 0
    reasons = scores(p.labels, p.probabilities, p.classes, positive).reasons
    intervals = {}
    for name in score_names(p):
        score = interval(name, data, index)
        if score.value is None:
            score = dataclasses.replace(score, reason=reasons[name])
        elif data.groups < MIN_GROUPS:
            reason = f"fewer than {MIN_GROUPS} groups"
            score = dataclasses.replace(score, low=None, high=None, reason=reason)
        intervals[name] = score
    return Subgroup(attribute, value, len(p), data.groups, intervals)
