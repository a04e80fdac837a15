"""What features encode: their first two principal components by class, subject and source."""

import dataclasses
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from leukjax.data.records import Records
from leukjax.probe.features import Features
from leukjax.report.provenance import About
from leukjax.report.style import CLASSES, MARKERS, entitle, legend_label, style

SHOWN = 3000  # images, evenly spaced
_NAMED = 6  # values of a panel with a legend


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Some of the labelled images in two dimensions.

    Attributes:
      points: first two principal components of the standardised features of all labelled images.
      explained: share of the variance of each.
      values: by panel (class, subject, source), the value of each image; "" = not known.
      same: by panel, the share of images whose nearest neighbour has the same value, and the share
        that random neighbours would have.
    """

    points: Float[np.ndarray, "n 2"]
    explained: tuple[float, float]
    values: dict[str, np.ndarray]
    same: dict[str, tuple[float, float]]

    def sentences(self) -> list[str]:
        """Returns what the nearest neighbours show."""
        return [
            f"The nearest neighbour of an image has the same {name} for {share:.1%} of the images "
            f"({chance:.1%} by chance)."
            for name, (share, chance) in self.same.items()
        ]


def make(features: Features, records: Records) -> View:
    """Returns the view of the labelled images of a data set."""
    manifest = records.manifest
    rows = np.flatnonzero(manifest.label >= 0)
    x = features.pooled[rows].astype(np.float64)
    std = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(std > 0, std, 1)
    x = x if x.shape[1] > 1 else np.repeat(x, 2, axis=1)
    pca = PCA(2, svd_solver="full" if x.shape[1] > len(x) else "covariance_eigh").fit(x)
    chosen = np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))
    rows, x = rows[chosen], x[chosen]
    values = {
        "class": np.array(manifest.classes)[manifest.label[rows]],
        "subject": manifest.subject[rows],
    }
    if sources := records.attributes.get("source"):
        values["source"] = np.array([sources.get(i, "") for i in manifest.id[rows].tolist()])
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors()[1][:, 0]
    same = {name: _agreement(value, nearest) for name, value in values.items()}
    first, second = map(float, pca.explained_variance_ratio_)
    return View(pca.transform(x), (first, second), values, same)


def _agreement(values: np.ndarray, nearest: Int[np.ndarray, " n"]) -> tuple[float, float]:
    counts = np.unique(values, return_counts=True)[1]
    chance = float((counts * (counts - 1)).sum() / (len(values) * (len(values) - 1)))
    return float((values == values[nearest]).mean()), chance


def figure(view: View, about: About) -> Figure:
    """Draws a panel for each kind of value."""
    with style():
        result = Figure(figsize=(0.4 + 3.2 * len(view.values), 3.9))
        entitle(result, f"Features by principal components – {about.data}", about.marks())
        grid = result.subplots(1, len(view.values), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, values) in zip(grid, view.values.items(), strict=True):
            _draw(axes, view.points, name, values)
            axes.set_xlabel(f"component 1 ({view.explained[0]:.0%} of the variance)")
        grid[0].set_ylabel(f"component 2 ({view.explained[1]:.0%})")
    return result


def _draw(axes: Axes, points: Float[np.ndarray, "n 2"], name: str, values: np.ndarray) -> None:
    names, codes = np.unique(values, return_inverse=True)
    marks: dict[str, Any] = {"s": 7, "alpha": 0.6, "linewidths": 0, "rasterized": True}
    if len(names) <= _NAMED:
        for code, value in enumerate(names.tolist()):
            selected = points[codes == code]
            axes.scatter(
                *selected.T, color=CLASSES[code], marker=MARKERS[code],
                label=legend_label(value or "not known"), **marks,
            )  # fmt: skip
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, markerscale=2)
        axes.set_title(f"by {name}")
        return
    # A step of a third of the scale: names that follow each other get different colours.
    colours = matplotlib.colormaps["turbo"]((np.arange(len(names)) * 0.382) % 1)
    axes.scatter(points[:, 0], points[:, 1], c=colours[codes], **marks)
    axes.set_title(f"by {name} ({len(names):,})")
