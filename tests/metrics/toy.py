"""The toy of `facts/statistics.md`: sixteen cells of six subjects, two models."""

import numpy as np

from leukjax.metrics.predictions import Predictions

SUBJECTS = np.array(list("AAABBCCCCDDDEEFF"))
LABELS = np.repeat([1, 0], [9, 7])
MIXED = np.array([int(c) for c in "1011001011001001"])
P1 = np.array(
    [0.92, 0.81, 0.40, 0.77, 0.66, 0.95, 0.88, 0.30, 0.59, 0.35, 0.62, 0.10, 0.20, 0.45, 0.70, 0.05]
)
P2 = np.array(
    [0.80, 0.55, 0.52, 0.61, 0.72, 0.90, 0.41, 0.33, 0.64, 0.50, 0.58, 0.22, 0.15, 0.66, 0.75, 0.30]
)
# The oracles call .50 positive; between equals the package takes the first class.
P2_CALLED = np.where(P2 == 0.5, 0.501, P2)

CLASSES = ("a", "b", "c")


def columns(p):
    """Probabilities of both classes."""
    return np.stack([1 - p, p], axis=1)


def made(seed, groups=24, classes=2, skill=1.0, present=None):
    """Predictions of groups of one class each, 4 to 9 images a group."""
    rng = np.random.default_rng(seed)
    each = rng.integers(4, 10, groups)
    member = np.repeat(np.arange(groups), each)
    labels = np.array(present or range(classes))[member % len(present or range(classes))]
    z = rng.normal(size=(len(member), classes)) + rng.normal(size=(groups, classes))[member]
    p = np.exp(z + skill * np.eye(classes)[labels])
    names = np.array([f"g{i}" for i in member])
    ids = np.array([f"{i:04}" for i in range(len(member))])
    return Predictions(
        CLASSES[:classes], ids, names, names, labels, p / p.sum(axis=1, keepdims=True)
    )
