"""The table and the forest plot of scores by subgroup."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.metrics.intervals import Interval
from leukjax.metrics.subgroups import MIN_GROUPS, Subgroup, Subgroups
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
    all_rows = [(model, row) for model, found in models.items() for row in found.rows]
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
        *dict.fromkeys(note for found in models.values() for note in found.notes),
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
    shown = keys[:MAX_DRAWN]
    attributes = list(dict.fromkeys(attribute for attribute, _, _ in shown))
    rows = len(shown) + len(attributes)
    step = max(1.0, 0.55 * len(models))
    with style():
        figure = Figure(figsize=(7.2, 1.7 + 0.23 * rows * step + 0.17 * (len(models) // 3)))
        entitle(figure, f"Subgroups – {about.data}, {about.part}", about.marks())
        panels = figure.subplots(1, len(DRAWN), sharey=True, gridspec_kw={"wspace": 0.06})
        ticks, labels, y = [], [], 0.0
        place: dict[tuple[str, str], float] = {}
        for attribute in attributes:
            ticks.append(y)
            labels.append(_shortened(attribute))
            y += 1
            for _, value, count in [key for key in shown if key[0] == attribute]:
                place[attribute, value] = y
                ticks.append(y)
                labels.append(f"{_shortened(value)} ({count})")
                y += step
        for axes, name in zip(panels, DRAWN, strict=True):
            for i, (model, found) in enumerate(models.items()):
                shift = 0.5 * (i - (len(models) - 1) / 2)
                of_all = overall[model][name].value
                if of_all is not None:
                    axes.axvline(of_all, color=CLASSES[i % 6], lw=1, ls=":")
                for row in found.rows:
                    at = place.get((row.attribute, row.value))
                    if at is not None:
                        _draw(axes, row, name, at + shift, i)
                axes.plot([], [], MARKERS[i % 6], color=CLASSES[i % 6], label=legend_label(model))
            axes.set(xlim=(-0.02, 1.02), ylim=(y - 0.4, -0.6), title=title_of(name))
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(ticks, labels)
        for label, at in zip(panels[0].get_yticklabels(), ticks, strict=True):
            label.set_fontweight("normal" if at in place.values() else "bold")
        more = f"; the first {MAX_DRAWN} of {len(keys)} subgroups" if len(keys) > MAX_DRAWN else ""
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            title="95 % interval by group; dotted: all images; in brackets: groups" + more,
            title_fontsize=8,
        )
    return figure


def _shortened(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _keys(models: Mapping[str, Subgroups]) -> list[tuple[str, str, int]]:
    """Attribute, value and groups of each subgroup of any model, in order."""
    found = {(r.attribute, r.value): r.groups for m in models.values() for r in m.rows}
    return [(attribute, value, groups) for (attribute, value), groups in found.items()]


def _draw(axes: Axes, row: Subgroup, name: str, y: float, index: int) -> None:
    score, colour = row.scores[name], CLASSES[index % 6]
    if score.value is None:
        axes.text(0.5, y, "undefined", color=GREY, fontsize=7, ha="center", va="center")
        return
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
    filled = colour if score.low is not None else "white"
    axes.plot(score.value, y, MARKERS[index % 6], color=colour, mfc=filled, ms=5)
