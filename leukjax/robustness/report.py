"""The report of `leukjax.robustness`: tables for the screen and a file, curves and pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.images.distort import DISTORTIONS
from leukjax.metrics import predictions
from leukjax.metrics.intervals import METHODS
from leukjax.metrics.robustness import MAIN, Curve, Relative
from leukjax.report.glyphs import legend_label
from leukjax.report.provenance import About
from leukjax.report.style import BLUE, CLASSES, GREY, MARKERS, VERMILION, entitle, style
from leukjax.report.text_tables import number, render, span
from leukjax.robustness.predictions import CLEAN, Case, PartImages

COLUMNS = 4  # panels per row of the curves
MAX_EXAMPLES = 6  # distortions in the sheet of pictures
KINDS = {"masked": "cell alone", "as_published": "whole image"}


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run and its scores under distortion.

    Attributes:
      run: its work directory.
      name: for tables and figures.
      about: what was scored.
      images: the images that were distorted.
      paths: files of the predictions of each case.
      curves: one per distortion and background, in the order of the suite.
      relative: relative to the reference run, in the order of `curves`; empty without a reference.
    """

    run: Path
    name: str
    about: About
    images: PartImages
    paths: Mapping[Case, Path]
    curves: Sequence[Curve]
    relative: Sequence[Relative] = ()


def screen(results: Sequence[RunResult], reference: str | None) -> str:
    """Returns one table per run as text, the most harmful distortion first."""
    blocks = []
    for result in results:
        title = f"{result.name}: {_title(result)}"
        blocks.append(f"{title}\n{'=' * len(title)}\n\n{_table(result, markdown=False)}")
    return "\n\n".join([*blocks, "\n".join(_notes(results, reference))])


def document(results: Sequence[RunResult], reference: str | None) -> str:
    """Returns the report as Markdown."""
    parts = ["# Robustness against distortion", "![curves](curves.png)"]
    parts += [f"- {note}" for note in _notes(results, reference)]
    for result in results:
        parts += [f"## {result.name}", _title(result) + ".", _table(result, markdown=True)]
    operations = [
        [
            name,
            "MedMNIST-C" if entry.published else "leukjax",
            entry.what,
            ", ".join(map(str, entry.severities)),
        ]
        for name, entry in DISTORTIONS.items()
    ]
    header = ["distortion", "source", "operation", "severities 1 to 5 (lengths at 224 px)"]
    parts += ["## The suite", render(header, operations, markdown=True, left=(0, 1, 2, 3))]
    return "\n\n".join(parts) + "\n"


def _title(result: RunResult) -> str:
    return (
        f"balanced accuracy on {result.about.part} of {result.about.data}, "
        f"{len(result.images.clean):,} images, distorted in five severities"
    )


def _table(result: RunResult, *, markdown: bool) -> str:
    related: Sequence[Relative | None] = result.relative or [None] * len(result.curves)
    rows = sorted(
        zip(result.curves, related, strict=True),
        key=lambda pair: -(pair[0].mean_drop.value or 0.0),
    )
    body = []
    for curve, relative in rows:
        between = span(curve.mean_drop, 3)
        kind = KINDS[curve.background] if DISTORTIONS[curve.distortion].masked else "either"
        row = [curve.distortion, kind, *map(number, curve.values())]
        row += [number(curve.mean_drop.value), between.replace("–", " to ")]
        if relative is not None:
            row += [number(relative.error, 2), number(relative.drop, 2)]
        body.append(row)
    header = ["distortion", "background", "clean", *"12345", "mean\ndrop", "95 %\ninterval"]
    if result.relative:
        header += ["relative\nerror", "relative\ndrop"]
    return render(header, body, markdown=markdown, left=(0, 1))


def _notes(results: Sequence[RunResult], reference: str | None) -> list[str]:
    about = results[0].about
    notes = [
        *about.warnings(),
        f"Mean drop: clean minus distorted {MAIN.replace('_', ' ')}, over five severities, paired "
        f"by group ({results[0].curves[0].mean_drop.groups} groups); interval: "
        f"{METHODS['jackknife']}.",
    ]
    if any(len({c.background for c in result.curves}) > 1 for result in results):
        notes.append(
            "Background: 'cell alone' keeps exact black, 'whole image' distorts it too, as the "
            "published benchmark does; 'either' where both are the same."
        )
    if reference is not None:
        notes.append(
            f"Relative error and relative drop: divided by those of {reference}; – where it makes "
            "no error, or does not drop."
        )
    return notes


def curves(results: Sequence[RunResult]) -> Figure:
    """Draws a panel per distortion, with a line and its band per run.

    The dashed line is the whole image distorted, background included, where that differs.
    """
    names = list(dict.fromkeys(curve.distortion for result in results for curve in result.curves))
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    about = results[0].about
    with style():
        figure = Figure(figsize=(max(5.0, 2.05 * columns), 1.2 + 1.55 * rows))
        entitle(figure, f"Robustness – {about.data}, {about.part}", about.marks())
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            for i, result in enumerate(results):
                for curve in result.curves:
                    if curve.distortion == name:
                        _draw(axes, curve, i, result)
            axes.axhline(1 / len(about.classes), color=GREY, lw=0.8, ls=":")
            axes.set_title(name.replace("_", " "), fontsize=8)
            axes.set(xlim=(-0.2, 5.2), ylim=(-0.02, 1.04), xticks=range(6))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.tick_params(labelsize=7)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        for column in range(columns):
            # The lowest panel of a column has the tick labels, also where the last row is not full.
            lowest = (len(names) - 1 - column) // columns
            grid[lowest, column].tick_params(labelbottom=True)
            grid[lowest, column].set_xlabel("severity (0 = clean)", fontsize=7)
        figure.supylabel("balanced accuracy", fontsize=8)
        lines: list[Any] = [
            figure.axes[0].plot([], [], marker=MARKERS[i % 6], ms=4, color=CLASSES[i % 6])[0]
            for i in range(len(results))
        ]
        labels = [legend_label(result.name) for result in results]
        lines += [figure.axes[0].fill_between([], [], [], color=GREY, alpha=0.25, lw=0)]
        labels.append("band: 95 % interval by group")
        if len({curve.background for result in results for curve in result.curves}) > 1:
            lines += figure.axes[0].plot([], [], color=GREY, ls="--")
            labels.append("dashed: black background distorted too (as published)")
        lines += figure.axes[0].plot([], [], color=GREY, lw=0.8, ls=":")
        labels.append("chance")
        figure.legend(lines, labels, loc="outside lower center", ncols=1 if columns < 3 else 2)
    return figure


def _draw(axes, curve: Curve, i: int, result: RunResult) -> None:
    points = curve.points[MAIN]
    first = curve.background == result.curves[0].background
    x = [point.severity for point in points]
    y = [np.nan if point.interval.value is None else point.interval.value for point in points]
    colour = CLASSES[i % 6]
    if not first:
        axes.plot(x, y, "--", color=colour, lw=1)
        return
    axes.plot(x, y, marker=MARKERS[i % 6], ms=3, color=colour)
    low, high = (
        [np.nan if value is None else value for value in column]
        for column in (
            [point.interval.low for point in points],
            [point.interval.high for point in points],
        )
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def harm(result: RunResult) -> Figure:
    """Draws the most harmful distortions, each on an image that it makes the run misclassify.

    Shown is the image, right when clean, that is wrong at most severities; of several the one with
    the highest confidence.
    """
    first = result.curves[0].background
    worst = sorted(
        (curve for curve in result.curves if curve.background == first),
        key=lambda curve: -(curve.mean_drop.value or 0.0),
    )[:MAX_EXAMPLES]
    classes = result.about.classes
    with style():
        figure = Figure(figsize=(9.0, 0.9 + 1.5 * len(worst)), facecolor="white")
        entitle(figure, f"Most harmful to {result.name}", result.about.marks())
        grid = figure.subplots(len(worst), 6, squeeze=False)
        for axes_row, curve in zip(grid, worst, strict=True):
            levels = [_probabilities(result, curve, severity) for severity in range(6)]
            row = _example(result.images.clean.labels, levels)
            pictures = _pictures(result, curve, row)
            label = int(result.images.clean.labels[row])
            for severity, (axes, picture) in enumerate(zip(axes_row, pictures, strict=True)):
                predicted = int(levels[severity][row].argmax())
                axes.imshow(picture, interpolation="nearest")
                axes.grid(False)
                axes.set(xticks=[], yticks=[])
                wrong = predicted != label
                axes.spines[:].set(
                    visible=True,
                    color=VERMILION if wrong else BLUE,
                    linewidth=2.5 if wrong else 1,
                    linestyle="--" if wrong else "-",
                )
                confidence = levels[severity][row].max()
                verdict = "wrong" if wrong else "right"
                axes.set_xlabel(f"{classes[predicted]} {confidence:.0%}, {verdict}", fontsize=7)
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


def _probabilities(result: RunResult, curve: Curve, severity: int) -> np.ndarray:
    name = curve.distortion if severity else CLEAN
    case = Case(result.curves[0].background, name, severity)  # type: ignore[arg-type]
    return predictions.read(result.paths[case]).probabilities


def _example(labels: np.ndarray, levels: Sequence[np.ndarray]) -> int:
    right = np.array([level.argmax(axis=1) == labels for level in levels])
    wrong = np.where(right[0], (~right).sum(axis=0), -1)
    confidence = levels[0].max(axis=1)
    return int(np.lexsort((confidence, wrong))[-1])


def _pictures(result: RunResult, curve: Curve, row: int) -> list[np.ndarray]:
    images = result.images.take(slice(row, row + 1))
    return [
        images.distorted(Case(curve.background, curve.distortion, severity))[0]  # type: ignore[arg-type]
        for severity in range(6)
    ]
