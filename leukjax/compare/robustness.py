"""Shows scores under distortion, where `leukjax.robustness` has evaluated a run."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukjax.compare.figures import line_style, model_lines
from leukjax.compare.load_results import Entry
from leukjax.errors import UserError
from leukjax.metrics.intervals import Interval
from leukjax.report.provenance import About
from leukjax.report.style import entitle, style
from leukjax.report.tables import Cell, Table
from leukjax.rundir import RunDir

SCORES = "robustness/scores.csv"
_COLUMNS = (
    *("distortion", "severity", "background", "score"),
    *("value", "low", "high", "drop", "drop_low", "drop_high", "groups"),
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A row of RUN/robustness/scores.csv; severity 0 is the image without distortion."""

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
    """Returns the points of the model's first run that has any.

    Raises:
      UserError: a scores.csv is damaged.
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


def _main_score(points: Sequence[Point]) -> str:
    """Returns the score to show: balanced accuracy if it is there."""
    scores = list(dict.fromkeys(point.score for point in points))
    return "balanced_accuracy" if "balanced_accuracy" in scores else scores[0]


def robustness_figure(
    models: Mapping[str, Sequence[Point]], order: Sequence[str], about: About
) -> Figure:
    """Draws score over severity in one panel per distortion, with intervals by group.

    Args:
      models: points of each model, by name; not empty.
      order: names of all models, which determines their colours.
      about: what was evaluated.
    """
    all_points = [point for points in models.values() for point in points]
    score = _main_score(all_points)
    clean = {p.distortion for p in all_points if p.severity == 0}
    backgrounds = list(dict.fromkeys(p.background for p in all_points if p.background))
    background = "masked" if "masked" in backgrounds else (backgrounds or [""])[0]

    def kept(points: Sequence[Point]) -> list[Point]:
        return [p for p in points if p.score == score and p.background in (background, "")]

    distortions = list(dict.fromkeys(p.distortion for p in kept(all_points) if p.severity > 0))
    columns = min(4, len(distortions)) or 1
    rows = -(-len(distortions) // columns) or 1
    lines = dict(zip(order, model_lines(order), strict=True))
    with style():
        figure = Figure(figsize=(7.2, 1.1 + 1.6 * rows))
        title = f"{score.replace('_', ' ').capitalize()} under distortion – {about.data}"
        entitle(figure, title, about.marks())
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(distortions) :]:
            axes.set_axis_off()
        for axes, distortion in zip(grid.flat, distortions, strict=False):
            for model, points in models.items():
                # Where the clean images have no distortion's name, every panel has their score.
                curve = [
                    p
                    for p in kept(points)
                    if p.distortion == distortion or (p.severity == 0 and distortion not in clean)
                ]
                _draw(axes, curve, line_style(list(order).index(model)))
            axes.set_title(distortion.replace("_", " "), fontsize=8)
            axes.set(ylim=(0, 1.02), xticks=range(6))
        for axes in grid[-1]:
            axes.set_xlabel("severity", fontsize=8)
        note = f", background {background.replace('_', ' ')}" if background else ""
        figure.legend(
            handles=[lines[model] for model in models],
            loc="outside lower center",
            ncols=3,
            title=f"band: 95 % interval by group{note}",
            title_fontsize=8,
        )
    return figure


def _draw(axes: Axes, points: Sequence[Point], look: dict) -> None:
    points = sorted((p for p in points if p.value is not None), key=lambda p: p.severity)
    values = np.array([p.value for p in points], float)
    axes.plot([p.severity for p in points], values, marker="o", ms=3, **look)
    bounded = [p for p in points if p.low is not None and p.high is not None]
    axes.fill_between(
        [p.severity for p in bounded],
        np.array([p.low for p in bounded], float),
        np.array([p.high for p in bounded], float),
        color=look["color"],
        alpha=0.15,
        lw=0,
    )


def robustness_table(
    entries: Sequence[Entry], models: Mapping[str, Sequence[Point]], data: str
) -> Table:
    """Returns score, drop and drop relative to the CNN's at the largest severity.

    Args:
      entries: all models of the study.
      models: points of each model, by name; not empty.
      data: name of the data set.
    """
    all_points = [point for points in models.values() for point in points]
    score = _main_score(all_points)
    reference = _reference(entries, models)
    worst = max((p.severity for p in all_points), default=0)
    at_worst = {
        model: [p for p in points if p.score == score and p.severity == worst]
        for model, points in models.items()
    }
    reference_points = {(p.distortion, p.background): p for p in at_worst[reference]}
    rows: list[list[Cell]] = []
    for model, points in at_worst.items():
        for p in sorted(points, key=lambda p: -(p.drop or 0.0)):
            groups = int(p.groups or 0)
            rows.append(
                [
                    model,
                    p.distortion.replace("_", " "),
                    p.background.replace("_", " "),
                    Interval(p.value, p.low, p.high, "jackknife", groups),
                    Interval(p.drop, p.drop_low, p.drop_high, "jackknife", groups),
                    _relative_drop(p, reference_points.get((p.distortion, p.background))),
                    groups,
                ]
            )
    rows.sort(key=lambda row: str(row[0]))
    header = [
        "",
        "distortion",
        "background",
        score.replace("_", " "),
        "drop",
        f"drop / {reference}'s",
        "groups",
    ]
    notes = [
        "With each number its 95 % interval by group; all severities and scores:"
        " robustness/scores.csv of each run. The ratio is given where the drop of"
        f" {reference} is more than chance."
    ]
    title = f"Severity {worst} of every distortion on {data}"
    return Table("robustness", title, header, rows, notes, left=(0, 1, 2))


def _relative_drop(point: Point, reference: Point | None) -> float | None:
    """Returns the ratio of two drops; None unless that of the reference is more than chance."""
    if reference is None or reference.drop_low is None or reference.drop_low <= 0:
        return None
    return point.drop / reference.drop if point.drop is not None and reference.drop else None


def _reference(entries: Sequence[Entry], models: Mapping[str, Sequence[Point]]) -> str:
    """Returns the name of the first CNN that has points; without one, of the first model."""
    with_points = [entry for entry in entries if entry.name in models]
    cnns = [e for e in with_points if e.runs[0].config["model"]["name"] == "cnn"]
    return (cnns or with_points)[0].name
