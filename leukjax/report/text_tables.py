"""Tables as plain text for a terminal and as Markdown for a file."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

from leukjax.metrics.intervals import METHODS, Interval
from leukjax.report.provenance import About

COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced\naccuracy",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "f1": "F1",
    "weighted_f1": "weighted\nF1",
    "auroc": "AUROC",
}
UNDEFINED = "–"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table of scores: a model or a baseline.

    Attributes:
        name: shown in the first column.
        by_image, by_subject: intervals by score, as `metrics.intervals.intervals` gives them;
            by_subject is None where subjects have no scores.
    """

    name: str
    by_image: Mapping[str, Interval]
    by_subject: Mapping[str, Interval] | None = None


def score_table(
    rows: Sequence[Row],
    about: About,
    *,
    images: int,
    subjects: int,
    groups: int,
    groups_with: Mapping[str, int],
    no_subjects: str = "",
    markdown: bool = False,
) -> str:
    """The scores of models and baselines with their 95 % intervals.

    Args:
        rows: at least one.
        about: what is scored.
        images: number of images scored.
        subjects: number of subjects.
        groups: number of groups, the unit of the intervals.
        groups_with: for each class how many groups hold it.
        no_subjects: why there are no scores by subject, if there are none.
        markdown: Markdown instead of plain text.

    Returns:
        Title, warnings, one table by image, one by subject, and notes that explain every sign.
    """
    title = f"{about.part.capitalize()} scores on {about.data}"
    notes = [*about.warnings(), _positive(about)]
    held = ", ".join(f"{n} with {name}" for name, n in groups_with.items())
    heading = f"By image ({images:,} images; {groups:,} groups: {held})"
    blocks = [(heading, [row.by_image for row in rows])]
    with_subjects = [row for row in rows if row.by_subject is not None]
    footer = _notes(rows)
    if with_subjects:
        heading = f"By subject ({subjects:,} subjects, mean probability of a subject's cells)"
        blocks.append((heading, [r.by_subject or {} for r in rows]))
    elif no_subjects:
        footer.append(f"By subject: none, for {no_subjects}.")
    parts = [f"## {title}" if markdown else title + "\n" + "=" * len(title)]
    parts.append("\n\n".join(notes) if markdown else "\n".join(map(_wrapped, notes)))
    for heading, cells in blocks:
        body = [
            [row.name, *(_cell(found.get(name)) for name in COLUMNS)]
            for row, found in zip(rows, cells, strict=True)
        ]
        table = render(["", *COLUMNS.values()], body, markdown=markdown)
        parts.append((f"**{heading}**\n\n" if markdown else f"{heading}\n") + table)
    parts.append(
        "\n".join(f"- {line}" for line in footer) if markdown else "\n".join(map(_wrapped, footer))
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def render(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    markdown: bool = False,
    left: Sequence[int] = (0,),
) -> str:
    """Any table: columns aligned, line breaks inside cells kept.

    Args:
        header: titles of the columns.
        rows: as many cells each.
        markdown: Markdown instead of fixed width.
        left: columns that are aligned to the left; the others are aligned to the right.
    """
    if markdown:
        escaped = [
            [cell.replace("|", "\\|").replace("\n", "<br>") for cell in row]
            for row in [[cell.replace("\n", " ") for cell in header], *rows]
        ]
        rule = [":---" if i in left else "---:" for i in range(len(header))]
        lines = [escaped[0], rule, *escaped[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    table = [[cell.split("\n") for cell in row] for row in [header, *rows]]
    widths = [max(len(line) for row in table for line in row[i]) for i in range(len(header))]
    tall = any(len(cell) > 1 for row in table[1:] for cell in row)
    rule_line = "─" * (sum(widths) + 2 * (len(widths) - 1))
    text = []
    for number, row in enumerate(table):
        height = max(len(cell) for cell in row)
        # Titles stand on the rule below them, values hang from their first line.
        padded = [
            [""] * (height - len(c)) + c if number == 0 else c + [""] * (height - len(c))
            for c in row
        ]
        for i in range(height):
            line = [
                cell[i].ljust(width) if column in left else cell[i].rjust(width)
                for column, (cell, width) in enumerate(zip(padded, widths, strict=True))
            ]
            text.append("  ".join(line).rstrip())
        if number == 0:
            text.append(rule_line)
        elif tall and number < len(table) - 1:
            text.append("")
    return "\n".join(text)


def number(value: float | None, digits: int = 3) -> str:
    """A score as text; a dash where it is undefined."""
    return UNDEFINED if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def span(interval: Interval, digits: int = 3) -> str:
    """An interval as text, empty where there is none.

    Ends that differ are shown with so many digits that they do: 0.996 to 1.000 is not 1.00 to 1.00.
    """
    if interval.low is None or interval.high is None:
        return ""
    while digits < 6 and interval.low < interval.high:
        if f"{interval.low:.{digits}f}" != f"{interval.high:.{digits}f}":
            break
        digits += 1
    return f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, 100, subsequent_indent="  ")


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return UNDEFINED
    star = "*" if interval.method == "exact" and interval.low is not None else ""
    between = span(interval, digits=2)
    return number(interval.value) + (f"\n{between}{star}" if between else "")


def _positive(about: About) -> str:
    if len(about.classes) == 2:
        return f"Positive class: {about.positive} (precision, recall, specificity, F1, AUROC)."
    return (
        f"{len(about.classes)} classes ({', '.join(about.classes)}): precision, recall,"
        " specificity, F1 and AUROC are means over the classes, each against the rest."
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the intervals are, and why some are missing."""
    shown = [
        (row.name, where, name, found[name])
        for row in rows
        for where, found in (("image", row.by_image), ("subject", row.by_subject or {}))
        for name in COLUMNS
        if name in found
    ]
    used = {i.method for *_, i in shown if i.low is not None}
    notes = [
        f"Below each score its 95 % interval over groups: {METHODS[method]}."
        for method in METHODS
        if method in used and method != "exact"
    ]
    if "exact" in used:
        notes.append(f"* {METHODS['exact']}.")
    reasons: dict[str, list[str]] = {}
    for model, where, name, interval in shown:
        if interval.reason:
            what = f"{COLUMNS[name].replace(chr(10), ' ')} by {where} of {model}"
            kind = "undefined" if interval.value is None else "no interval"
            reasons.setdefault(f"{kind}: {interval.reason}", []).append(what)
    for reason, places in reasons.items():
        shown_places = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
        notes.append(f"{reason[0].upper()}{reason[1:]} ({shown_places}).")
    return notes
