"""The report of a finished run: summary, model card, figures, and the table of scores.

Every score is computed from ``predictions/*.csv`` as they are on disk.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from leukjax import runtime
from leukjax.data.baselines import SHORTCUTS, Baseline, baselines, numbers_of
from leukjax.metrics import clustered, comparisons
from leukjax.metrics import predictions as tables_of
from leukjax.metrics.evaluation import score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import scores
from leukjax.report.figures import write_figures
from leukjax.report.model_card import model_card, over_shortcuts_line
from leukjax.report.provenance import About, model_name
from leukjax.report.text_tables import Row, score_table
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
    run, folder = outcome.run, outcome.run.workdir
    predicted = {
        part: tables_of.read(folder / "predictions" / f"{part}.csv") for part in ("val", "test")
    }
    test = predicted["test"]
    about = About(
        data=run.data.records.name,
        part="test",
        classes=run.data.records.classes,
        positive=run.data.positive,
        synthetic=run.data.records.synthetic,
        leaky=run.data.split.leaky,
        subjects_known=run.data.records.subjects_known,
    )
    found = baselines(
        run.data.records.manifest,
        run.data.split,
        run.data.records.background,
        numbers_of(run.data.records, run.config.data.threads),
    )
    candidates = _candidates(run, test, found)
    rows, no_subjects = _rows(run, test, candidates)
    over = _over_shortcuts(run, test, candidates)
    shape = _shape(test)
    best_epoch = round(outcome.best_step / run.steps_per_epoch, 4)
    write_figures(
        folder / "figures",
        RunDir(folder).history(),
        test.labels,
        test.probabilities,
        test.subject,
        test.group,
        about,
        best_epoch,
    )
    text = {
        markdown: score_table(rows, about, **shape, no_subjects=no_subjects, markdown=markdown)
        for markdown in (False, True)
    }
    ending = [
        *(f"{baseline.name.capitalize()}: {baseline.description}." for baseline in found),
        over_shortcuts_line(over),
        *_ending(outcome, best_epoch),
    ]
    write_atomic(
        folder / "summary.md", text[True] + "\n" + "\n".join(f"- {s}" for s in ending) + "\n"
    )
    summary = _summary(outcome, predicted, rows, shape, best_epoch) | {"over_shortcuts": over}
    write_atomic(
        folder / "model_card.md",
        model_card(summary, run.config.to_dict(), about, _parts(run), text[True]),
    )
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return "\n" + text[False] + "\n" + "\n".join(ending)


def _candidates(
    run: Run, test: Predictions, found: list[Baseline]
) -> dict[str, Float[np.ndarray, "n c"]]:
    """Probabilities on test of the model and of the baselines, rows as in `test`."""
    in_order = {
        str(name): row
        for row, name in enumerate(run.data.records.manifest.id[run.data.rows("test")])
    }
    order = np.array([in_order[str(name)] for name in test.id])
    of_baselines = {baseline.name: baseline.probabilities["test"][order] for baseline in found}
    return {model_name(run.config.model): test.probabilities} | of_baselines


def _rows(
    run: Run, test: Predictions, candidates: Mapping[str, Float[np.ndarray, "n c"]]
) -> tuple[list[Row], str]:
    """The model and the baselines, scored alike; and why there are no scores by subject, if so."""
    rows, why = [], ""
    for name, probabilities in candidates.items():
        predictions = dataclasses.replace(test, probabilities=probabilities)
        found = score(predictions, run.data.positive)
        rows.append(Row(name, found.by_image, found.by_subject))
        why = found.no_subjects or why
    return rows, why


def _parts(run: Run) -> dict[str, tuple[int, int]]:
    """Images and subjects of each part."""
    subjects = run.data.records.manifest.subject
    return {
        part: (len(rows), len(np.unique(subjects[rows])))
        for part, rows in run.data.rows_by_split().items()
    }


def _over_shortcuts(
    run: Run, test: Predictions, candidates: Mapping[str, Float[np.ndarray, "n c"]]
) -> dict[str, Any]:
    """What the model's balanced accuracy adds to that of the shortcuts, with its interval."""
    model, shortcuts = (
        clustered.group(test.labels, candidates[name], test.group)
        for name in (model_name(run.config.model), SHORTCUTS)
    )
    which = run.data.records.classes.index(run.data.positive) if run.data.positive else 0
    found = comparisons.difference("balanced_accuracy", model, shortcuts, which)
    return {
        "score": found.score,
        "baseline": SHORTCUTS,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "groups": found.groups,
        "reason": found.reason,
    }


def _shape(test: Predictions) -> dict[str, Any]:
    held = {
        name: len(np.unique(test.group[test.labels == label]))
        for label, name in enumerate(test.classes)
    }
    return {
        "images": len(test),
        "subjects": len(np.unique(test.subject)),
        "groups": len(np.unique(test.group)),
        "groups_with": held,
    }


def _ending(outcome: Outcome, best_epoch: float) -> list[str]:
    run = outcome.run
    opened, starts = RunDir(run.workdir).test_accesses(), len(RunDir(run.workdir).starts())
    trained = duration(RunDir(run.workdir).seconds_trained())
    again = "" if starts == 1 else f" (start {starts}; trained for {trained} in all)"
    return [
        f"Epoch {best_epoch:g} of {run.config.train.epochs:g}, chosen by "
        f"{run.config.checkpoint.metric} on validation; test opened {_times(opened)}.",
        f"Took {duration(outcome.seconds)}{again} on {runtime.describe()}; processor: "
        f"{runtime.processor()}.",
        f"Figures: {run.workdir / 'figures'}; all scores: {run.workdir / 'summary.json'}",
    ]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _summary(
    outcome: Outcome,
    predicted: Mapping[str, Predictions],
    rows: list[Row],
    shape: Mapping[str, Any],
    best_epoch: float,
) -> dict[str, Any]:
    run = outcome.run
    scored = {
        part: scores(p.labels, p.probabilities, p.classes, run.data.positive)
        for part, p in predicted.items()
    }
    return {
        "model": model_name(run.config.model),
        "parameters": run.summary.parameters,
        "flops_per_image": run.summary.flops,
        "data": run.data.records.name,
        "synthetic": run.data.records.synthetic,
        "subjects_known": run.data.records.subjects_known,
        "protocol": run.data.split.protocol,
        "leaky": run.data.split.leaky,
        "classes": list(run.data.records.classes),
        "positive": run.data.positive,
        "seed": run.config.seed,
        "epoch_chosen": best_epoch,
        "step_chosen": outcome.best_step,
        "chosen_by": f"{run.config.checkpoint.metric} on val",
        "test_openings": RunDir(run.workdir).test_accesses(),
        "starts": len(RunDir(run.workdir).starts()),
        "resumed": len(RunDir(run.workdir).starts()) - 1,
        "steps_repeated": RunDir(run.workdir).steps_repeated(),
        "lost": final_evaluation.lost(run, outcome.newest_step),
        "steps": run.total_steps,
        "seconds_trained": round(RunDir(run.workdir).seconds_trained(), 1),
        "seconds_of_this_start": round(outcome.seconds, 1),
        "device": runtime.describe(),
        "processor": runtime.processor(),
        "versions": final_evaluation.versions(),
        "test": {**shape, **scored["test"].values},
        "test_by_class": scored["test"].by_class,
        "val": scored["val"].values,
        "undefined": {part: found.reasons for part, found in scored.items()},
        "intervals": {
            row.name: {
                "by_image": _as_json(row.by_image),
                "by_subject": None if row.by_subject is None else _as_json(row.by_subject),
            }
            for row in rows
        },
    }


def _as_json(found: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}
