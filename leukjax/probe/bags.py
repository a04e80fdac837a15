"""Heads for subjects: each subject is a bag of the features of its cells, with one label.

Gated attention finds the cells that carry the sign (Ilse et al. 2018, ICML, equation 9). The mean
and the largest value of each feature over the cells are the baselines.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Float32, Int

from leukjax import storage
from leukjax.data.columns import find_classes
from leukjax.data.manifest import Manifest
from leukjax.data.records import Records
from leukjax.errors import UserError
from leukjax.probe import attention, heads
from leukjax.probe.heads import Fitted, Head, Problem


def with_subject_labels(records: Records, file: str) -> Records:
    """Returns records whose classes are those of their subjects.

    Args:
      records: prepared images; their own labels are not used.
      file: CSV with the columns subject and label, one line per subject. Subjects that it does not
        list, or lists without a label, are unlabelled.

    Raises:
      UserError: it cannot be read, lacks a column, names a subject twice, or no subject of the
        images.
    """
    where = f"--subject_labels={file}"
    try:
        header, rows = storage.read_csv(Path(file).expanduser())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: cannot be read ({reason}); give a CSV file") from error
    for column in ("subject", "label"):
        if column not in header:
            raise UserError(
                f"{where}: has no column {column}; it needs subject and label, one line per subject"
            )
    label_of: dict[str, str] = {}
    for row in rows:
        if label_of.setdefault(row["subject"], row["label"]) != row["label"]:
            raise UserError(f"{where}: {row['subject']} is on two lines; keep one")
    known = set(records.manifest.subject.tolist())
    used = {subject: label for subject, label in label_of.items() if subject in known}
    if not any(used.values()):
        first = next(iter(sorted(known)))
        raise UserError(
            f"{where}: names no subject of the images; theirs look like {first!r}, and those of "
            f"the file like {next(iter(label_of), '')!r}"
        )
    classes = find_classes(used.values(), "label", where)
    logging.info(
        "--subject_labels: %d of %d subjects have a label; %d lines name no subject of the images",
        sum(map(bool, used.values())),
        len(known),
        len(label_of) - len(used),
    )
    index = {name: label for label, name in enumerate(classes)}
    labels = [index.get(used.get(s, ""), -1) for s in records.manifest.subject.tolist()]
    result = copy.copy(records)
    result.classes, result.positive = classes, classes[1] if len(classes) == 2 else ""
    result.manifest = dataclasses.replace(
        records.manifest, classes=classes, label=np.array(labels, np.int32)
    )
    return result


def subjects_of(manifest: Manifest) -> tuple[Manifest, list[Int[np.ndarray, " k"]]]:
    """Returns the labelled subjects, one row each, and the rows of their images.

    Raises:
      UserError: a subject has images of several classes.
    """
    rows = np.flatnonzero(manifest.label >= 0)
    names, first, member = np.unique(manifest.subject[rows], return_index=True, return_inverse=True)
    labels = manifest.label[rows]
    mixed = np.unique(member[labels != labels[first][member]])
    if len(mixed):
        raise UserError(
            f"--level=subject: {len(mixed):,} of {len(names):,} subjects have images of several "
            f"classes, as {names[mixed[0]]}; give --subject_labels=FILE.csv with one label per "
            "subject"
        )
    order = np.argsort(member, kind="stable")
    members = np.split(rows[order], np.cumsum(np.bincount(member))[:-1])
    units = manifest.take(rows[first])
    return dataclasses.replace(units, id=names), members


GATED = attention.Training(
    hidden=64, batch_size=8, epochs=100, patience=20, learning_rate=1e-3, weight_decay=1e-2
)


def _gated(problem: Problem) -> Fitted:
    bags = _Bags(problem.standardized.astype(np.float32), problem.members)
    head = attention.fit(
        bags, problem.labels, problem.train, problem.val, problem.classes, GATED, problem.seed
    )
    return Fitted(
        lambda rows: head.predict(rows)[0],
        f"epoch {head.epoch}",
        heads.BY_LOSS,
        head.epoch,
        lambda rows: head.predict(rows)[1],
    )


def _pooled(
    problem: Problem, *, pool: Callable[[Float[np.ndarray, "k d"]], Float[np.ndarray, " d"]]
) -> Fitted:
    x = np.stack([pool(problem.standardized[rows]) for rows in problem.members])
    model, strength = heads.logistic(x, problem, heads.STRENGTHS)
    return Fitted(
        lambda rows: heads.probabilities(model, x[rows], problem.classes),
        f"C = {strength:g}",
        heads.BY_LOSS,
    )


class _Bags:
    """The standardised features of the images of each subject, padded with zeros."""

    def __init__(
        self, features: Float32[np.ndarray, "n d"], members: Sequence[Int[np.ndarray, " k"]]
    ) -> None:
        self.shape = (max(map(len, members)), features.shape[1])
        self._features, self._members = features, members

    def take(
        self, sets: Int[np.ndarray, " b"]
    ) -> tuple[Float32[np.ndarray, "b m d"], Bool[np.ndarray, "b m"]]:
        x = np.zeros((len(sets), *self.shape), np.float32)
        mask = np.zeros(x.shape[:2], bool)
        for place, bag in enumerate(sets.tolist()):
            rows = self._members[bag]
            x[place, : len(rows)], mask[place, : len(rows)] = self._features[rows], True
        return x, mask


HEADS: dict[str, Head] = {
    "gated_attention": Head("gated attention over cells", _gated),
    "mean": Head(
        "logistic regression on the mean over cells",
        functools.partial(_pooled, pool=lambda x: x.mean(axis=0)),
    ),
    "max": Head(
        "logistic regression on the largest values over cells",
        functools.partial(_pooled, pool=lambda x: x.max(axis=0)),
    ),
}
