"""Curves of score against severity, where a run has been distorted (`leukjax.robustness`)."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from leukjax.compare.curve_figures import look
from leukjax.compare.load_results import Entry
from leukjax.errors import UserError
from leukjax.report.glyphs import legend_label
from leukjax.report.provenance import About
from leukjax.report.style import entitle, style
from leukjax.rundir import RunDir

SCORES = "robustness/scores.csv"
_COLUMNS = (
    *("distortion", "severity", "background", "score"),
    *("value", "low", "high", "drop", "drop_low", "drop_high", "groups"),
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A line of RUN/robustness/scores.csv; severity 0 is the clean image."""

    distortion: str
    severity: int
    background: str
    score: str
    value: float | None
    low: float | None
    high: float | None
    drop: float | None
    drop_low: float | None
    drop_high: float | None
    groups: float | None


def read(entry: Entry) -> list[Point]:
    """The points of the model's first run that has any.

    Raises:
        UserError: a scores.csv that is none.
    """
    for run in entry.runs:
        rows = RunDir(run.folder).table(SCORES, _COLUMNS)
        if rows:
            return _points(run.folder / SCORES, rows)
    return []


def _points(path: Path, rows: Sequence[Sequence[str]]) -> list[Point]:
    try:
        return [
            Point(name, _severity(severity), background, score, *map(_number, numbers))
            for name, severity, background, score, *numbers in rows
        ]
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); run leukjax.robustness again"
        ) from error


def _severity(text: str) -> int:
    if text not in set("012345"):
        raise ValueError(f"severity {text[:20]!r} is not 0 to 5")
    return int(text)


def _number(text: str) -> float | None:
    value = float(text) if text else None
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{text[:20]!r} is not a finite number")
    return value


def score_of(points: Sequence[Point]) -> str:
    """The score to show: balanced accuracy where it is there."""
    scores = list(dict.fromkeys(point.score for point in points))
    return "balanced_accuracy" if "balanced_accuracy" in scores else scores[0]


def figure(models: dict[str, list[Point]], order: Sequence[str], about: About) -> Figure:
    """A panel a distortion: score over severity for each model, with intervals by group.

    Args:
        models: by name, the points of each; not empty.
        order: names of all models, which gives the colours.
        about: what was scored.
    """
    everything = [point for points in models.values() for point in points]
    score = score_of(everything)
    clean = {p.distortion for p in everything if p.severity == 0}
    backgrounds = list(dict.fromkeys(p.background for p in everything if p.background))
    background = "masked" if "masked" in backgrounds else (backgrounds or [""])[0]
    kept = [p for p in everything if p.score == score and p.background in (background, "")]
    names = list(dict.fromkeys(p.distortion for p in kept if p.severity > 0))
    columns = min(4, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    with style():
        drawn = Figure(figsize=(7.2, 1.1 + 1.6 * rows))
        title = f"{score.replace('_', ' ').capitalize()} under distortion – {about.data}"
        entitle(drawn, title, about.marks())
        grid = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid.flat, names, strict=False):
            for model, points in models.items():
                own = sorted(
                    (
                        p
                        for p in points
                        if p.score == score
                        and p.value is not None
                        and p.background in (background, "")
                        and (p.distortion == name or (p.severity == 0 and name not in clean))
                    ),
                    key=lambda p: p.severity,
                )
                how = look(list(order).index(model))
                axes.plot(
                    [p.severity for p in own], [p.value for p in own], marker="o", ms=3, **how
                )
                banded = [p for p in own if p.low is not None and p.high is not None]
                axes.fill_between(
                    [p.severity for p in banded],
                    [p.low for p in banded],
                    [p.high for p in banded],
                    color=how["color"],
                    alpha=0.15,
                    lw=0,
                )
            axes.set_title(name.replace("_", " "), fontsize=8)
            axes.set(ylim=(0, 1.02), xticks=range(6))
        for axes in grid[-1]:
            axes.set_xlabel("severity", fontsize=8)
        handles = [
            Line2D([], [], label=legend_label(m), **look(list(order).index(m))) for m in models
        ]
        shown = f", background {background.replace('_', ' ')}" if background else ""
        drawn.legend(handles=handles, loc="outside lower center", ncols=3,
                     title=f"band: 95 % interval by group{shown}", title_fontsize=8)  # fmt: skip
    return drawn
