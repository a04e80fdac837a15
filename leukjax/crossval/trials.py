"""A sweep: every fold tries the same values, and its validation split chooses among them.

A trial is a work directory whose test split is never read. The chosen trial is renamed to the run
of the first seed; the other seeds of the fold are trained with its values.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from leukjax.crossval.plan import Job, Study, Values
from leukjax.errors import UserError
from leukjax.rundir import RunDir
from leukjax.storage import csv_text, read_text, write_atomic

RESULT = "trial.json"


def write_result(folder: Path, metric: str, best_step: int) -> None:
    """Writes a trial's best validation score into its folder, which marks it as done."""
    history = RunDir(folder).history()
    (line,) = [line for line in history if line["part"] == "val" and line["step"] == best_step]
    result = {"score": line[metric], "epoch": line["epoch"], "failure": ""}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")


def write_divergence(folder: Path, message: str) -> None:
    """Marks a trial that diverged as done; it is never chosen."""
    result = {"score": None, "epoch": None, "failure": message}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")


def choose(study: Study, model: str, fold: int) -> Values | None:
    """Returns the values for the runs of a fold; None while a trial is missing.

    Chooses the best validation score, the first of equal ones. Records the choice, then removes the
    checkpoints of the other trials and renames the chosen one to the run of the first seed.

    Raises:
      UserError: every trial diverged.
    """
    if not study.trials:
        return {}
    path = _choice_file(study, model, fold)
    if not path.exists():
        jobs = study.trial_jobs(model, fold)
        files = [study.path(job) / RESULT for job in jobs]
        if not all(file.exists() for file in files):
            return None
        results = [json.loads(read_text(file)) for file in files]
        number = _best(results, lower=study.configs[model].checkpoint.metric == "loss")
        if number is None:
            raise UserError(
                f"{model}, fold {fold}: every trial diverged; --sweep smaller learning rates"
            )
        write_atomic(path, json.dumps({"chosen": number, "trials": results}, indent=1) + "\n")
    chosen = json.loads(read_text(path))["chosen"]
    _tidy(study, model, fold, chosen)
    return study.trials[chosen]


def is_done(study: Study, job: Job) -> bool:
    """Whether a trial has its result; the chosen one may already be renamed to a run."""
    choice = _choice_file(study, job.model, job.fold)
    return choice.exists() or (study.path(job) / RESULT).exists()


def _choice_file(study: Study, model: str, fold: int) -> Path:
    return study.folder / "trials" / model / f"fold{fold}-choice.json"


def _best(results: list[dict[str, Any]], *, lower: bool) -> int | None:
    """Returns the number of the best trial; None if all diverged."""
    sign = 1 if lower else -1
    scores = {n: sign * x["score"] for n, x in enumerate(results) if x["score"] is not None}
    return min(scores, key=scores.__getitem__, default=None)


def _tidy(study: Study, model: str, fold: int, chosen: int) -> None:
    run = study.path(Job(model, fold, study.seeds[0]))
    for job in study.trial_jobs(model, fold):
        folder = study.path(job)
        if job.trial == chosen:
            if folder.exists() and not run.exists():
                run.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(run)
        else:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def table(study: Study) -> str:
    """Returns the text of ``trials.csv``: every trial of every model and fold."""
    fields = list(study.trials[0]) if study.trials else []
    rows = []
    for model in study.models if study.trials else ():
        metric = study.configs[model].checkpoint.metric
        for fold in range(study.folds):
            choice = json.loads(read_text(_choice_file(study, model, fold)))
            for job, result in zip(study.trial_jobs(model, fold), choice["trials"], strict=True):
                assert job.trial is not None
                values = study.trials[job.trial]
                rows.append(
                    [
                        model,
                        fold,
                        job.trial,
                        job.seed,
                        *(values[field] for field in fields),
                        metric,
                        "" if result["score"] is None else f"{result['score']:.9g}",
                        "" if result["epoch"] is None else f"{result['epoch']:g}",
                        int(job.trial == choice["chosen"]),
                        result["failure"],
                    ]
                )
    ending = ("metric", "score", "epoch", "chosen", "failure")
    return csv_text(["model", "fold", "trial", "seed", *fields, *ending], rows)
