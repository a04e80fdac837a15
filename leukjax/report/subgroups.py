"""The table and the forest plot of scores by subgroup."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.metrics.intervals import Interval
from leukjax.metrics.subgroups import MIN_GROUPS, Subgroups
from leukjax.report.provenance import About
from leukjax.report.style import CLASSES, GREY, MARKERS, entitle, legend_label, style
from leukjax.report.tables import Cell, Table, reason_notes, title_of

DRAWN = ("balanced_accuracy", "accuracy")
MAX_DRAWN = 60  # rows of the forest plot


def subgroup_table(models: Mapping[str, Subgroups], about: About) -> Table:
    """Returns the scores of each subgroup by each model.

    Args:
      models: subgroups by name of the model; at least one has rows.
      about: what was evaluated.
    """
    several = len(models) > 1
    all_rows = [(model, row) for model, subgroups in models.items() for row in subgroups.rows]
    names = list(all_rows[0][1].scores)
    rows: list[list[Cell]] = [
        [
            *([model] if several else []),
            row.attribute,
            row.value,
            row.images,
            row.groups,
            *(row.scores[name] for name in names),
        ]
        for model, row in all_rows
    ]
    header = ["attribute", "subgroup", "images", "groups", *map(title_of, names)]
    reasons = [
        (f"{row.attribute} {row.value}", score.reason)
        for _, row in all_rows
        for score in row.scores.values()
    ]
    notes = [
        "Intervals are over groups. Many subgroups are compared: some intervals miss the others by"
        f" chance. Subgroups below {MIN_GROUPS} groups are shown without intervals.",
        *reason_notes(dict.fromkeys(reasons)),
        *dict.fromkeys(note for subgroups in models.values() for note in subgroups.notes),
    ]
    title = f"Scores by subgroup on {about.data}, {about.part}"
    left = (0, 1, 2) if several else (0, 1)
    return Table("subgroups", title, ["", *header] if several else header, rows, notes, left)


def forest_figure(
    models: Mapping[str, Subgroups], overall: Mapping[str, Mapping[str, Interval]], about: About
) -> Figure:
    """Draws the scores of each subgroup with their intervals; a line marks those of all images.

    Args:
      models: subgroups by name of the model; at least one has rows.
      overall: scores of all images, by model and score.
      about: what was evaluated.
    """
    keys = _keys(models)
    rows = _rows(keys[:MAX_DRAWN], max(1.0, 0.55 * len(models)))
    height = rows[-1].y + 1
    with style():
        figure = Figure(figsize=(7.2, 1.7 + 0.23 * height + 0.17 * (len(models) // 3)))
        entitle(figure, f"Subgroups – {about.data}, {about.part}", about.marks())
        panels = figure.subplots(1, len(DRAWN), sharey=True, gridspec_kw={"wspace": 0.06})
        for axes, name in zip(panels, DRAWN, strict=True):
            for i, (model, subgroups) in enumerate(models.items()):
                of_all = overall[model][name].value
                if of_all is not None:
                    axes.axvline(of_all, color=CLASSES[i % 6], lw=1, ls=":")
                shift = 0.5 * (i - (len(models) - 1) / 2)
                _draw_model(axes, subgroups, name, rows, shift, i)
                axes.plot([], [], MARKERS[i % 6], color=CLASSES[i % 6], label=legend_label(model))
            axes.set(xlim=(-0.02, 1.02), ylim=(height - 0.4, -0.6), title=title_of(name))
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks([row.y for row in rows], [row.label for row in rows])
        for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if row.value else "bold")
        more = f"; the first {MAX_DRAWN} of {len(keys)} subgroups" if len(keys) > MAX_DRAWN else ""
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            title="95 % interval by group; dotted: all images; in brackets: groups" + more,
            title_fontsize=8,
        )
    return figure


class _Row(NamedTuple):
    """A row of the forest plot: an attribute (with the value ""), or a subgroup."""

    attribute: str
    value: str
    y: float
    label: str


def _rows(keys: Sequence[tuple[str, str, int]], step: float) -> list[_Row]:
    """Returns the rows from top to bottom; those of subgroups are `step` high."""
    rows: list[_Row] = []
    y = 0.0
    for attribute, value, groups in keys:
        if not rows or rows[-1].attribute != attribute:
            rows.append(_Row(attribute, "", y, _shortened(attribute)))
            y += 1
        rows.append(_Row(attribute, value, y, f"{_shortened(value)} ({groups})"))
        y += step
    return rows


def _draw_model(
    axes: Axes, subgroups: Subgroups, name: str, rows: Sequence[_Row], shift: float, index: int
) -> None:
    place = {(row.attribute, row.value): row.y for row in rows}
    for subgroup in subgroups.rows:
        y = place.get((subgroup.attribute, subgroup.value))
        if y is not None:
            _draw(axes, subgroup.scores[name], y + shift, index)


def _shortened(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _keys(models: Mapping[str, Subgroups]) -> list[tuple[str, str, int]]:
    """Attribute, value and groups of each subgroup of any model, in order."""
    groups_of = {(r.attribute, r.value): r.groups for m in models.values() for r in m.rows}
    return [(attribute, value, groups) for (attribute, value), groups in groups_of.items()]


def _draw(axes: Axes, score: Interval, y: float, index: int) -> None:
    colour = CLASSES[index % 6]
    if score.value is None:
        axes.text(0.5, y, "undefined", color=GREY, fontsize=7, ha="center", va="center")
        return
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
    filled = colour if score.low is not None else "white"
    axes.plot(score.value, y, MARKERS[index % 6], color=colour, mfc=filled, ms=5)
