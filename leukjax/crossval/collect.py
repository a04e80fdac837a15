"""Predictions of a study: out of fold, and of each model's ensemble on the held-out split."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukjax.crossval.plan import Job, Study
from leukjax.data.split import HELD_OUT
from leukjax.errors import UserError
from leukjax.evaluate.rescore import mean, predict_again
from leukjax.metrics import predictions
from leukjax.metrics.predictions import Predictions
from leukjax.rundir import RunDir
from leukjax.storage import csv_text

OUT_OF_FOLD = "predictions/out_of_fold.csv"


def out_of_fold_table(study: Study) -> str:
    """Returns ``model,seed,fold,id,subject,group,label,predicted,p_<class>…`` as CSV.

    Raises:
      UserError: the runs of a fold were not tested on the same images, so that nothing is paired.
    """
    columns: list[str] = []
    table: list[list[str]] = []
    ids: dict[int, list[str]] = {}  # by fold
    for model in study.models:
        for run in sorted(study.runs(model), key=lambda run: (run.seed, run.fold)):
            with _predictions_file(study, run).open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            columns = columns or header
            ids_of_run = [row[header.index("id")] for row in rows]
            if header != columns or ids.setdefault(run.fold, ids_of_run) != ids_of_run:
                raise UserError(
                    f"{study.path(run)}: was tested on other images than the other runs of fold "
                    f"{run.fold}; remove the folder and start again"
                )
            table += [[run.model, str(run.seed), str(run.fold), *row] for row in rows]
    return csv_text(["model", "seed", "fold", *columns], table)


def of_seed(study: Study, model: str, seed: int) -> Predictions:
    """Returns the out-of-fold predictions of one seed: every folded image once."""
    runs = [run for run in study.runs(model) if run.seed == seed]
    return _concatenate([predictions.read(_predictions_file(study, run)) for run in runs])


def class_frequencies(study: Study) -> Predictions:
    """Returns the baseline: each image gets the class frequencies of its fold's training split."""
    folds = []
    for run in study.runs(study.models[0]):
        if run.seed != study.seeds[0]:
            continue
        fold = predictions.read(_predictions_file(study, run))
        split = RunDir(study.path(run)).split().values()
        labels = [label for _, _, label, part in split if part == "train"]
        shares = np.array([labels.count(name) for name in fold.classes]) / len(labels)
        probabilities = np.tile(shares, (len(fold), 1))
        folds.append(dataclasses.replace(fold, probabilities=probabilities))
    return _concatenate(folds)


def held_out_file(study: Path, model: str) -> Path:
    """The file with the predictions of a model's ensemble on the held-out split."""
    return study / "predictions" / "test" / f"{model}.csv"


def predict_held_out(
    study: Path, model: str, folders: list[Path], overrides: Sequence[tuple[str, Any]] = ()
) -> None:
    """Writes the mean probabilities of a model's runs on the held-out split.

    Appends one line per access to ``ledger.jsonl`` before the split is read: an access that was
    interrupted and repeated counts twice. Writes the predictions of the single runs to
    ``predictions/test_members``.

    Args:
      study: folder of the study.
      model: its name.
      folders: work directories of its runs, all finished.
      overrides: fields of this machine, such as ``data.root``.
    """
    file = held_out_file(study, model)
    if file.exists():
        return
    RunDir(study).record_study_access(model, HELD_OUT, len(folders))
    members = [predict_again(folder, HELD_OUT, overrides=overrides) for folder in folders]
    for folder, member in zip(folders, members, strict=True):
        member.write(study / "predictions" / "test_members" / model / f"{folder.name}.csv")
    mean(members).write(file)


def _concatenate(folds: Sequence[Predictions]) -> Predictions:
    fields = ("id", "subject", "group", "labels", "probabilities")
    arrays = {name: np.concatenate([getattr(fold, name) for fold in folds]) for name in fields}
    return Predictions(classes=folds[0].classes, **arrays)


def _predictions_file(study: Study, run: Job) -> Path:
    return study.path(run) / "predictions" / "test.csv"
