"""Synthetic features in which the answer is planted."""

import numpy as np

from leukjax.probe.heads import Problem


def images(seed=0, count=300, width=12, classes=2, shift=1.0):
    """Features and labels: each class has a mean of its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    means = shift * rng.normal(size=(classes, width))
    features = (means[labels] + rng.normal(size=(count, width))).astype(np.float32)
    return features, labels


def problem(features, labels, *, tokens=None, members=None, classes=2, seed=0, parts=(0.6, 0.8)):
    """A problem whose first rows train, the next validate, and the last are for the test."""
    count = len(labels)
    first, second = (round(part * count) for part in parts)
    members = list(np.arange(len(features))[:, None]) if members is None else members
    rows = np.arange(count)
    made = Problem(
        features, tokens, members, labels, classes, rows[:first], rows[first:second], seed
    )
    return made, rows[second:]


def patients(seed=0, count=150, cells=60, width=16, share=0.05, size=5.0):
    """Cells of patients; in every second patient a share of the cells carries the sign.

    Returns:
      features float32[n, d], the rows of each patient's cells, its label, and which cells carry
      the sign, bool[n].
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    direction = np.eye(width)[0]
    features, members, carries = [], [], []
    for label in labels:
        number = int(rng.integers(cells // 2, cells * 3 // 2))
        x = rng.normal(size=(number, width))
        signs = np.zeros(number, bool)
        signs[: label * max(1, round(share * number))] = True
        x[signs] += size * direction
        start = sum(map(len, features))
        features.append(x)
        members.append(np.arange(start, start + number))
        carries.append(signs)
    return np.concatenate(features).astype(np.float32), members, labels, np.concatenate(carries)
