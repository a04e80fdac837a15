"""Learning curves: scores of the heads by the number of training subjects."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int

from leukjax.data.manifest import Manifest
from leukjax.errors import UserError
from leukjax.metrics import predictions
from leukjax.metrics.evaluation import score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.probe.study import Probe
from leukjax.rundir import RunDir

ALL = 0  # of the numbers of subjects: all that train
SCORES = ("balanced_accuracy", "auroc")


@dataclasses.dataclass(frozen=True)
class Point:
    """Scores, out of fold, of a head that was fitted to a number of subjects of each fold.

    Attributes:
      model: name of the head.
      subjects: mean number of training subjects over the folds.
      images: mean number of training images.
      scores: those of `SCORES`, with intervals over the tested groups.
    """

    model: str
    subjects: float
    images: float
    scores: dict[str, Interval]


def parse(texts: Sequence[str]) -> tuple[int, ...]:
    """``["2", "4", "all"]`` -> ``(2, 4, ALL)``.

    Raises:
      UserError: something else than numbers from 2 on and "all".
    """
    numbers = []
    for text in texts:
        if text != "all" and not (text.isdecimal() and 2 <= int(text) < 10**9):
            given = ",".join(texts)
            raise UserError(f"--subjects={given}: give numbers from 2 on, and all, as in 2,4,8,all")
        numbers.append(ALL if text == "all" else int(text))
    return tuple(dict.fromkeys(numbers))


def draw_all(probe: Probe, numbers: Sequence[int]) -> list[list[str]]:
    """Returns the training groups of each fold, in the order in which they are drawn.

    Args:
      probe: what is probed; no head needs to be fitted.
      numbers: of training subjects (groups); `ALL` = all of the fold.

    Raises:
      UserError: a fold has fewer groups, or there are more classes than subjects.
    """
    orders = []
    for fold, split in enumerate(probe.splits if numbers else ()):
        train = split.rows("train")
        order = draw(probe.units, train, probe.config.seed, fold)
        _check(numbers, len(order), len(np.unique(probe.units.label[train])), fold)
        orders.append(order)
    return orders


def compute(probe: Probe, numbers: Sequence[int], orders: Sequence[list[str]]) -> list[Point]:
    """Fits every head to subsets of the training subjects, and scores it out of fold.

    A subset of a fold has the subsets of smaller numbers in it. The predictions are kept in
    ``predictions/curve``; those that are there are not made again. The caller holds the lock.

    Args:
      probe: fitted by `study.fit_all`.
      numbers: of training subjects (groups); `ALL` = all of the fold.
      orders: result of `draw_all`.
    """
    points = []
    for number in numbers:
        subsets = [
            np.intersect1d(_rows(probe.units, order[: number or None]), split.rows("train"))
            for order, split in zip(orders, probe.splits, strict=True)
        ]
        subjects = np.mean([number or len(order) for order in orders])
        images = np.mean([sum(len(probe.members[row]) for row in rows) for rows in subsets])
        for model in probe.study.models:
            scored = score(_predictions(probe, model, number, subsets), probe.positive)
            scores = {name: scored.by_image[name] for name in SCORES}
            points.append(Point(model, float(subjects), float(images), scores))
    return points


def draw(units: Manifest, train: Int[np.ndarray, " t"], seed: int, fold: int) -> list[str]:
    """Returns the training groups of a fold in random order, the classes in turn.

    A group with several classes counts for the rarest of them, so that the first groups have
    images of every class.

    Args:
      units: images or subjects.
      train: rows of those that train.
      seed: of the order.
      fold: number of the fold, whose order is another one.
    """
    pairs = np.unique(np.stack([units.group_codes[1][train], units.label[train]]), axis=1)
    groups_of_class = np.bincount(pairs[1], minlength=len(units.classes))
    rarest: dict[int, int] = {}
    for group, label in pairs.T.tolist():
        known = rarest.setdefault(group, label)
        if groups_of_class[label] < groups_of_class[known]:
            rarest[group] = label
    generator = np.random.Generator(np.random.Philox(key=[seed, fold]))
    queues: dict[int, list[int]] = {label: [] for label in sorted(set(rarest.values()))}
    for group in generator.permutation(sorted(rarest)).tolist():
        queues[rarest[group]].append(group)
    order: list[int] = []
    while any(queues.values()):
        order += [queue.pop(0) for queue in queues.values() if queue]
    return [str(units.group_codes[0][group]) for group in order]


def _rows(units: Manifest, groups: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.flatnonzero(np.isin(units.group, groups))


def _check(numbers: Sequence[int], groups: int, classes: int, fold: int) -> None:
    for number in numbers:
        if number > groups:
            raise UserError(
                f"--subjects={number}: fold {fold} trains on {groups} groups of subjects; give at "
                "most that, or all"
            )
        if number and number < classes:
            raise UserError(
                f"--subjects={number}: there are {classes} classes; give at least {classes}"
            )


def _predictions(
    probe: Probe, model: str, number: int, subsets: Sequence[Int[np.ndarray, " n"]]
) -> Predictions:
    """The predictions out of fold of heads that were fitted to subsets, from their file."""
    if number == ALL:
        runs = [RunDir(probe.study.path(job)) for job in probe.study.runs(model)]
        return _join([run.predictions("test") for run in runs])
    folder: Path = RunDir(probe.study.folder).path("predictions", "curve", model)
    path = folder / f"{number}.csv"
    if not path.is_file():
        logging.info("%s: fitting to %d subjects of each fold", model, number)
        parts = []
        for split, train in zip(probe.splits, subsets, strict=True):
            fitted = probe.heads[model].fit(probe.problem(train, split.rows("val")))
            parts.append(probe.predictions(fitted, split.rows("test")))
        _join(parts).write(path)
    return predictions.read_checked(path)


def _join(parts: Sequence[Predictions]) -> Predictions:
    columns = ("id", "subject", "group", "labels", "probabilities")
    values = [np.concatenate([getattr(part, name) for part in parts]) for name in columns]
    return Predictions(parts[0].classes, *values)
