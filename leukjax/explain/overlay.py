"""The figure of an explanation: the image, and the map of each model and method on top of it."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukjax.report.style import GREY, VERMILION, entitle, make_drawable, style


@dataclasses.dataclass(frozen=True)
class Panel:
    """One map.

    Attributes:
      map: of the size of the image.
      signed: drawn from evidence against the class (blue) to evidence for it (red).
      note: text below the map.
      warning: why the map is not an explanation, in red below the note; "" if it is one.
    """

    map: Float32[np.ndarray, "s s"]
    signed: bool
    note: str
    warning: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """The image as one model sees it, with the maps of that model.

    Attributes:
      heading: model, prediction, and explained class.
      image: the prepared image.
      cell: mask of the cell, whose outline is drawn.
      panels: one per method; None if the method does not support the model.
    """

    heading: str
    image: UInt8[np.ndarray, "s s 3"]
    cell: Bool[np.ndarray, "s s"]
    panels: Sequence[Panel | None]


def overlay(
    title: str, marks: Sequence[str], methods: Sequence[str], columns: Sequence[Column]
) -> Figure:
    """Returns a figure with one column per model: its image and below it one map per method.

    A single model is drawn in one row. Every map has its own scale, because values of different
    methods or models are not comparable.

    Args:
      title: name of the image.
      marks: warnings, such as "SYNTHETIC data".
      methods: titles of the rows.
      columns: one per model.
    """
    several, count = len(columns) > 1, 1 + len(methods)
    shape = (count, len(columns)) if several else (1, count)
    width = 1.5 + 1.9 * shape[1] if several else 0.3 + 1.9 * shape[1]
    with style():
        warned = any(panel.warning for column in columns for panel in column.panels if panel)
        height = 0.9 + (2.0 if warned else 1.65) * shape[0]
        figure = Figure(figsize=(width, height), facecolor="white")
        entitle(figure, title, marks)
        grid = figure.subplots(*shape, squeeze=False)
        cells = grid if several else grid.T  # [image and methods, models]
        for axes in grid.flat:
            axes.grid(False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for number, column in enumerate(columns):
            first = cells[0, number]
            first.imshow(column.image, interpolation="nearest")
            first.set_title(column.heading, fontsize=7, loc="left", fontweight="normal")
            for axes, name, panel in zip(cells[1:, number], methods, column.panels, strict=True):
                if several and number == 0:
                    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
                if not several:
                    axes.set_title(name, fontsize=8, fontweight="normal")
                _fill(figure, axes, column, panel)
    return figure


def _fill(figure: Figure, axes, column: Column, panel: Panel | None) -> None:
    if panel is None:
        axes.text(0.5, 0.5, "not for this model", ha="center", va="center", fontsize=7,
                  color=GREY, transform=axes.transAxes)  # fmt: skip
        return
    mappable, cut = draw(axes, column, panel)
    ends = ("both" if panel.signed else "max") if cut else "neither"
    bar = figure.colorbar(mappable, ax=axes, fraction=0.05, pad=0.03, extend=ends)
    bar.ax.tick_params(labelsize=6, width=0.5, length=2)
    bar.locator = MaxNLocator(4)
    bar.update_ticks()
    if not panel.warning:
        axes.set_xlabel(panel.note, fontsize=6.5)
        return
    axes.set_xlabel(f"{panel.note}\n{panel.warning}", fontsize=6.5, color=VERMILION)
    axes.spines[:].set(visible=True, color=VERMILION, linewidth=1.5)


def draw(axes, column: Column, panel: Panel) -> tuple[ScalarMappable, bool]:
    """Draws a map on the grey image, with the outline of the cell.

    The colour is transparent where the map is 0. The scale ends at the largest value, or at the
    99.5th percentile if single pixels are more than twice as large.

    Returns:
      The mappable for a colour bar, and whether some pixels exceed its ends.
    """
    grey = column.image @ np.array([0.299, 0.587, 0.114]) / 255
    axes.imshow(grey, cmap="gray", vmin=0, vmax=max(0.05, float(grey.max())), alpha=0.9,
                interpolation="nearest")  # fmt: skip
    size = np.abs(panel.map)
    top, most = float(size.max()) or 1.0, float(np.percentile(size, 99.5))
    cut = 0 < most < top / 2
    top = most if cut else top
    norm = Normalize(-top if panel.signed else 0.0, top, clip=True)
    mappable = ScalarMappable(norm, "RdBu_r" if panel.signed else "inferno")
    colours = mappable.to_rgba(panel.map)
    colours[..., 3] = np.clip(0.15 + size / top, 0, 0.85)
    axes.imshow(colours, interpolation="nearest")
    if column.cell.any() and not column.cell.all():
        axes.contour(column.cell, [0.5], colors="white", linewidths=0.6)
    return mappable, cut


def as_png(figure: Figure) -> bytes:
    """Returns the PNG file, with the same bytes on every call."""
    content = io.BytesIO()
    with style():
        make_drawable(figure)
        # The layout needs the sizes of the texts, which are known after the first drawing.
        figure.draw_without_rendering()
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
