"""The audit of a paper: all checks by name, and the findings as text, JSON and figure."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukjax.audit import curve_checks, score_checks, statement_checks
from leukjax.audit.paper import Finding, Paper
from leukjax.report.style import BLUE, GREY, VERMILION, entitle, style
from leukjax.storage import open_output

Check = Callable[[Paper], Iterator[Finding]]

# Verdict -> words, colour, hatch (visible in print).
_VERDICTS = {
    "fail": ("fails", VERMILION, "///"),
    "cannot_tell": ("cannot tell", "#D0D0D0", ""),
    "pass": ("passes", BLUE, ""),
}
_LIMIT = "A fail shows that the printed numbers cannot all be correct as described, and not why."

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        statement_checks.counts_sum,
        statement_checks.ratio_claim,
        statement_checks.dataset_fingerprint,
        statement_checks.unlabeled_phase,
        statement_checks.resize_direction,
        score_checks.f1_identity,
        score_checks.grim,
        score_checks.metric_feasibility,
        score_checks.below_majority,
        curve_checks.column_affine,
        curve_checks.curve_linearity,
        curve_checks.identical_columns,
        curve_checks.rank_flip,
        curve_checks.text_agrees,
        curve_checks.loss_level,
        statement_checks.starred_values,
        statement_checks.arch_count,
        statement_checks.missing_items,
    )
}


def audit(paper: Paper) -> list[Finding]:
    """Returns all findings; a check that finds no numbers to check cannot tell."""
    findings = []
    for name, check in CHECKS.items():
        nothing = Finding(name, "paper", "cannot_tell", "the numbers are not printed")
        findings += list(check(paper)) or [nothing]
    return findings


def write(findings: list[Finding], path: Path) -> None:
    """Writes ``{"checks": [{"check", "where", "verdict", "arithmetic"}]}``."""
    content = {"checks": [dataclasses.asdict(finding) for finding in findings]}
    with open_output(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def report(paper: Paper, findings: list[Finding]) -> str:
    """Returns the findings as text: one line each, and the number of each verdict."""
    words = {"pass": "pass", "fail": "FAIL", "cannot_tell": "cannot tell"}
    lines = [f"{words[f.verdict]:<11}  {f.check:<19}  {f.where}: {f.arithmetic}" for f in findings]
    count = {name: sum(f.verdict == name for f in findings) for name in words}
    total = (
        f"{count['pass']} pass, {count['fail']} fail, {count['cannot_tell']} cannot tell. {_LIMIT}"
    )
    # The texts of the paper may contain control characters that move a terminal's cursor.
    return "\n".join(map(_printable, [paper.title, "", *lines, "", total]))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def verdict_figure(title: str, findings: Sequence[Finding]) -> Figure:
    """Returns bars of the findings of each check that found numbers to check.

    Args:
      title: of the paper.
      findings: result of `audit`.
    """
    names = [
        name
        for name in dict.fromkeys(finding.check for finding in findings)
        if any(f.check == name and f.where != "paper" for f in findings)
    ]
    with style():
        figure = Figure(figsize=(6.4, 1.5 + 0.24 * len(names)))
        axes = figure.add_subplot()
        start = [0] * len(names)
        for verdict, (words, colour, hatch) in _VERDICTS.items():
            counts = [
                sum(f.check == name and f.verdict == verdict for f in findings) for name in names
            ]
            axes.barh(
                names, counts, left=start, height=0.68, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0.8, label=words,
            )  # fmt: skip
            for y, (left, count) in enumerate(zip(start, counts, strict=True)):
                if count:
                    axes.text(
                        left + count / 2, y, str(count), ha="center", va="center", fontsize=7,
                        color="black" if verdict == "cannot_tell" else "white", fontweight="bold",
                        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
                    )  # fmt: skip
            start = [left + count for left, count in zip(start, counts, strict=True)]
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelfontfamily="monospace", labelsize=8)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("findings (rows, columns, tables)")
        axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1), borderaxespad=0.2)
        figure.supxlabel(_LIMIT, fontsize=7, color=GREY)
        entitle(figure, title if len(title) < 70 else title[:67].rsplit(" ", 1)[0] + " …", [])
    return figure
