"""One table for every reader: CSV and JSON for machines, Markdown, LaTeX and HTML for people."""

import dataclasses
import io
from collections.abc import Sequence

from leukjax.metrics.intervals import Interval
from leukjax.report.text_tables import UNDEFINED, number, render, span
from leukjax.storage import csv_writer


class P(float):
    """A p-value: shown with two significant digits, and never as 0."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over runs; a column of its own each in a CSV.

    Attributes:
        mean: of the runs whose value is defined; None where there is none.
        deviation: None of a single one.
        defined, runs: how many of how many.
    """

    mean: float | None
    deviation: float | None
    defined: int
    runs: int


Cell = str | float | int | Interval | Spread | None

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


@dataclasses.dataclass(frozen=True)
class Table:
    """Titles, rows, and what must be said below them.

    Attributes:
        name: of its files.
        title: the caption; it names data, part and positive class where scores are shown.
        header: titles of the columns.
        rows: cells: text, numbers (floats are shown with three digits), intervals, or None.
        notes: sentences below.
        left: columns of text.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    left: Sequence[int] = (0,)

    def csv(self) -> str:
        """Full precision, one value in each cell.

        An interval takes the columns score, score low, score high; a spread takes score, score sd,
        score runs.
        """
        text = io.StringIO()
        out = csv_writer(text)
        columns = [_columns(title, [row[i] for row in self.rows])
                   for i, title in enumerate(self.header)]  # fmt: skip
        out.writerow([title for titles, _ in columns for title in titles])
        for place in range(len(self.rows)):
            values = [value for _, rows in columns for value in rows[place]]
            out.writerow(["" if value is None else value for value in values])
        return text.getvalue()

    def markdown(self) -> str:
        """A table, its caption above and its notes below."""
        body = render(self.header, self.text(), markdown=True, left=self.left)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{body}\n" + (f"\n{notes}\n" if notes else "")

    def latex(self) -> str:
        """A table environment for the packages booktabs and threeparttable."""
        columns = "".join("l" if i in self.left else "r" for i in range(len(self.header)))
        lines = [
            r"\begin{table}",
            r"\centering",
            r"\begin{threeparttable}",
            rf"\caption{{{latex(self.title)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
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
        """The cells as a person reads them."""
        return [[shown(cell) for cell in row] for row in self.rows]


def _columns(title: str, cells: Sequence[Cell]) -> tuple[list[str], list[list[object]]]:
    """The titles and the values of a column in a CSV, which may be several there."""
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


def shown(cell: Cell) -> str:
    """A cell as text: three digits, an interval in brackets, a dash for None."""
    if isinstance(cell, Interval | Spread):
        value, below = halves(cell)
        if isinstance(cell, Spread):
            return f"{value} {below}".rstrip()
        return f"{value} ({below})" if below else value
    if cell is None:
        return UNDEFINED
    if isinstance(cell, str):
        return cell
    if isinstance(cell, P):
        return p_value(cell)
    if isinstance(cell, float):
        return _minus(number(cell))
    return f"{cell:,}"


def halves(interval: Interval | Spread) -> tuple[str, str]:
    """A score, and its interval or spread, as text; "to" for a dash where there is a minus sign."""
    if isinstance(interval, Spread):
        below = "" if interval.deviation is None else f"± {interval.deviation:.3f}"
        if interval.defined < interval.runs and interval.mean is not None:
            below = f"{below} ({interval.defined} of {interval.runs})".strip()
        return number(interval.mean), below
    between = span(interval)
    if interval.low is not None and interval.low < 0 and interval.high is not None:
        between = f"{interval.low:.3f} to {interval.high:.3f}"
    return _minus(number(interval.value)), _minus(between)


def _minus(text: str) -> str:
    """A minus sign and not a hyphen."""
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    """p with two significant digits, and never 0."""
    if p is None:
        return UNDEFINED
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.01 else f"{p:.3f}"


def latex(text: str) -> str:
    """Text with what TeX takes for commands escaped."""
    return " ".join(text.split()).translate(_LATEX)
