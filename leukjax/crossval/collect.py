"""The tables of a finished study, made of its runs' own tables."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leukjax.crossval import fairness, trials
from leukjax.crossval.plan import Job, Study
from leukjax.errors import UserError
from leukjax.metrics import predictions as tables_of
from leukjax.metrics.predictions import Predictions
from leukjax.storage import csv_writer, write_atomic

OUT_OF_FOLD = "predictions/out_of_fold.csv"


def write(study: Study) -> None:
    """Write ``out_of_fold.csv``, ``trials.csv`` and the table of what is shared.

    Raises:
      UserError: runs of one fold are not of the same images.
    """
    write_atomic(study.folder / OUT_OF_FOLD, out_of_fold(study))
    write_atomic(study.folder / "trials.csv", trials.table(study))
    fairness.write(study)


def out_of_fold(study: Study) -> str:
    """``model,seed,fold,id,subject,group,label,predicted,p_<class>…``; rows by the first three.

    Raises:
      UserError: the runs of a fold are not of the same images, so that nothing is paired.
    """
    text = io.StringIO()
    out = csv_writer(text)
    header: list[str] = []
    ids: dict[int, list[str]] = {}
    for model in study.models:
        for run in sorted(study.runs(model), key=lambda run: (run.seed, run.fold)):
            with _table(study, run).open(newline="", encoding="utf-8") as file:
                own, *rows = csv.reader(file)
            if not header:
                header = own
                out.writerow(["model", "seed", "fold", *header])
            here = [row[own.index("id")] for row in rows]
            if own != header or ids.setdefault(run.fold, here) != here:
                raise UserError(
                    f"{study.path(run)}: its out-of-fold part is not that of the other runs of "
                    f"fold {run.fold}; remove the folder and start again"
                )
            out.writerows([run.model, run.seed, run.fold, *row] for row in rows)
    return text.getvalue()


def of_seed(study: Study, model: str, seed: int) -> Predictions:
    """The out-of-fold predictions of one seed: every folded image once."""
    runs = [run for run in study.runs(model) if run.seed == seed]
    return _together([tables_of.read(_table(study, run)) for run in runs])


def larger_class(study: Study) -> Predictions:
    """The baseline out of fold: each image gets the class frequencies of its fold's training."""
    model, seed = study.models[0], study.seeds[0]
    parts = []
    for run in study.runs(model):
        if run.seed != seed:
            continue
        found = tables_of.read(_table(study, run))
        with (study.path(run) / "split.csv").open(newline="", encoding="utf-8") as file:
            labels = [row["label"] for row in csv.DictReader(file) if row["part"] == "train"]
        shares = np.array([labels.count(name) for name in found.classes]) / len(labels)
        p = np.tile(shares, (len(found), 1))
        parts.append(dataclasses.replace(found, probabilities=p))
    return _together(parts)


def _together(parts: Sequence[Predictions]) -> Predictions:
    names = ("id", "subject", "group", "labels", "probabilities")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(classes=parts[0].classes, **joined)


def _table(study: Study, run: Job) -> Path:
    return study.path(run) / "predictions" / "test.csv"
