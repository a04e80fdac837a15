"""The tables of a finished study, made of its runs' own tables."""

import csv
import io
from pathlib import Path

import numpy as np

from leukjax.errors import UserError
from leukjax.metrics import predictions as tables_of
from leukjax.metrics.predictions import Predictions
from leukjax.storage import csv_writer, write_atomic
from leukjax.study import fairness, trials
from leukjax.study.plan import Job, Study

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
    parts = [tables_of.read(_table(study, run)) for run in runs]
    names = ("id", "subject", "group", "labels", "probabilities")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(classes=parts[0].classes, **joined)


def _table(study: Study, run: Job) -> Path:
    return study.path(run) / "predictions" / "test.csv"
