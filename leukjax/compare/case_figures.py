"""Where models fail: confusion matrices, subjects, and the mistakes they were most sure of."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.compare.analysis import Study
from leukjax.metrics import confusion
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import predicted_class
from leukjax.report.figures import SUBJECTS_NAMED, draw_confusion
from leukjax.report.glyphs import legend_label
from leukjax.report.style import CLASSES, MARKERS, entitle, style

MISTAKES = 8  # pictures a model


def confusion_figure(study: Study) -> Figure:
    """The confusion matrix of every model, shaded by the share of the true class."""
    names = study.about.classes
    columns = min(3, len(study.shown))
    rows = -(-len(study.shown) // columns)
    size = 1.5 + 0.55 * min(len(names), 10)
    with style():
        figure = Figure(figsize=(max(4.0, size * columns + 0.4), (size + 0.3) * rows + 0.6))
        title = f"Confusion – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(study.shown) :]:
            axes.set_axis_off()
        for axes, entry in zip(grid.flat, study.shown, strict=False):
            p = entry.predictions
            matrix = confusion.confusion_matrix(
                p.labels, predicted_class(p.probabilities), len(names)
            )
            draw_confusion(axes, matrix, names, small=True)
            axes.set_title(entry.name, fontsize=9)
            if axes not in grid[:, 0]:
                axes.set_ylabel("")
    return figure


def subjects_figure(study: Study) -> Figure:
    """Share of each subject's cells that every model called right, the hardest subject first."""
    test = study.test
    names, first, member, cells = np.unique(
        test.subject, return_index=True, return_inverse=True, return_counts=True
    )
    right = np.stack(
        [
            np.bincount(member, predicted_class(e.predictions.probabilities) == test.labels) / cells
            for e in study.shown
        ]
    )
    mixed = np.bincount(member, test.labels != test.labels[first][member]) > 0
    order = np.lexsort((names, right.mean(axis=0)))
    x = np.arange(1, len(names) + 1)
    named = len(names) <= SUBJECTS_NAMED
    with style():
        figure = Figure(figsize=(7.2, 3.6 + 0.2 * (-(-len(study.shown) // 3))))
        axes = figure.subplots()
        title = f"Accuracy by subject – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        if len(study.shown) > 1:
            low, high = right.min(axis=0)[order], right.max(axis=0)[order]
            axes.vlines(x, low, high, color="#BBBBBB", lw=1, zorder=1)
        for i, entry in enumerate(study.shown):
            # Side by side, or equal ones would hide each other.
            aside = 0.6 / len(study.shown) * (i - (len(study.shown) - 1) / 2)
            axes.scatter(
                x + aside,
                right[i, order],
                s=26 if named else 10,
                color=CLASSES[i % 6],
                marker=MARKERS[i % 6],
                alpha=0.85,
                edgecolors="white",
                linewidths=0.4,
                label=legend_label(entry.name),
                clip_on=False,
                zorder=3,
            )
        axes.set(ylabel="cells called right", ylim=(-0.03, 1.03), xlim=(0, len(names) + 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        if named:
            # With single-class subjects the class belongs to the name.
            classes = study.about.classes
            shown = [
                str(names[s]) + ("" if mixed.any() else f" ({classes[test.labels[first[s]]]})")
                for s in order
            ]
            axes.set_xticks(x, shown, rotation=90, fontsize=7 if len(names) <= 30 else 6)
        else:
            axes.set_xlabel(f"{len(names)} subjects, hardest first")
        figure.legend(
            loc="outside lower center",
            ncols=3,
            title=f"hardest first; {cells.min()} to {cells.max()} cells a subject",
            title_fontsize=8,
        )
    return figure


def confident_mistakes(predictions: Predictions, count: int = MISTAKES) -> np.ndarray:
    """Rows that were called wrong, the surest first; ties by id."""
    called = predicted_class(predictions.probabilities)
    wrong = np.flatnonzero(called != predictions.labels)
    sure = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.lexsort((predictions.id[wrong], -sure))][:count]


def gallery_figure(
    study: Study,
    rows: Sequence[np.ndarray],
    pictures: Sequence[UInt8[np.ndarray, "n s s 3"]],
) -> Figure:
    """The most confident mistakes of every model.

    Args:
        study: the models.
        rows: of each shown model's predictions: what `confident_mistakes` gives.
        pictures: these images.
    """
    classes = study.about.classes
    with style():
        figure = Figure(figsize=(7.2, 0.5 + 1.35 * len(study.shown)))
        title = f"Most confident mistakes – {study.about.data}, {study.about.part}"
        entitle(figure, title, study.about.marks())
        grid = figure.subplots(len(study.shown), MISTAKES, squeeze=False)
        for entry, its_rows, images, line in zip(study.shown, rows, pictures, grid, strict=True):
            p = entry.predictions
            called = predicted_class(p.probabilities)
            for axes, place in zip(line, range(MISTAKES), strict=True):
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if place >= len(its_rows):
                    continue
                row = its_rows[place]
                axes.imshow(images[place], interpolation="nearest")
                sure = p.probabilities[row].max()
                truth, taken = classes[p.labels[row]], classes[called[row]]
                axes.set_title(f"{truth} →\n{taken} {sure:.1%}", fontsize=6.5, fontweight="normal")
                axes.set_xlabel(f"subject\n{_short(str(p.subject[row]))}", fontsize=6)
            line[0].set_ylabel(entry.name, fontsize=8, fontweight="bold")
    return figure


def _short(text: str, most: int = 16) -> str:
    return text if len(text) <= most else "…" + text[-most + 1 :]
