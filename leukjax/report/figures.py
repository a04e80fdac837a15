"""Draws the figures of one run: curves, confusion matrix, ROC, accuracy by subject."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import roc_curve

from leukjax.metrics import clustered, confusion
from leukjax.metrics.calibration import Bin
from leukjax.metrics.intervals import Interval, interval
from leukjax.metrics.scores import predicted_class
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
    save,
    style,
)
from leukjax.report.tables import number, span

MAX_NAMED_SUBJECTS = 45  # with more, the axis has ranks instead of names
MAX_NUMBERED_CLASSES = 12  # with more, the confusion matrix has no space for numbers


def write_figures(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    subjects: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    about: About,
    best_epoch: float | None = None,
) -> list[Path]:
    """Writes all figures of a run as PNG and SVG: curves, confusion, roc, subjects.

    Args:
      folder: created if it is missing.
      history: lines of metrics.jsonl; the parts train and val are drawn.
      labels, probabilities, subjects, groups: one row per evaluated image.
      about: what was evaluated.
      best_epoch: the epoch of the evaluated parameters; it is marked in the curves.

    Returns:
      The files written.
    """
    figures = {
        "curves": curves(history, about, best_epoch),
        "confusion": confusion_figure(labels, predicted_class(probabilities), about),
        "roc": roc_figure(labels, probabilities, groups, about),
        "subjects": subjects_figure(labels, predicted_class(probabilities), subjects, about),
    }
    return [path for name, figure in figures.items() for path in save(figure, folder, name)]


def curves(
    history: Sequence[Mapping[str, Any]], about: About, best_epoch: float | None = None
) -> Figure:
    """Draws loss and accuracy over epochs, for training and validation."""
    parts = (("train", "training", GREY, "s", "--"), ("val", "validation", BLUE, "o", "-"))
    with style():
        figure = Figure(figsize=(7.2, 3.2))
        entitle(figure, f"Training – {about.data}", about.marks())
        for axes, score in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            last, highest = 1.0, 0.0
            for part, name, colour, marker, line in parts:
                points = [
                    (float(row["epoch"]), row[score])
                    for row in history
                    if row["part"] == part and row.get(score) is not None
                ]
                if not points:
                    continue
                x, y = zip(*points, strict=True)
                last, highest = max(last, *x), max(highest, *y)
                axes.plot(
                    x,
                    y,
                    line,
                    marker=marker if len(points) <= 40 else None,
                    ms=4,
                    color=colour,
                    label=name,
                )
            if best_epoch is not None:
                axes.axvline(best_epoch, color=VERMILION, lw=1, ls=":", label="chosen epoch")
            axes.set(
                title=score.capitalize(), xlabel="epoch", xlim=(0, last + max(0.3, 0.04 * last))
            )
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            if score == "accuracy":
                axes.set_ylim(0, 1.02)
                axes.yaxis.set_major_formatter(PercentFormatter(1))
            else:
                axes.set_ylim(0, 1.1 * highest or 1)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
            else:
                axes.text(0.5, 0.5, "no values logged", ha="center", va="center",
                          transform=axes.transAxes, color=GREY)  # fmt: skip
    return figure


def confusion_figure(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], about: About
) -> Figure:
    """Draws the confusion matrix: numbers of images, and their share of the true class."""
    names = about.classes
    matrix = confusion.confusion_matrix(labels, predicted, len(names))
    size = 2.2 + 0.75 * min(len(names), 10)
    with style():
        figure = Figure(figsize=(size + 0.9, size))
        axes = figure.subplots()
        entitle(figure, f"Confusion matrix – {about.data}, {about.part}", about.marks())
        picture = draw_confusion(axes, matrix, names)
        bar = figure.colorbar(picture, ax=axes, shrink=0.8, format=PercentFormatter(1))
        bar.set_label("share of the true class")
    return figure


def draw_confusion(
    axes: Axes,
    matrix: Int[np.ndarray, "t c"],
    names: Sequence[str],
    *,
    small: bool = False,
    row_names: Sequence[str] | None = None,
) -> AxesImage:
    """Draws a confusion matrix: numbers and shares of the row.

    Args:
      axes: to draw on.
      matrix: true classes in rows, predicted ones in columns.
      names: of the columns.
      small: one panel of many.
      row_names: None = those of the columns.
    """
    share = confusion.ratio(matrix, matrix.sum(axis=1, keepdims=True))
    picture = axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(len(names))
    wrapped = [textwrap.fill(name, 12) for name in names]
    slanted = len(names) > 4 or any(len(line) > 12 for name in names for line in name.split())
    axes.set_xticks(
        ticks, wrapped, rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    if row_names is not None:
        wrapped = [textwrap.fill(name, 12) for name in row_names]
    axes.set_yticks(np.arange(len(wrapped)), wrapped)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(False)
    for (row, column), count in np.ndenumerate(matrix):
        if max(matrix.shape) > MAX_NUMBERED_CLASSES:
            break
        row_share = share[row, column]
        text = f"{count:,}" if np.isnan(row_share) else f"{count:,}\n{row_share:.1%}"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=(7 if small else 9) if max(matrix.shape) <= 6 else (4 if small else 6),
            color="white" if row_share > 0.55 else "black",
        )
    return picture


def roc_figure(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    about: About,
) -> Figure:
    """Draws the ROC of the positive class; above two classes, of each class against the rest."""
    classes = about.classes
    two = len(classes) == 2
    indices = [classes.index(about.positive)] if two else range(len(classes))
    with style():
        figure = Figure(figsize=(4.8, 5.0 + 0.19 * len(indices)))
        axes = figure.subplots()
        entitle(figure, f"ROC – {about.data}, {about.part}", about.marks())
        axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
        # The same computation as in the table of scores.
        data = clustered.group(labels, probabilities, groups)
        if not two:
            mean = interval("auroc", data, 0)
            axes.plot([], [], " ", label=_auroc("mean over classes, as in the table", mean))
        for i in indices:
            binary = np.stack([1 - probabilities[:, i], probabilities[:, i]], axis=1)
            is_class = (labels == i).astype(int)
            data_of_class = data if two else clustered.group(is_class, binary, groups)
            auroc = interval("auroc", data_of_class, i if two else 1)
            text = _auroc(classes[i] if two else f"{classes[i]} against the rest", auroc)
            if auroc.value is None:
                missing = "every image is" if is_class.all() else "no image is"
                axes.plot([], [], color=CLASSES[i % 6], label=f"{missing} {classes[i]}: undefined")
                continue
            false, true, _ = roc_curve(is_class, binary[:, 1])
            line = LINES[0] if two else LINES[(i + i // 6) % 4]
            axes.plot(
                false, true, line, color=CLASSES[i % 6], label=legend_label(text), clip_on=False
            )
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="1 − specificity",
            ylabel="sensitivity",
        )
        # Below the axes: inside, the legend can cover a curve.
        figure.legend(loc="outside lower center", title="95 % interval by group", title_fontsize=8)
    return figure


def _auroc(name: str, auroc: Interval) -> str:
    ends = span(auroc)
    return f"{name}: AUROC {number(auroc.value)}" + (f" ({ends})" if ends else "")


def subjects_figure(
    labels: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    subjects: Shaped[np.ndarray, " n"],
    about: About,
) -> Figure:
    """Draws the share of each subject's cells that were classified correctly, lowest first."""
    names, first, member, cells = np.unique(
        subjects, return_index=True, return_inverse=True, return_counts=True
    )
    accuracy = np.bincount(member, predicted == labels) / cells
    mixed = np.bincount(member, labels != labels[first][member]) > 0
    kind = np.where(mixed, -1, labels[first])  # class of the subject, -1 = several
    order = np.lexsort((names, kind, accuracy))
    with style():
        columns = max(1, min(len(about.classes) + 1, 90 // (8 + max(map(len, about.classes)))))
        figure = Figure(figsize=(7.2, 3.4 + 0.17 * (len(about.classes) + 1) / columns))
        axes = figure.subplots()
        entitle(figure, f"Accuracy by subject – {about.data}, {about.part}", about.marks())
        rank = np.empty(len(names))
        rank[order] = np.arange(1, len(names) + 1)
        largest = cells.max()
        named = len(names) <= MAX_NAMED_SUBJECTS
        for index in (*range(len(about.classes)), -1):
            in_class = kind == index
            if not in_class.any():
                continue
            several = index == -1
            axes.scatter(
                rank[in_class],
                accuracy[in_class],
                s=10 + (100 if named else 40) * cells[in_class] / largest,
                color=GREY if several else CLASSES[index % 6],
                marker="X" if several else MARKERS[index % 6],
                alpha=0.8,
                linewidths=0.5,
                edgecolors="white",
                label="several classes" if several else legend_label(about.classes[index]),
                clip_on=False,
                zorder=3,
            )
        axes.set(ylabel="correctly classified cells", ylim=(-0.03, 1.03), xlim=(0, len(names) + 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        if named:
            size = 7 if len(names) <= 30 else 6
            ticks = np.arange(1, len(names) + 1)
            axes.set_xticks(ticks, names[order], rotation=90, fontsize=size)
            axes.set_xlabel("subject")
        else:
            axes.set_xlabel(f"{len(names)} subjects, lowest accuracy first")
        axes.grid(axis="x", visible=False)
        sizes = f"{cells.min()} to {largest} cells, larger marks for more cells"
        figure.legend(
            loc="outside lower center",
            ncols=columns,
            title=f"one mark per subject: {sizes}",
            title_fontsize=8,
        )
    return figure


def draw_bins(
    axes: Axes, bins: Sequence[Bin], colour: str, marker: str, label: str, shift: float
) -> None:
    """Draws the bins of a reliability diagram, moved to the side by `shift`."""
    if not bins:
        return
    x = [b.predicted for b in bins]
    y = [b.observed for b in bins]
    axes.plot(x, y, marker=marker, ms=3.5, lw=1, color=colour, label=label)
    for b in bins:
        if b.low is not None and b.high is not None:
            at = b.predicted + shift
            axes.plot([at, at], [b.low, b.high], color=colour, lw=0.9, alpha=0.7)
