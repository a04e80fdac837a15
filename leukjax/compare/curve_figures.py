"""Curves of several models: over epochs with the spread of seeds, ROC and precision-recall."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from leukjax.compare.analysis import Study, data_of
from leukjax.compare.load_results import Entry
from leukjax.metrics import curves
from leukjax.metrics.curves import Curve
from leukjax.report.glyphs import legend_label
from leukjax.report.provenance import About
from leukjax.report.style import CLASSES, LINES, entitle, style
from leukjax.report.text_tables import number, span

PANELS = 6  # classes drawn against the rest; more would leave none of them legible


def look(index: int) -> dict[str, Any]:
    """Colour and line of the model at a place; told apart without colour, too."""
    return {"color": CLASSES[index % 6], "linestyle": LINES[(index + index // 6) % 4]}


def by_epoch(entry: Entry, part: str, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and a row of values a run; NaN where a run has none."""
    values: dict[float, dict[int, float]] = defaultdict(dict)
    for i, run in enumerate(entry.runs):
        for line in run.history:
            if line["part"] == part and line.get(score) is not None:
                values[float(line["epoch"])][i] = float(line[score])
    epochs = np.array(sorted(values))
    table = [[values[e].get(i, np.nan) for e in epochs] for i in range(len(entry.runs))]
    return epochs, np.array(table).reshape(len(entry.runs), len(epochs))


def training_figure(entries: Sequence[Entry], about: About) -> Figure | None:
    """Loss and accuracy over epochs, of training and validation; the band is the range of runs."""
    entries = [entry for entry in entries if entry.runs]
    if not entries:
        return None
    with style():
        figure = Figure(figsize=(7.2, 5.6))
        entitle(figure, f"Training – {about.data}", about.marks())
        grid = figure.subplots(2, 2, sharex=True)
        for row, (part, title) in zip(
            grid, (("train", "training"), ("val", "validation")), strict=True
        ):
            for axes, score in zip(row, ("loss", "accuracy"), strict=True):
                for i, entry in enumerate(entries):
                    epochs, values = by_epoch(entry, part, score)
                    if not len(epochs):
                        continue
                    # Only epochs that every run has: a mean of others would jump.
                    whole = ~np.isnan(values).any(axis=0)
                    x, y = epochs[whole], values[:, whole]
                    mark = "o" if len(x) <= 15 else None
                    axes.plot(x, y.mean(axis=0), marker=mark, ms=3, **look(i))
                    if len(y) > 1:
                        low, high = y.min(axis=0), y.max(axis=0)
                        axes.fill_between(x, low, high, color=look(i)["color"], alpha=0.2, lw=0)
                axes.set(title=f"{score.capitalize()}, {title}")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
                if score == "accuracy":
                    axes.set_ylim(0, 1.02)
                    axes.yaxis.set_major_formatter(PercentFormatter(1))
                else:
                    axes.set_ylim(bottom=0)
        for axes in grid[1]:
            axes.set_xlabel("epoch")
        runs = max(len(entry.runs) for entry in entries)
        said = f"line: mean of up to {runs} runs, band: their range" if runs > 1 else "one run each"
        handles = [
            Line2D([], [], label=legend_label(entry.name), **look(i))
            for i, entry in enumerate(entries)
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3, title=said, title_fontsize=8
        )
    return figure


def roc_figure(study: Study) -> Figure:
    """ROC of every model with its band, one panel, or with more than two classes one a class."""

    def label(entry: Entry) -> str:
        auroc = study.scored[entry.name].by_image["auroc"]
        return f"{entry.name}: AUROC {number(auroc.value)}" + _bracket(span(auroc))

    return _panels(
        study, curves.roc, label, ("1 − specificity", "sensitivity"), "ROC", diagonal=True
    )


def precision_recall_figure(study: Study) -> Figure:
    """Precision over recall of every model with its band."""

    def label(entry: Entry) -> str:
        found = study.scored[entry.name].by_image["average_precision"]
        return f"{entry.name}: average precision {number(found.value)}" + _bracket(span(found))

    return _panels(
        study, curves.precision_recall, label, ("recall", "precision"), "Precision and recall"
    )


def _bracket(text: str) -> str:
    return f" ({text})" if text else ""


def _panels(study: Study, curve, label, axes_names, title: str, diagonal: bool = False) -> Figure:
    about = study.about
    classes = about.classes
    drawn = [study.positive] if len(classes) == 2 else list(range(len(classes)))[:PANELS]
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    side = 4.4 if len(drawn) == 1 else 3.0
    with style():
        legend = 0.35 + 0.18 * len(study.shown)
        figure = Figure(figsize=(max(4.8, side * columns), side * rows + legend + 0.6))
        entitle(figure, f"{title} – {about.data}, {about.part}", about.marks())
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        for axes, c in zip(grid.flat, drawn, strict=False):
            for i, entry in enumerate(study.shown):
                data = data_of(entry.predictions)
                is_class = data.labels == c
                if is_class.all() or not is_class.any():
                    continue
                _draw(axes, curve(data, c), i, steps=not diagonal)
            if diagonal:
                axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
            else:
                share = float((study.test.labels == c).mean())
                axes.axhline(share, color="#AAAAAA", lw=1, ls=":")
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
            whom = (
                f"{classes[c]} against the rest" if len(classes) > 2 else f"positive: {classes[c]}"
            )
            axes.set_title(whom, fontsize=9)
        handles = [
            Line2D([], [], label=legend_label(label(entry)), **look(i))
            for i, entry in enumerate(study.shown)
        ]
        mean = "; mean over classes" if len(classes) > 2 else ""
        figure.legend(
            handles=handles,
            loc="outside lower center",
            title=f"95 % interval by group{mean}; band: cluster bootstrap, pointwise",
            title_fontsize=8,
        )
    return figure


def _draw(axes, curve: Curve, index: int, steps: bool) -> None:
    kind: dict[str, Any] = {"drawstyle": "steps-pre"} if steps else {}
    x, y = curve.x, curve.y
    if steps:
        x, y = np.append(0.0, x), np.append(y[0], y)
    axes.plot(x, y, clip_on=False, **look(index), **kind)
    if not np.isnan(curve.low).all():
        axes.fill_between(
            curve.grid, curve.low, curve.high, color=look(index)["color"], alpha=0.15, lw=0
        )
