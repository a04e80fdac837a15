"""The end of a study for its reader: ``summary.md``, and the same on the screen."""

import json
import statistics

from leukjax.metrics import predictions as tables_of
from leukjax.metrics.scores import scores
from leukjax.report.about import About
from leukjax.report.tables import COLUMNS, number, render
from leukjax.storage import read_text, write_atomic
from leukjax.study import held_out, join, scored
from leukjax.study.plan import Study


def write_and_print(study: Study) -> None:
    """Write ``summary.md`` and print it as plain text."""
    write_atomic(study.folder / "summary.md", _text(study, markdown=True))
    print("\n" + _text(study, markdown=False))


def _text(study: Study, *, markdown: bool) -> str:
    about = scored.about_of(study.path(study.runs()[0]), "held-out test")  # of all runs
    parts = [_out_of_fold(study, about, markdown=markdown)]
    if not study.pool:
        parts.append(_held_out(study, about, markdown=markdown))
    ending = [
        f"Intervals, paired tests and figures: leukjax.compare {study.folder} --output=report/",
        f"What the models share and where they differ: {study.folder / 'fairness.md'}",
    ]
    if not study.pool:
        lines = read_text(study.folder / held_out.LEDGER).splitlines()
        of = [json.loads(line)["model"] for line in lines]
        counts = ", ".join(f"{of.count(model)} for {model}" for model in study.models)
        ending.append(f"Openings of the held-out part: {counts} (ledger.jsonl).")
    parts.append("\n".join(f"- {line}" if markdown else line for line in ending))
    return "\n".join(parts) + "\n"


def _out_of_fold(study: Study, about: About, *, markdown: bool) -> str:
    """Mean over seeds of the scores of all folds together, and their range."""
    body = []
    for model in study.models:
        found = []
        for seed in study.seeds:
            p = join.of_seed(study, model, seed)
            found.append(scores(p.labels, p.probabilities, p.classes, about.positive).values)
        body.append([model, *(_over_seeds([of[name] for of in found]) for name in COLUMNS)])
    title = f"Out-of-fold scores on {about.data}"
    seeds = len(study.seeds)
    note = (
        f"{study.folds} folds, every folded image scored once a seed; mean of {seeds} seeds, and "
        "below it the lowest and the highest of them."
        if seeds > 1
        else f"{study.folds} folds, every folded image scored once; one seed."
    )
    heading = f"## {title}\n" if markdown else f"{title}\n{'=' * len(title)}\n"
    warnings = [*about.warnings(), note]
    table = render(["", *COLUMNS.values()], body, markdown=markdown)
    return "\n".join([heading, *warnings, "", table, ""])


def _over_seeds(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return number(None)
    mean = number(statistics.fmean(known))
    return mean if len(known) == 1 else f"{mean}\n{min(known):.2f}–{max(known):.2f}"


def _held_out(study: Study, about: About, *, markdown: bool) -> str:
    found = {
        f"{model}, ensemble": tables_of.read(held_out.table(study.folder, model))
        for model in study.models
    }
    return scored.table(found, about, markdown=markdown)
