"""Simple numbers that describe a cell on black: what a small model sees."""

from itertools import pairwise

import cv2
import numpy as np
from sklearn.metrics import balanced_accuracy_score

from leukjax.data.manifest import Manifest
from leukjax.data.split import make_split


def appearance(images: np.ndarray) -> np.ndarray:
    """float64[n, 33]: size, colour by depth below the edge, texture at four scales, levels."""
    return np.array([_describe(image) for image in images])


def _describe(image: np.ndarray) -> list[float]:
    inside = image.any(-1)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) / np.sqrt(inside.sum())
    density = np.log1p(image.astype(np.float32))
    row = [inside.mean()]
    for low, high in ((0, 0.05), (0.05, 0.1), (0.1, 0.15), (0.15, 0.22), (0.22, 1)):
        row += list(density[(depth > low) & (depth <= high)].mean(0))
    inner = depth > 0.1
    scales = [image.shape[0] / 48 * s for s in (0.4, 0.8, 1.4, 2.4, 4.0)]
    smooth = [cv2.GaussianBlur(density, (0, 0), scale) for scale in scales]
    for fine, coarse in pairwise(smooth):
        row += list(np.log((fine - coarse)[inner].std(0) + 1e-4))
    green = density[inner][:, 1]
    row += list(np.percentile(green, [5, 25, 50, 75, 95]) - green.mean())
    return row


def manifest(sample) -> Manifest:
    """Synthetic cells as the rows of a manifest, in their order."""
    p = sample.parameters
    names = [f"{i:07d}_{k:05d}" for i, k in zip(p["subject_index"], p["number"], strict=True)]
    empty = [""] * len(sample)
    return Manifest(
        classes=("all", "hem"),
        id=names,
        path=empty,
        label=sample.label,
        subject=sample.subject,
        group=sample.subject,
        phase=empty,
        sha256=names,
        pixels=names,
        phash=[0] * len(sample),
        area=sample.cell.mean((1, 2)),
    )


def scores_on_test(model, features, table: Manifest, protocol: str, seeds) -> np.ndarray:
    """Balanced accuracy on test of an untrained scikit-learn model, for each split seed."""
    scores = []
    for seed in seeds:
        split = make_split(table, protocol, seed)
        train, test = split.rows("train"), split.rows("test")
        predicted = model.fit(features[train], table.label[train]).predict(features[test])
        scores.append(balanced_accuracy_score(table.label[test], predicted))
    return np.array(scores)
