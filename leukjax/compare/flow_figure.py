"""Data flow from the source to each part, as boxes and arrows."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from leukjax.compare.provenance import HELD_OUT, Step
from leukjax.report.provenance import About
from leukjax.report.style import BLUE, GREY, entitle, style

_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}
# Of a study: the first fold's, and the part that its ensembles are tested on.
_STUDY_TITLES = {
    "train": "Training, first fold",
    "val": "Validation, first fold",
    "test": "Out of fold, first fold",
}


def figure(steps: Sequence[Step], about: About, *, first_fold: bool = False) -> Figure:
    """Source above, parts below, what was left out at the side.

    Args:
        steps: what `provenance.flow` gives.
        about: what was scored.
        first_fold: the steps are those of the first of several folds.
    """
    whole = {step.part: step for step in steps if not step.of}
    left_out = [
        f"{whole[part].images:,} {why}"
        for part, why in (("unused", "in no part"), ("skipped", "unreadable"))
        if part in whole
    ]
    classes = min(len(about.classes), 6)
    with style():
        drawn = Figure(figsize=(7.2, 2.6 + 0.2 * classes))
        axes = drawn.subplots()
        entitle(drawn, f"Images and subjects – {about.data}", about.marks())
        axes.set_axis_off()
        titles = dict(_STUDY_TITLES if first_fold else _TITLES)
        if HELD_OUT in whole:
            titles[HELD_OUT] = "Held-out test"
        width = len(titles)
        axes.set(xlim=(0, width), ylim=(0, 2))
        _box(axes, width / 2, 1.65, f"Source\n{_counts(whole['all'])}", GREY)
        if left_out:
            axes.annotate(
                "",
                (width / 2 + 0.6, 1.65),
                (width / 2 + 0.45, 1.65),
                arrowprops={"arrowstyle": "-|>"},
            )
            axes.text(
                width / 2 + 0.63, 1.65, "left out:\n" + "\n".join(left_out), va="center", fontsize=8
            )
        for place, (part, title) in enumerate(titles.items()):
            x = place + 0.5
            axes.annotate(
                "",
                (x, 1.02),
                (width / 2, 1.4),
                arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 0},
            )
            own = [step for step in steps if step.part == part and step.of][:classes]
            lines = [f"{step.of}: {step.images:,} of {step.subjects:,}" for step in own]
            if len(about.classes) > classes:
                lines.append("…")
            text = "\n".join([title, _counts(whole[part]), "", *lines])
            _box(axes, x, 0.5, text, BLUE)
    return drawn


def _counts(step: Step) -> str:
    groups = "" if step.groups == step.subjects else f"\n{step.groups:,} groups"
    return f"{step.images:,} images\n{step.subjects:,} subjects{groups}"


def _box(axes, x: float, y: float, text: str, colour: str) -> None:
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=8.5,
        linespacing=1.25,
        bbox={"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "lw": 1.3},
    )
