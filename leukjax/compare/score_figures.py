"""Scores of several models side by side: bars, paired differences, inflation, reliability."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.compare.analysis import Pair, Study, leading_tests
from leukjax.metrics.calibration import Bin
from leukjax.metrics.intervals import Interval
from leukjax.report.glyphs import legend_label
from leukjax.report.provenance import About
from leukjax.report.style import BLUE, CLASSES, GREY, MARKERS, VERMILION, entitle, style
from leukjax.report.tables import p_value
from leukjax.report.text_tables import COLUMNS, number

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo")


_TITLES = {
    "loss": "log loss",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_equal_mass": "ECE (equal mass)",
}


def title_of(score: str) -> str:
    """A score as tables name it, on one line."""
    name = COLUMNS.get(score) or _TITLES.get(score, score.replace("_", " "))
    return name.replace("\n", " ")


def bars_figure(
    scored: Mapping[str, Mapping[str, Interval]],
    about: About,
    title: str,
    scores: Sequence[str] = tuple(COLUMNS),
    below: str = "95 % interval by group",
) -> Figure:
    """A bar a model and score, with its interval.

    Args:
        scored: by model, by score.
        about: what was scored.
        title: above all.
        scores: names, from left to right.
        below: title of the legend.
    """
    width = 0.8 / len(scored)
    with style():
        figure = Figure(figsize=(7.2, 3.4 + 0.18 * ((len(scored) + 2) // 3)))
        axes = figure.subplots()
        entitle(figure, title, about.marks())
        for i, (model, found) in enumerate(scored.items()):
            for place, score in enumerate(scores):
                one = found.get(score)
                x = place + (i - (len(scored) - 1) / 2) * width
                if one is None or one.value is None:
                    axes.text(
                        x, 0.02, "undefined", rotation=90, ha="center", fontsize=6, color=GREY
                    )
                    continue
                axes.bar(
                    x,
                    one.value,
                    width * 0.92,
                    color=CLASSES[i % 6],
                    hatch=HATCHES[i % 6],
                    edgecolor="white",
                    lw=0,
                    label=legend_label(model) if place == 0 else None,
                )
                if one.low is not None and one.high is not None:
                    axes.plot([x, x], [one.low, one.high], color="black", lw=1.1)
        axes.set_xticks(range(len(scores)), [COLUMNS.get(s, s) for s in scores])
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside lower center", ncols=3, title=below, title_fontsize=8)
    return figure


def differences_figure(pairs: Sequence[Pair], about: About) -> Figure | None:
    """Paired differences with their intervals and p: does 0 lie inside?

    With each the test of `study.leading_tests`, as in the table.
    """
    shown = [pair for pair in leading_tests(pairs) if pair.found.difference is not None]
    if not shown:
        return None
    names = list(dict.fromkeys((pair.a, pair.b) for pair in shown))
    scores = list(dict.fromkeys(pair.found.score for pair in shown))
    lines = len(shown) + len(names)
    with style():
        figure = Figure(figsize=(7.2, 1.5 + 0.24 * lines))
        axes = figure.subplots()
        entitle(figure, f"Paired differences – {about.data}, {about.part}", about.marks())
        y, ticks, labels = 0.0, [], []
        reach = 0.01
        for a, b in names:
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
            for pair in [p for p in shown if (p.a, p.b) == (a, b)]:
                found = pair.found
                which = scores.index(found.score)
                middle = found.difference or 0.0
                low = middle if found.low is None else found.low
                high = middle if found.high is None else found.high
                reach = max(reach, abs(low), abs(high))
                axes.plot(
                    [low, high], [y, y], color=CLASSES[which % 6], lw=2, solid_capstyle="butt"
                )
                axes.plot(middle, y, MARKERS[which % 6], color=CLASSES[which % 6], ms=6)
                axes.text(1.01, y, f"{p_value(found.p)}  ({p_value(pair.p_holm)})", fontsize=8,
                          va="center", transform=axes.get_yaxis_transform())  # fmt: skip
                ticks.append(y)
                labels.append(title_of(found.score) + (" (primary)" if pair.primary else ""))
                y += 1
        axes.text(1.01, -1, "p  (Holm)", fontsize=8, va="center", fontweight="bold",
                  transform=axes.get_yaxis_transform())  # fmt: skip
        axes.axvline(0, color="black", lw=1)
        axes.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(y - 0.4, -0.8), xlabel="difference, with"
                 f" its 95 % interval by group ({shown[0].found.groups} groups)")  # fmt: skip
        axes.set_yticks(ticks, labels)
        axes.grid(axis="y", visible=False)
    return figure


def reliability_figure(study: Study) -> Figure:
    """Reliability diagram of every model, before and after temperature scaling."""
    about, two = study.about, len(study.about.classes) == 2
    columns = min(3, len(study.shown))
    rows = -(-len(study.shown) // columns)
    with style():
        figure = Figure(figsize=(max(4.4, 2.5 * columns), 2.7 * rows + 1.2))
        entitle(figure, f"Reliability – {about.data}, {study.calibrated_part}", about.marks())
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(study.shown) :]:
            axes.set_axis_off()
        for axes, entry in zip(grid.flat, study.shown, strict=False):
            found = study.calibration[entry.name]
            axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
            _bins(axes, found.bins_before, BLUE, "o", "as the model gives it", -0.006)
            _bins(axes, found.bins_after, VERMILION, "s", "after temperature scaling", 0.006)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            after = found.scores_after.values["ece"] if found.scores_after else None
            ece = f"ECE {number(found.scores_before.values['ece'])}"
            ece += f" → {number(after)}" if after is not None else ""
            axes.set_title(f"{entry.name}\n{ece}", fontsize=8)
        what = f"probability of {about.positive}" if two else "largest probability"
        for axes in grid[-1]:
            axes.set_xlabel(what, fontsize=8)
        figure.supylabel(f"share that is {about.positive}" if two else "share right", fontsize=9)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2,
                      title="bins of equal numbers of images; 95 % interval by group",
                      title_fontsize=8)  # fmt: skip
    return figure


def _bins(axes, bins: Sequence[Bin], colour: str, marker: str, label: str, shift: float) -> None:
    if not bins:
        return
    x = np.array([b.predicted for b in bins])
    y = np.array([b.observed for b in bins])
    axes.plot(x, y, marker=marker, ms=3.5, lw=1, color=colour, label=label)
    for b in bins:
        if b.low is not None and b.high is not None:
            at = b.predicted + shift
            axes.plot([at, at], [b.low, b.high], color=colour, lw=0.9, alpha=0.7)
