"""The preview sheet: cells as they are, and as training may see them."""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from leukjax.report.style import style


def sheet(
    raw: UInt8[np.ndarray, "n h w 3"],
    views: UInt8[np.ndarray, "n k h w 3"] | Float[np.ndarray, "n k h w 3"],
    names: list[str],
    title: str,
    headings: tuple[str, ...] = ("augmented",),
) -> Figure:
    """A row for each cell: itself, and `k` views of it.

    Args:
        raw: prepared cells.
        views: their views; floats are in [0, 1].
        names: what stands left of each row, as class and subject.
        title: above all; it should name the data and what was done.
        headings: of the first columns of views.
    """
    rows, columns = views.shape[0], views.shape[1] + 1
    with style():
        figure = Figure(figsize=(1.5 + 0.95 * columns, 0.7 + 0.95 * rows), facecolor="white")
        figure.suptitle(title, fontweight="bold", fontsize=9)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes_row, cell, its_views, name in zip(grid, raw, views, names, strict=True):
            for column, (axes, picture) in enumerate(
                zip(axes_row, [cell, *its_views], strict=True)
            ):
                axes.imshow(picture, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if column == 0:
                    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
        grid[0, 0].set_title("as prepared", fontsize=8)
        for axes, heading in zip(grid[0, 1:], headings, strict=False):
            axes.set_title(heading, fontsize=8, loc="left")
    return figure
