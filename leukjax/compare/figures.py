"""Draws scores and curves of several models: bars, differences, training, ROC, reliability."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from leukjax.compare.analysis import Pair, Study, grouped, leading_tests
from leukjax.compare.load_results import Entry
from leukjax.metrics import curves
from leukjax.metrics.clustered import Grouped
from leukjax.metrics.curves import Curve
from leukjax.metrics.intervals import Interval
from leukjax.report.figures import draw_bins
from leukjax.report.provenance import About
from leukjax.report.style import (
    BLUE,
    CLASSES,
    GREY,
    LINES,
    MARKERS,
    VERMILION,
    entitle,
    legend_label,
    style,
)
from leukjax.report.tables import COLUMNS, number, p_value, span, title_of

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo")
MAX_PANELS = 6  # classes with a panel against the rest; more panels would be illegible


def line_style(index: int) -> dict[str, Any]:
    """Returns colour and line of the model with this index; they differ without colour, too."""
    return {"color": CLASSES[index % 6], "linestyle": LINES[(index + index // 6) % 4]}


def model_lines(labels: Sequence[str]) -> list[Line2D]:
    """Returns the entries of a legend with one line per model."""
    return [
        Line2D([], [], label=legend_label(label), **line_style(i)) for i, label in enumerate(labels)
    ]


def panels(figure: Figure, count: int, *, shared: bool = False) -> tuple[np.ndarray, list[Axes]]:
    """Adds a grid of at most three columns; returns it, and the first `count` of its axes.

    With `shared` all panels have the same x and y axes.
    """
    columns = min(3, count)
    grid = figure.subplots(
        -(-count // columns), columns, squeeze=False, sharex=shared, sharey=shared
    )
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return grid, list(grid.flat[:count])


def bars_figure(
    scores: Mapping[str, Mapping[str, Interval]],
    about: About,
    title: str,
    names: Sequence[str] = tuple(COLUMNS),
) -> Figure:
    """Draws one bar per model and score, with its interval.

    Args:
      scores: by model, by score.
      about: what was evaluated.
      title: of the figure.
      names: of the scores, from left to right.
    """
    width = 0.8 / len(scores)
    with style():
        figure = Figure(figsize=(7.2, 3.4 + 0.18 * ((len(scores) + 2) // 3)))
        axes = figure.subplots()
        entitle(figure, title, about.marks())
        for i, (model, by_score) in enumerate(scores.items()):
            for position, name in enumerate(names):
                score = by_score.get(name)
                x = position + (i - (len(scores) - 1) / 2) * width
                if score is None or score.value is None:
                    axes.text(
                        x, 0.02, "undefined", rotation=90, ha="center", fontsize=6, color=GREY
                    )
                    continue
                axes.bar(
                    x,
                    score.value,
                    width * 0.92,
                    color=CLASSES[i % 6],
                    hatch=HATCHES[i % 6],
                    edgecolor="white",
                    lw=0,
                    label=legend_label(model) if position == 0 else None,
                )
                if score.low is not None and score.high is not None:
                    axes.plot([x, x], [score.low, score.high], color="black", lw=1.1)
        axes.set_xticks(range(len(names)), [COLUMNS.get(name, name) for name in names])
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        figure.legend(
            loc="outside lower center", ncols=3, title="95 % interval by group", title_fontsize=8
        )
    return figure


def differences_figure(pairs: Sequence[Pair], about: About) -> Figure | None:
    """Draws paired differences with their intervals, and p of `leading_tests` beside them."""
    pairs = [pair for pair in leading_tests(pairs) if pair.result.difference is not None]
    if not pairs:
        return None
    models = list(dict.fromkeys((pair.a, pair.b) for pair in pairs))
    scores = list(dict.fromkeys(pair.result.score for pair in pairs))
    with style():
        figure = Figure(figsize=(7.2, 1.5 + 0.24 * (len(pairs) + len(models))))
        axes = figure.subplots()
        entitle(figure, f"Paired differences – {about.data}, {about.part}", about.marks())
        right_of_axes: dict[str, Any] = {
            "va": "center",
            "fontsize": 8,
            "transform": axes.get_yaxis_transform(),
        }
        y, ticks, labels = 0, [], []
        reach = 0.01
        for a, b in models:
            axes.text(
                0,
                y,
                f"{a} minus {b}",
                transform=axes.get_yaxis_transform(),
                fontsize=9,
                fontweight="bold",
                va="center",
                bbox={"color": "white", "pad": 1},
            )
            y += 1
            for pair in [p for p in pairs if (p.a, p.b) == (a, b)]:
                result = pair.result
                index = scores.index(result.score) % 6
                value = result.difference or 0.0
                low = value if result.low is None else result.low
                high = value if result.high is None else result.high
                reach = max(reach, abs(low), abs(high))
                axes.plot([low, high], [y, y], color=CLASSES[index], lw=2, solid_capstyle="butt")
                axes.plot(value, y, MARKERS[index], color=CLASSES[index], ms=6)
                p_text = f"{p_value(result.p)}  ({p_value(pair.p_holm)})"
                axes.text(1.01, y, p_text, **right_of_axes)
                ticks.append(y)
                labels.append(title_of(result.score) + (" (primary)" if pair.primary else ""))
                y += 1
        axes.text(1.01, -1, "p  (Holm)", fontweight="bold", **right_of_axes)
        axes.axvline(0, color="black", lw=1)
        axes.set(
            xlim=(-1.1 * reach, 1.1 * reach),
            ylim=(y - 0.4, -0.8),
            xlabel=f"difference, with its 95 % interval by group ({pairs[0].result.groups} groups)",
        )
        axes.set_yticks(ticks, labels)
        axes.grid(axis="y", visible=False)
    return figure


def by_epoch(entry: Entry, part: str, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the epochs, and the values as [run, epoch]; NaN where a run has none."""
    values: dict[float, dict[int, float]] = defaultdict(dict)
    for i, run in enumerate(entry.runs):
        for record in run.history:
            if record["part"] == part and record.get(score) is not None:
                values[float(record["epoch"])][i] = float(record[score])
    epochs = np.array(sorted(values))
    table = [[values[e].get(i, np.nan) for e in epochs] for i in range(len(entry.runs))]
    return epochs, np.array(table).reshape(len(entry.runs), len(epochs))


def training_figure(entries: Sequence[Entry], about: About) -> Figure | None:
    """Draws loss and accuracy over epochs, for training and validation; bands: range of runs."""
    entries = [entry for entry in entries if entry.runs]
    trained = [not entry.is_probe for entry in entries]
    if not any(trained):
        return None
    with style():
        figure = Figure(figsize=(7.2, 5.6))
        entitle(figure, f"Training – {about.data}", about.marks())
        grid = figure.subplots(2, 2, sharex=True)
        parts = (("train", "training"), ("val", "validation"))
        for row, (part, title) in zip(grid, parts, strict=True):
            for axes, score in zip(row, ("loss", "accuracy"), strict=True):
                for i, entry in enumerate(entries):
                    _draw_epochs(axes, *by_epoch(entry, part, score), line_style(i))
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
        lines = model_lines([entry.name for entry in entries])
        figure.legend(
            handles=[line for line, shown in zip(lines, trained, strict=True) if shown],
            loc="outside lower center",
            ncols=3,
            title=f"line: mean of up to {runs} runs, band: their range"
            if runs > 1
            else "one run each",
            title_fontsize=8,
        )
    return figure


def _draw_epochs(axes: Axes, epochs: np.ndarray, values: np.ndarray, look: dict[str, Any]) -> None:
    if not len(epochs):
        return
    # Only epochs with values of all runs: a mean over fewer runs would jump.
    complete = ~np.isnan(values).any(axis=0)
    x, y = epochs[complete], values[:, complete]
    axes.plot(x, y.mean(axis=0), marker="o" if len(x) <= 15 else None, ms=3, **look)
    if len(y) > 1:
        low, high = y.min(axis=0), y.max(axis=0)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.2, lw=0)


def roc_figure(study: Study) -> Figure:
    """Draws the ROC of each model with its band; above two classes one panel per class."""
    labels = _score_labels(study, "auroc", "AUROC")
    figure, axes_of_class = _curves(study, curves.roc, labels, "ROC", steps=False)
    for axes in axes_of_class.values():
        axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    return figure


def precision_recall_figure(study: Study) -> Figure:
    """Draws precision over recall of each model with its band."""
    labels = _score_labels(study, "average_precision", "average precision")
    figure, axes_of_class = _curves(
        study, curves.precision_recall, labels, "Precision and recall", steps=True
    )
    for index, axes in axes_of_class.items():
        share = float((study.test.labels == index).mean())
        axes.axhline(share, color="#AAAAAA", lw=1, ls=":")
        axes.set(xlabel="recall", ylabel="precision")
    return figure


def _score_labels(study: Study, score: str, title: str) -> list[str]:
    labels = []
    for entry in study.ranked:
        interval = study.scores[entry.name].by_image[score]
        ends = f" ({span(interval)})" if span(interval) else ""
        labels.append(f"{entry.name}: {title} {number(interval.value)}{ends}")
    return labels


def _curves(
    study: Study,
    curve: Callable[[Grouped, int], Curve],
    labels: Sequence[str],
    title: str,
    *,
    steps: bool,
) -> tuple[Figure, dict[int, Axes]]:
    """Draws one curve per model in one panel per class; returns the panels by class."""
    about, classes = study.about, study.about.classes
    two = len(classes) == 2
    indices = [study.positive] if two else list(range(len(classes)))[:MAX_PANELS]
    columns = min(3, len(indices))
    rows = -(-len(indices) // columns)
    side = 4.4 if len(indices) == 1 else 3.0
    with style():
        legend = 0.35 + 0.18 * len(study.ranked)
        figure = Figure(figsize=(max(4.8, side * columns), side * rows + legend + 0.6))
        entitle(figure, f"{title} – {about.data}, {about.part}", about.marks())
        axes_of_class = dict(zip(indices, panels(figure, len(indices))[1], strict=True))
        for index, axes in axes_of_class.items():
            for i, entry in enumerate(study.ranked):
                data = grouped(entry.predictions)
                if 0 < (data.labels == index).sum() < len(data.labels):
                    _draw_curve(axes, curve(data, index), line_style(i), steps=steps)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            name = classes[index]
            axes.set_title(f"positive: {name}" if two else f"{name} against the rest", fontsize=9)
        mean = "" if two else "; mean over classes"
        figure.legend(
            handles=model_lines(labels),
            loc="outside lower center",
            title=f"95 % interval by group{mean}; band: cluster bootstrap, pointwise",
            title_fontsize=8,
        )
    return figure, axes_of_class


def _draw_curve(axes: Axes, curve: Curve, look: dict[str, Any], *, steps: bool) -> None:
    x, y = curve.x, curve.y
    if steps:
        x, y = np.append(0.0, x), np.append(y[0], y)
    axes.plot(x, y, clip_on=False, drawstyle="steps-pre" if steps else "default", **look)
    if not np.isnan(curve.low).all():
        axes.fill_between(curve.grid, curve.low, curve.high, color=look["color"], alpha=0.15, lw=0)


def reliability_figure(study: Study) -> Figure:
    """Draws the reliability diagram of each model, before and after temperature scaling."""
    about, two = study.about, len(study.about.classes) == 2
    columns = min(3, len(study.ranked))
    rows = -(-len(study.ranked) // columns)
    with style():
        figure = Figure(figsize=(max(4.4, 2.5 * columns), 2.7 * rows + 1.2))
        entitle(figure, f"Reliability – {about.data}, {study.calibrated_part}", about.marks())
        grid, axes_of_models = panels(figure, len(study.ranked), shared=True)
        for axes, entry in zip(axes_of_models, study.ranked, strict=True):
            result = study.calibration[entry.name]
            axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
            draw_bins(axes, result.bins_before, BLUE, "o", "model output", -0.006)
            draw_bins(axes, result.bins_after, VERMILION, "s", "after temperature scaling", 0.006)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            after = result.scores_after.values["ece"] if result.scores_after else None
            ece = f"ECE {number(result.scores_before.values['ece'])}"
            ece += f" → {number(after)}" if after is not None else ""
            axes.set_title(f"{entry.name}\n{ece}", fontsize=8)
        x_label = f"probability of {about.positive}" if two else "largest probability"
        for axes in grid[-1]:
            axes.set_xlabel(x_label, fontsize=8)
        figure.supylabel(
            f"share of {about.positive}" if two else "share of correct images", fontsize=9
        )
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2,
            title="bins of equal numbers of images; 95 % interval by group",
            title_fontsize=8,
        )
    return figure
