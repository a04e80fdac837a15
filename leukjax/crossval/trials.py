"""A sweep: every fold tries the same values, validation chooses, nothing else is looked at.

A trial is a work directory whose test part stays closed. The chosen one becomes the run of the
first seed, by its name alone; the other seeds of the fold are trained with its values.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Any

from leukjax.crossval.plan import Job, Study, Values
from leukjax.errors import UserError
from leukjax.rundir import RunDir
from leukjax.storage import csv_writer, read_text, write_atomic

RESULT = "trial.json"


def write_result(folder: Path, metric: str, best_step: int) -> None:
    """Leave a trial's best validation score in its folder: the mark that it is done."""
    (line,) = [
        line
        for line in RunDir(folder).history()
        if line["part"] == "val" and line["step"] == best_step
    ]
    result = {"score": line[metric], "epoch": line["epoch"], "failure": ""}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")


def write_divergence(folder: Path, message: str) -> None:
    """The same for a trial that went astray: it counts as one, and is not chosen."""
    result = {"score": None, "epoch": None, "failure": message}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")


def choose(study: Study, model: str, fold: int) -> Values | None:
    """The values for the runs of a fold; None while a trial is missing.

    The best validation score is taken, of equal ones the first. What is chosen is written down,
    then the other trials give back the space of their checkpoints, and the chosen one gets the name
    of the first seed's run.

    Raises:
      UserError: every trial diverged.
    """
    if not study.trials:
        return {}
    path = _choice_file(study, model, fold)
    if not path.exists():
        jobs = study.tried(model, fold)
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
    """Whether a trial has its result; the chosen one may carry the name of a run by now."""
    choice = _choice_file(study, job.model, job.fold)
    return choice.exists() or (study.path(job) / RESULT).exists()


def _choice_file(study: Study, model: str, fold: int) -> Path:
    return study.folder / "trials" / model / f"fold{fold}-choice.json"


def _best(results: list[dict[str, Any]], *, lower: bool) -> int | None:
    scored = [
        (result["score"] if lower else -result["score"], number)
        for number, result in enumerate(results)
        if result["score"] is not None
    ]
    return min(scored)[1] if scored else None


def _tidy(study: Study, model: str, fold: int, chosen: int) -> None:
    run = study.path(Job(model, fold, study.seeds[0]))
    for job in study.tried(model, fold):
        folder = study.path(job)
        if job.trial == chosen:
            if folder.exists() and not run.exists():
                run.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(run)
        else:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def table(study: Study) -> str:
    """The text of ``trials.csv``: every trial of every model and fold, and what was chosen."""
    fields = list(study.trials[0]) if study.trials else []
    text = io.StringIO()
    out = csv_writer(text)
    ending = ("metric", "score", "epoch", "chosen", "failure")
    out.writerow(["model", "fold", "trial", "seed", *fields, *ending])
    for model in study.models if study.trials else ():
        metric = study.configs[model].checkpoint.metric
        for fold in range(study.folds):
            choice = json.loads(read_text(_choice_file(study, model, fold)))
            for job, result in zip(study.tried(model, fold), choice["trials"], strict=True):
                assert job.trial is not None
                values = study.trials[job.trial]
                out.writerow(
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
    return text.getvalue()
