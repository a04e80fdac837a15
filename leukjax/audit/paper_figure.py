"""What an audit found in a paper, check by check, as one picture."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukjax.audit.finding import Finding
from leukjax.report.style import BLUE, GREY, VERMILION, entitle, style

# Verdict -> words, colour, hatch: told apart in print, too.
_VERDICTS = {
    "fail": ("fails", VERMILION, "///"),
    "cannot_tell": ("cannot be told", "#D0D0D0", ""),
    "pass": ("passes", BLUE, ""),
}
_LIMIT = "A fail says that printed numbers cannot all be what they are said to be, and not why."


def verdicts(title: str, findings: Sequence[Finding]) -> Figure:
    """Bars of the findings of each check; a check that had nothing to look at is left out.

    Args:
        title: of the paper.
        findings: of `paper_checks.audit`.
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
            for place, (left, count) in enumerate(zip(start, counts, strict=True)):
                if count:
                    axes.text(
                        left + count / 2, place, str(count), ha="center", va="center", fontsize=7,
                        color="black" if verdict == "cannot_tell" else "white", fontweight="bold",
                        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
                    )  # fmt: skip
            start = [left + count for left, count in zip(start, counts, strict=True)]
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelfontfamily="monospace", labelsize=8)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("answers (rows, columns, tables)")
        axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1, 1), borderaxespad=0.2)
        figure.supxlabel(_LIMIT, fontsize=7, color=GREY)
        entitle(figure, title if len(title) < 70 else title[:67].rsplit(" ", 1)[0] + " …", [])
    return figure
