"""Writes the report of a finished run: summary, model card, figures, and the table of scores.

Every score is computed from ``predictions/*.csv``.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from leukjax import runtime
from leukjax.data.baselines import SHORTCUTS, Baseline, baselines, numbers_of
from leukjax.data.source import WARNING
from leukjax.metrics import clustered, comparisons
from leukjax.metrics.evaluation import Evaluation, score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import scores
from leukjax.models.registry import describe
from leukjax.report.figures import write_figures
from leukjax.report.model_card import model_card, over_shortcuts_line
from leukjax.report.provenance import About
from leukjax.report.tables import Row, rare_lines, score_table
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic
from leukjax.training import final_evaluation
from leukjax.training.run import Outcome, Run
from leukjax.training.throughput import duration


def write_report(outcome: Outcome) -> str:
    """Writes summary.json, summary.md, model_card.md and the figures.

    Returns:
      The table of test scores, as plain text; "" on all processes but the first.
    """
    if jax.process_index() != 0:
        return ""
    run = outcome.run
    run_dir, records = RunDir(run.workdir), run.data.records
    predictions = {part: run_dir.predictions(part) for part in ("val", "test")}
    test = predictions["test"]
    about = About(
        data=records.name,
        part="test",
        classes=records.classes,
        positive=run.data.positive,
        synthetic=records.synthetic,
        leaky=run.data.split.leaky,
        subjects_known=records.subjects_known,
        rare=run.data.split.rare,
        groups=run.config.split.groups,
    )
    baseline_list = baselines(
        records.manifest,
        run.data.split,
        records.background,
        numbers_of(records, run.config.data.threads),
    )
    candidates = _candidates(run, test, baseline_list)
    evaluations = {
        name: score(dataclasses.replace(test, probabilities=probabilities), run.data.positive)
        for name, probabilities in candidates.items()
    }
    over_shortcuts = _over_shortcuts(run, test, candidates)
    best_epoch = round(outcome.best_step / run.steps_per_epoch, 4)
    write_figures(
        run.workdir / "figures",
        run_dir.history(),
        test.labels,
        test.probabilities,
        test.subject,
        test.group,
        about,
        best_epoch,
    )
    text, markdown = (_score_table(evaluations, about, markdown=m) for m in (False, True))
    scored = next(iter(evaluations.values()))
    notes = [
        *rare_lines(scored, about.rare),
        *(f"{baseline.name.capitalize()}: {baseline.description}." for baseline in baseline_list),
        over_shortcuts_line(over_shortcuts),
        *_closing_notes(outcome, best_epoch),
    ]
    summary = _summary(outcome, predictions, evaluations, best_epoch)
    summary["over_shortcuts"] = over_shortcuts
    card = model_card(summary, run.config.to_dict(), about, _part_sizes(run), markdown)
    list_of_notes = "\n".join(f"- {note}" for note in notes)
    write_atomic(run.workdir / "summary.md", f"{markdown}\n{list_of_notes}\n")
    write_atomic(run.workdir / "model_card.md", card)
    write_atomic(run.workdir / "summary.json", json.dumps(summary, indent=1) + "\n")
    return "\n" + text + "\n" + "\n".join(notes)


def _candidates(
    run: Run, test: Predictions, baseline_list: Sequence[Baseline]
) -> dict[str, Float[np.ndarray, "n c"]]:
    """Returns test probabilities of the model and the baselines, with rows as in `test`."""
    ids = run.data.records.manifest.id[run.data.rows("test")]
    row_of_id = {str(name): row for row, name in enumerate(ids)}
    order = np.array([row_of_id[str(name)] for name in test.id])
    return {describe(run.config.model): test.probabilities} | {
        baseline.name: baseline.probabilities["test"][order] for baseline in baseline_list
    }


def _score_table(evaluations: Mapping[str, Evaluation], about: About, *, markdown: bool) -> str:
    rows = [Row(name, e.by_image, e.by_subject) for name, e in evaluations.items()]
    counts = next(iter(evaluations.values())).counts
    reasons = [e.no_subjects for e in evaluations.values() if e.no_subjects]
    return score_table(
        rows, about, **counts, no_subjects=reasons[-1] if reasons else "", markdown=markdown
    )


def _part_sizes(run: Run) -> dict[str, tuple[int, int]]:
    """Returns the numbers of images and subjects of each part of the split."""
    subjects = run.data.records.manifest.subject
    return {
        part: (len(rows), len(np.unique(subjects[rows])))
        for part, rows in run.data.rows_by_split().items()
    }


def _over_shortcuts(
    run: Run, test: Predictions, candidates: Mapping[str, Float[np.ndarray, "n c"]]
) -> dict[str, Any]:
    """Returns the model's balanced accuracy minus that of the shortcuts, with its interval."""
    model, shortcuts = (
        clustered.group(test.labels, candidates[name], test.group)
        for name in (describe(run.config.model), SHORTCUTS)
    )
    positive = run.data.records.classes.index(run.data.positive) if run.data.positive else 0
    result = comparisons.difference("balanced_accuracy", model, shortcuts, positive)
    return {
        "score": result.score,
        "baseline": SHORTCUTS,
        "difference": result.difference,
        "low": result.low,
        "high": result.high,
        "groups": result.groups,
        "reason": result.reason,
    }


def _closing_notes(outcome: Outcome, best_epoch: float) -> list[str]:
    run, run_dir = outcome.run, RunDir(outcome.run.workdir)
    accesses, starts = run_dir.test_accesses(), len(run_dir.starts())
    total = duration(run_dir.seconds_trained())
    start_note = "" if starts == 1 else f" (start {starts}; total training time {total})"
    times = {1: "once", 2: "twice"}.get(accesses, f"{accesses} times")
    return [
        f"Epoch {best_epoch:g} of {run.config.train.epochs:g}, chosen by "
        f"{run.config.checkpoint.metric} on validation; test accessed {times}.",
        f"Took {duration(outcome.seconds)}{start_note} on {runtime.describe()}; processor: "
        f"{runtime.processor()}.",
        f"Figures: {run.workdir / 'figures'}; all scores: {run.workdir / 'summary.json'}",
    ]


def _summary(
    outcome: Outcome,
    predictions: Mapping[str, Predictions],
    evaluations: Mapping[str, Evaluation],
    best_epoch: float,
) -> dict[str, Any]:
    run, run_dir = outcome.run, RunDir(outcome.run.workdir)
    records, split = run.data.records, run.data.split
    values = {
        part: scores(p.labels, p.probabilities, p.classes, run.data.positive)
        for part, p in predictions.items()
    }
    starts = len(run_dir.starts())
    return {
        "model": describe(run.config.model),
        "parameters": run.summary.parameters,
        "flops_per_image": run.summary.flops,
        "data": records.name,
        "synthetic": records.synthetic,
        "subjects_known": records.subjects_known,
        "protocol": split.protocol,
        "leaky": split.leaky,
        "groups": run.config.split.groups,
        "rare_classes": list(split.rare),
        "classes": list(records.classes),
        "positive": run.data.positive,
        "seed": run.config.seed,
        "epoch_chosen": best_epoch,
        "step_chosen": outcome.best_step,
        "chosen_by": f"{run.config.checkpoint.metric} on val",
        "data_warnings": [note.text for note in records.notes if note.level == WARNING],
        "test_openings": run_dir.test_accesses(),
        "starts": starts,
        "resumed": starts - 1,
        "steps_repeated": run_dir.steps_repeated(),
        "lost": final_evaluation.lost(run, outcome.newest_step),
        "steps": run.total_steps,
        "seconds_trained": round(run_dir.seconds_trained(), 1),
        "seconds_of_this_start": round(outcome.seconds, 1),
        "device": runtime.describe(),
        "processor": runtime.processor(),
        "versions": final_evaluation.versions(),
        "test": {**next(iter(evaluations.values())).counts, **values["test"].values},
        "test_by_class": values["test"].by_class,
        "val": values["val"].values,
        "without_rare_classes": _as_json(next(iter(evaluations.values())).without(split.rare)),
        "undefined": {part: of_part.reasons for part, of_part in values.items()},
        "intervals": {
            name: {
                "by_image": _as_json(evaluation.by_image),
                "by_subject": None
                if evaluation.by_subject is None
                else _as_json(evaluation.by_subject),
            }
            for name, evaluation in evaluations.items()
        },
    }


def _as_json(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: dataclasses.asdict(interval) for name, interval in intervals.items()}
