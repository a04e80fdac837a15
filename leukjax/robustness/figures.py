"""Figures of robustness: curves of score against severity, and the most harmful as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.images.distort import distort, seeds_of
from leukjax.metrics import predictions
from leukjax.metrics.robustness import MAIN, Curve
from leukjax.report.glyphs import legend_label
from leukjax.report.style import BLUE, CLASSES, GREY, MARKERS, VERMILION, entitle, style
from leukjax.robustness.measured import Measured
from leukjax.robustness.predictions import Case

COLUMNS = 4
SHOWN = 6  # distortions in the sheet of pictures


def curves(measured: Sequence[Measured]) -> Figure:
    """A panel for each distortion; a line with its band for each run.

    The dashed line is the whole image distorted, background and all, where that differs.
    """
    names = list(dict.fromkeys(curve.distortion for one in measured for curve in one.curves))
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    about = measured[0].about
    with style():
        figure = Figure(figsize=(max(5.0, 2.05 * columns), 1.2 + 1.55 * rows))
        entitle(figure, f"Under distortion – {about.data}, {about.part}", about.marks())
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            for i, one in enumerate(measured):
                for curve in one.curves:
                    if curve.distortion == name:
                        _draw(axes, curve, i, one)
            axes.axhline(1 / len(about.classes), color=GREY, lw=0.8, ls=":")
            axes.set_title(name.replace("_", " "), fontsize=8)
            axes.set(xlim=(-0.2, 5.2), ylim=(-0.02, 1.04), xticks=range(6))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.tick_params(labelsize=7)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        for column in range(columns):
            # The lowest panel of a column carries its numbers, also where a row is not full.
            lowest = (len(names) - 1 - column) // columns
            grid[lowest, column].tick_params(labelbottom=True)
            grid[lowest, column].set_xlabel("severity (0 = clean)", fontsize=7)
        figure.supylabel("balanced accuracy", fontsize=8)
        lines: list[Any] = [
            figure.axes[0].plot([], [], marker=MARKERS[i % 6], ms=4, color=CLASSES[i % 6])[0]
            for i in range(len(measured))
        ]
        labels = [legend_label(one.name) for one in measured]
        lines += [figure.axes[0].fill_between([], [], [], color=GREY, alpha=0.25, lw=0)]
        labels.append("band: 95 % interval by group")
        if len({curve.background for one in measured for curve in one.curves}) > 1:
            lines += figure.axes[0].plot([], [], color=GREY, ls="--")
            labels.append("dashed: black background distorted too (as published)")
        lines += figure.axes[0].plot([], [], color=GREY, lw=0.8, ls=":")
        labels.append("chance")
        figure.legend(lines, labels, loc="outside lower center", ncols=1 if columns < 3 else 2)
    return figure


def _draw(axes, curve: Curve, i: int, one: Measured) -> None:
    points = curve.points[MAIN]
    first = curve.background == one.curves[0].background
    x = [point.severity for point in points]
    y = [np.nan if point.found.value is None else point.found.value for point in points]
    colour = CLASSES[i % 6]
    if not first:
        axes.plot(x, y, "--", color=colour, lw=1)
        return
    axes.plot(x, y, marker=MARKERS[i % 6], ms=3, color=colour)
    low, high = (
        [np.nan if value is None else value for value in column]
        for column in (
            [point.found.low for point in points],
            [point.found.high for point in points],
        )
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def harm(one: Measured) -> Figure:
    """The most harmful distortions on an image that each made the run get wrong.

    Of the images that were right when clean the one is shown that is wrong at most severities, and
    of several the one that the run was surest of.
    """
    first = one.curves[0].background
    worst = sorted(
        (curve for curve in one.curves if curve.background == first),
        key=lambda curve: -(curve.mean_drop.value or 0.0),
    )[:SHOWN]
    classes = one.about.classes
    with style():
        figure = Figure(figsize=(9.0, 0.9 + 1.5 * len(worst)), facecolor="white")
        entitle(figure, f"Most harmful to {one.name}", one.about.marks())
        grid = figure.subplots(len(worst), 6, squeeze=False)
        for axes_row, curve in zip(grid, worst, strict=True):
            levels = [_probabilities(one, curve, severity) for severity in range(6)]
            row = _example(one.found.table.labels, levels)
            pictures = _pictures(one, curve, row)
            label = int(one.found.table.labels[row])
            for severity, (axes, picture) in enumerate(zip(axes_row, pictures, strict=True)):
                says = int(levels[severity][row].argmax())
                axes.imshow(picture, interpolation="nearest")
                axes.grid(False)
                axes.set(xticks=[], yticks=[])
                wrong = says != label
                axes.spines[:].set(
                    visible=True,
                    color=VERMILION if wrong else BLUE,
                    linewidth=2.5 if wrong else 1,
                    linestyle="--" if wrong else "-",
                )
                sure = levels[severity][row].max()
                verdict = "wrong" if wrong else "right"
                axes.set_xlabel(f"{classes[says]} {sure:.0%}, {verdict}", fontsize=7)
                axes.set_title("clean" if severity == 0 else f"severity {severity}", fontsize=7)
            drop = curve.mean_drop.value or 0.0
            axes_row[0].set_ylabel(
                f"{curve.distortion.replace('_', ' ')}\nmean drop {drop:.3f}\ntruth: "
                f"{classes[label]}",
                rotation=0,
                ha="right",
                va="center",
                fontsize=8,
            )
    return figure


def _probabilities(one: Measured, curve: Curve, severity: int) -> np.ndarray:
    name = curve.distortion if severity else "clean"
    case = Case(one.curves[0].background, name, severity)  # type: ignore[arg-type]
    return predictions.read(one.places[case]).probabilities


def _example(labels: np.ndarray, levels: Sequence[np.ndarray]) -> int:
    right = np.array([level.argmax(axis=1) == labels for level in levels])
    wrong = np.where(right[0], (~right).sum(axis=0), -1)
    sure = levels[0].max(axis=1)
    return int(np.lexsort((sure, wrong))[-1])


def _pictures(one: Measured, curve: Curve, row: int) -> list[np.ndarray]:
    found = one.found
    chosen = slice(row, row + 1)
    return [
        distort(
            found.images[chosen],
            seeds_of(found.table.id[chosen].tolist()),
            curve.distortion,
            severity,
            edge=found.edge,
            background=curve.background,  # type: ignore[arg-type]
            cell=found.cell[chosen],
        )[0]
        for severity in range(6)
    ]
