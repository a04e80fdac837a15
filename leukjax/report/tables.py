"""Tables as plain text, Markdown, LaTeX, CSV and, through `leukjax.report.page`, HTML."""

import dataclasses
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from leukjax.metrics.evaluation import Evaluation
from leukjax.metrics.intervals import METHODS, Interval
from leukjax.report.provenance import About
from leukjax.storage import csv_writer

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
_MORE_TITLES = {
    "loss": "log loss",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_equal_mass": "ECE (equal mass)",
}
UNDEFINED = "–"

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)


class P(float):
    """A p-value: printed with two significant digits, and never as 0."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over runs. A CSV has one column for each.

    Attributes:
      mean: over the runs whose value is defined; None if there are none.
      deviation: None for a single run.
      defined: number of runs whose value is defined.
      runs: number of runs.
    """

    mean: float | None
    deviation: float | None
    defined: int
    runs: int


Cell = str | float | int | Interval | Spread | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with its caption and notes.

    Attributes:
      name: base name of its files.
      title: the caption; for scores it names data set, split part and positive class.
      header: titles of the columns.
      rows: cells: text, numbers (floats are printed with three digits), intervals, or None.
      notes: sentences below the table.
      left: indices of the columns of text, which are aligned to the left.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    left: Sequence[int] = (0,)

    def csv(self) -> str:
        """Returns the table as CSV, in full precision and with one value per cell.

        An interval takes the columns `title`, `title low` and `title high`; a spread takes `title`,
        `title sd` and `title runs`.
        """
        text = io.StringIO()
        writer = csv_writer(text)
        columns = [
            _csv_columns(title, [row[i] for row in self.rows])
            for i, title in enumerate(self.header)
        ]
        writer.writerow([title for titles, _ in columns for title in titles])
        for row in zip(*(values for _, values in columns), strict=True):
            writer.writerow(["" if value is None else value for values in row for value in values])
        return text.getvalue()

    def markdown(self) -> str:
        """Returns the table as Markdown, with its caption above and its notes below."""
        body = render(self.header, self.text(), markdown=True, left=self.left)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{notes}\n" if notes else "")

    def latex(self) -> str:
        """Returns a LaTeX table environment; it needs booktabs and threeparttable."""
        alignment = "".join("l" if i in self.left else "r" for i in range(len(self.header)))
        lines = [
            r"\begin{table}",
            r"\centering",
            r"\begin{threeparttable}",
            rf"\caption{{{latex(self.title)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            " & ".join(map(latex, self.header)) + r" \\",
            r"\midrule",
        ]
        lines += [" & ".join(map(latex, row)) + r" \\" for row in self.text()]
        lines += [r"\bottomrule", r"\end{tabular}"]
        if self.notes:
            lines += [r"\begin{tablenotes}\footnotesize"]
            lines += [rf"\item {latex(note)}" for note in self.notes]
            lines += [r"\end{tablenotes}"]
        return "\n".join([*lines, r"\end{threeparttable}", r"\end{table}", ""])

    def text(self) -> list[list[str]]:
        """Returns the cells as text for readers."""
        return [[cell_text(cell) for cell in row] for row in self.rows]


def _csv_columns(title: str, cells: Sequence[Cell]) -> tuple[list[str], list[list[object]]]:
    """Returns the titles and, for each row, the values of one column, which a CSV may divide."""
    if any(isinstance(cell, Interval) for cell in cells):
        endings = ("", " low", " high")
    elif any(isinstance(cell, Spread) for cell in cells):
        endings = ("", " sd", " runs")
    else:
        return [title], [[cell] for cell in cells]
    values: list[list[object]] = []
    for cell in cells:
        if isinstance(cell, Interval):
            values.append([cell.value, cell.low, cell.high])
        elif isinstance(cell, Spread):
            values.append([cell.mean, cell.deviation, cell.defined])
        else:
            values.append([cell, None, None])
    return [f"{title}{ending}" for ending in endings], values


def render(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    markdown: bool = False,
    left: Sequence[int] = (0,),
) -> str:
    """Returns rows of text as a table with aligned columns.

    Args:
      header: titles of the columns.
      rows: one cell per column; a cell may have several lines.
      markdown: return Markdown instead of plain text.
      left: indices of the columns that are aligned to the left.
    """
    if markdown:
        escaped = [
            [cell.replace("|", "\\|").replace("\n", "<br>") for cell in row]
            for row in [[cell.replace("\n", " ") for cell in header], *rows]
        ]
        rule = [":---" if i in left else "---:" for i in range(len(header))]
        return "\n".join("| " + " | ".join(row) + " |" for row in [escaped[0], rule, *escaped[1:]])
    table = [[cell.split("\n") for cell in row] for row in [header, *rows]]
    widths = [max(len(line) for row in table for line in row[i]) for i in range(len(header))]
    has_tall_rows = any(len(cell) > 1 for row in table[1:] for cell in row)
    lines = []
    for index, row in enumerate(table):
        height = max(len(cell) for cell in row)
        # Titles are aligned to the bottom of their row, values to its top.
        padded = [
            [""] * (height - len(c)) + c if index == 0 else c + [""] * (height - len(c))
            for c in row
        ]
        for i in range(height):
            aligned = [
                cell[i].ljust(width) if column in left else cell[i].rjust(width)
                for column, (cell, width) in enumerate(zip(padded, widths, strict=True))
            ]
            lines.append("  ".join(aligned).rstrip())
        if index == 0:
            lines.append("─" * (sum(widths) + 2 * (len(widths) - 1)))
        elif has_tall_rows and index < len(table) - 1:
            lines.append("")
    return "\n".join(lines)


def cell_text(cell: Cell) -> str:
    """Returns a cell as text: three digits, an interval in brackets, a dash for None."""
    if isinstance(cell, Interval | Spread):
        value, interval = value_and_interval(cell)
        if isinstance(cell, Spread):
            return f"{value} {interval}".rstrip()
        return f"{value} ({interval})" if interval else value
    if cell is None:
        return UNDEFINED
    if isinstance(cell, str):
        return cell
    if isinstance(cell, P):
        return p_value(cell)
    if isinstance(cell, float):
        return _with_minus_sign(number(cell))
    return f"{cell:,}"


def value_and_interval(cell: Cell) -> tuple[str, str]:
    """Returns the value of a cell as text, and its interval or spread; "" if it has none."""
    if isinstance(cell, Spread):
        deviation = "" if cell.deviation is None else f"± {cell.deviation:.3f}"
        if cell.defined < cell.runs and cell.mean is not None:
            deviation = f"{deviation} ({cell.defined} of {cell.runs})".strip()
        return number(cell.mean), deviation
    if not isinstance(cell, Interval):
        return cell_text(cell), ""
    interval = span(cell)
    if cell.low is not None and cell.low < 0 and cell.high is not None:
        interval = f"{cell.low:.3f} to {cell.high:.3f}"  # a dash beside a minus sign is ambiguous
    return _with_minus_sign(number(cell.value)), _with_minus_sign(interval)


def _with_minus_sign(text: str) -> str:
    return text.replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """Returns a score as text; a dash where it is undefined."""
    return UNDEFINED if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def span(interval: Interval, digits: int = 3) -> str:
    """Returns an interval as text; "" where there is none.

    More digits are printed where the ends would otherwise look equal: 0.996 to 1.000 is not 1.00 to
    1.00.
    """
    if interval.low is None or interval.high is None:
        return ""
    while digits < 6 and interval.low < interval.high:
        if f"{interval.low:.{digits}f}" != f"{interval.high:.{digits}f}":
            break
        digits += 1
    return f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"


def p_value(p: float | None) -> str:
    """Returns p with two significant digits, and never 0."""
    if p is None:
        return UNDEFINED
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.01 else f"{p:.3f}"


def latex(text: str) -> str:
    """Returns text in which the special characters of TeX are escaped."""
    return " ".join(text.split()).translate(_LATEX)


def title_of(score: str) -> str:
    """Returns the title of a score in tables, on one line."""
    title = COLUMNS.get(score) or _MORE_TITLES.get(score, score.replace("_", " "))
    return title.replace("\n", " ")


def capitalized(text: str) -> str:
    """Returns text with its first letter in upper case and the others unchanged."""
    return text[:1].upper() + text[1:]


def reason_notes(reasons: Iterable[tuple[str, str]], most: int = 4) -> list[str]:
    """Returns one sentence per reason why values are missing, with the first of these values.

    Args:
      reasons: (value, reason) for each value; an empty reason is skipped.
      most: number of values to name per reason.
    """
    values: dict[str, list[str]] = {}
    for value, reason in reasons:
        if reason:
            values.setdefault(reason, []).append(value)
    return [
        f"{capitalized(reason)} ({', '.join(names[:most])}{', …' * (len(names) > most)})."
        for reason, names in values.items()
    ]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table of scores: a model or a baseline.

    Attributes:
      name: text of the first column.
      by_image, by_subject: intervals by score, as `metrics.intervals.intervals` returns them;
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
    """Returns the scores of models and baselines with their 95 % intervals.

    The text has a title, warnings, a table by image, one by subject, and notes.

    Args:
      rows: at least one.
      about: what was evaluated.
      images: number of images.
      subjects: number of subjects.
      groups: number of groups, the unit of the intervals.
      groups_with: for each class the number of groups that contain it.
      no_subjects: reason why there are no scores by subject; "" if there are.
      markdown: return Markdown instead of plain text.
    """
    title = f"{about.part.capitalize()} scores on {about.data}"
    remarks = [*about.warnings(), _positive(about)]
    counts = ", ".join(f"{n} with {name}" for name, n in groups_with.items())
    heading = f"By image ({images:,} images; {groups:,} groups: {counts})"
    blocks = [(heading, [row.by_image for row in rows])]
    notes = _notes(rows)
    if absent := [name for name, count in groups_with.items() if not count]:
        notes.insert(0, f"No image of {', '.join(absent)}: means are over the other classes.")
    if any(row.by_subject is not None for row in rows):
        heading = f"By subject ({subjects:,} subjects, mean probability of a subject's cells)"
        blocks.append((heading, [row.by_subject or {} for row in rows]))
    elif no_subjects:
        notes.append(f"By subject: none, because {no_subjects}.")
    parts = [f"## {title}" if markdown else title + "\n" + "=" * len(title)]
    parts.append("\n\n".join(remarks) if markdown else "\n".join(map(_wrapped, remarks)))
    for heading, intervals in blocks:
        body = [
            [row.name, *(_score_cell(by_score.get(name)) for name in COLUMNS)]
            for row, by_score in zip(rows, intervals, strict=True)
        ]
        table = render(["", *COLUMNS.values()], body, markdown=markdown)
        parts.append((f"**{heading}**\n\n" if markdown else f"{heading}\n") + table)
    parts.append(
        "\n".join(f"- {note}" for note in notes) if markdown else "\n".join(map(_wrapped, notes))
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def rare_lines(evaluation: Evaluation, rare: Sequence[str]) -> list[str]:
    """Returns the macro scores without the rare classes, and the groups of each; [] without any."""
    if not rare:
        return []
    groups = evaluation.counts["groups_with"]
    listed = ", ".join(f"{name} (groups here: {groups[name]})" for name in rare)
    lines = [f"Classes with few groups, which parts may lack: {listed}."]
    present = [name for name in rare if groups[name]]
    for name, without in evaluation.without(rare).items():
        both = [
            f"{number(score.value)} {span(score, 2)}".rstrip()
            for score in (without, evaluation.by_image[name])
        ]
        title = capitalized(title_of(name))
        lines.append(f"{title} without {', '.join(present)}: {both[0]}; with them {both[1]}.")
    return lines


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, 100, subsequent_indent="  ")


def _score_cell(interval: Interval | None) -> str:
    if interval is None:
        return UNDEFINED
    star = "*" if interval.method == "exact" and interval.low is not None else ""
    text = span(interval, digits=2)
    return number(interval.value) + (f"\n{text}{star}" if text else "")


def _positive(about: About) -> str:
    if len(about.classes) == 2:
        return f"Positive class: {about.positive} (precision, recall, specificity, F1, AUROC)."
    return (
        f"{len(about.classes)} classes ({', '.join(about.classes)}): precision, recall,"
        " specificity, F1 and AUROC are means over the classes, each against the rest."
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    """Returns notes on the methods of the intervals and on missing values."""
    intervals = [
        (row.name, unit, name, by_score[name])
        for row in rows
        for unit, by_score in (("image", row.by_image), ("subject", row.by_subject or {}))
        for name in COLUMNS
        if name in by_score
    ]
    used = {interval.method for *_, interval in intervals if interval.low is not None}
    notes = [
        f"Below each score its 95 % interval over groups: {METHODS[method]}."
        for method in METHODS
        if method in used and method != "exact"
    ]
    if "exact" in used:
        notes.append(f"* {METHODS['exact']}.")
    reasons = [
        (
            f"{title_of(name)} by {unit} of {model}",
            f"{'undefined' if interval.value is None else 'no interval'}: {interval.reason}"
            if interval.reason
            else "",
        )
        for model, unit, name, interval in intervals
    ]
    return notes + reason_notes(reasons, most=3)
