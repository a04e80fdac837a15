"""The end of a study for its reader: ``summary.md``, and the same on the screen."""

import dataclasses
import statistics

from leukjax.crossval import collect, held_out
from leukjax.crossval.plan import Study
from leukjax.evaluate import scores as scored
from leukjax.evaluate.rescore import mean
from leukjax.metrics import predictions as tables_of
from leukjax.metrics.scores import scores
from leukjax.report.provenance import About
from leukjax.report.text_tables import COLUMNS, number, render
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic


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
        of = [line["model"] for line in RunDir(study.folder).study_accesses()]
        counts = ", ".join(f"{of.count(model)} for {model}" for model in study.models)
        ending.append(f"Openings of the held-out part: {counts} (ledger.jsonl).")
    parts.append("\n".join(f"- {line}" if markdown else line for line in ending))
    return "\n".join(parts) + "\n"


def _out_of_fold(study: Study, about: About, *, markdown: bool) -> str:
    """Scores of the mean over seeds with intervals, a baseline, and the range over seeds."""
    about = dataclasses.replace(about, part="out-of-fold")
    each = {
        model: [collect.of_seed(study, model, seed) for seed in study.seeds]
        for model in study.models
    }
    found = {model: mean(seeds) for model, seeds in each.items()}
    found["larger class"] = collect.larger_class(study)
    evaluations = {name: scored.score(p, about.positive) for name, p in found.items()}
    parts = [scored.table(evaluations, about, markdown=markdown)]
    notes = [f"{study.folds} folds; every folded image is scored by models that never saw it."]
    notes += ["Larger class: every image gets the class frequencies of its fold's training part."]
    if len(study.seeds) > 1:
        notes += [f"The scores are of the mean probability over {len(study.seeds)} seeds."]
    parts.append("\n".join(f"- {line}" if markdown else line for line in notes) + "\n")
    if len(study.seeds) > 1:
        body = []
        for model, seeds in each.items():
            alone = [scores(p.labels, p.probabilities, p.classes, about.positive) for p in seeds]
            body.append([model, *(_over_seeds([of.values[name] for of in alone])
                                  for name in COLUMNS)])  # fmt: skip
        title = "Single seeds, out of fold: mean, lowest to highest (no confidence interval)"
        table = render(["", *COLUMNS.values()], body, markdown=markdown)
        parts.append((f"**{title}**\n\n" if markdown else f"{title}\n") + table + "\n")
    return "\n".join(parts)


def _over_seeds(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return number(None)
    centre = number(statistics.fmean(known))
    return centre if len(known) == 1 else f"{centre}\n{min(known):.3f}–{max(known):.3f}"


def _held_out(study: Study, about: About, *, markdown: bool) -> str:
    found = {
        f"{model}, ensemble": scored.score(
            tables_of.read(held_out.table(study.folder, model)), about.positive
        )
        for model in study.models
    }
    return scored.table(found, about, markdown=markdown)
