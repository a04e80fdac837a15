"""The toy of `facts/statistics.md`: sixteen cells of six subjects, two models."""

import numpy as np

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


def columns(p):
    """Probabilities of both classes."""
    return np.stack([1 - p, p], axis=1)
