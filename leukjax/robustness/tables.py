"""The tables of robustness, for the screen and for a file."""

from collections.abc import Sequence

from leukjax.images.distort import DISTORTIONS
from leukjax.metrics.intervals import METHODS
from leukjax.metrics.robustness import MAIN, Relative
from leukjax.report.text_tables import number, render, span
from leukjax.robustness.measured import Measured

KINDS = {"masked": "cell alone", "as_published": "whole image"}


def screen(measured: Sequence[Measured], reference: str | None) -> str:
    """One table a run, the most harmful distortion first."""
    blocks = []
    for one in measured:
        title = f"{one.name}: {_title(one)}"
        blocks.append(f"{title}\n{'=' * len(title)}\n\n{_table(one, markdown=False)}")
    return "\n\n".join([*blocks, "\n".join(_notes(measured, reference))])


def document(measured: Sequence[Measured], reference: str | None) -> str:
    """The same as Markdown."""
    parts = ["# Robustness against distortion", "![curves](curves.png)"]
    parts += [f"- {note}" for note in _notes(measured, reference)]
    for one in measured:
        parts += [f"## {one.name}", _title(one) + ".", _table(one, markdown=True)]
    operations = [
        [
            name,
            "MedMNIST-C" if entry.published else "leukjax",
            entry.what,
            ", ".join(map(str, entry.severities)),
        ]
        for name, entry in DISTORTIONS.items()
    ]
    header = ["distortion", "source", "operation", "severities 1 to 5 (lengths at 224 px)"]
    parts += ["## The suite", render(header, operations, markdown=True, left=(0, 1, 2, 3))]
    return "\n\n".join(parts) + "\n"


def _title(one: Measured) -> str:
    return (
        f"balanced accuracy on {one.about.part} of {one.about.data}, "
        f"{len(one.found.table):,} images, distorted in five severities"
    )


def _table(one: Measured, *, markdown: bool) -> str:
    related: Sequence[Relative | None] = one.relative or [None] * len(one.curves)
    rows = sorted(
        zip(one.curves, related, strict=True),
        key=lambda pair: -(pair[0].mean_drop.value or 0.0),
    )
    body = []
    for curve, relative in rows:
        between = span(curve.mean_drop, 3)
        kind = KINDS[curve.background] if DISTORTIONS[curve.distortion].masked else "either"
        row = [curve.distortion, kind, *map(number, curve.values())]
        row += [number(curve.mean_drop.value), between.replace("–", " to ")]
        if relative is not None:
            row += [number(relative.error, 2), number(relative.drop, 2)]
        body.append(row)
    header = ["distortion", "background", "clean", *"12345", "mean\ndrop", "95 %\ninterval"]
    if one.relative:
        header += ["relative\nerror", "relative\ndrop"]
    return render(header, body, markdown=markdown, left=(0, 1))


def _notes(measured: Sequence[Measured], reference: str | None) -> list[str]:
    about = measured[0].about
    notes = [
        *about.warnings(),
        f"Mean drop: clean less distorted {MAIN.replace('_', ' ')}, over five severities, paired "
        f"by group ({measured[0].curves[0].mean_drop.groups} groups); interval: "
        f"{METHODS['jackknife']}.",
    ]
    if any(len({c.background for c in one.curves}) > 1 for one in measured):
        notes.append(
            "Background: 'cell alone' leaves exact black as it is, 'whole image' distorts it too, "
            "as the published benchmark does; 'either' where that is the same."
        )
    if reference is not None:
        notes.append(
            f"Relative error and relative drop: next to {reference} (1 = as much as it); "
            "– where it makes no error, or does not drop."
        )
    return notes
