"""Results of a study: predictions out of fold and on the held-out split, and their tables."""

import csv
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukjax import config as configs
from leukjax.crossval import trials
from leukjax.crossval.plan import Job, Study
from leukjax.data.split import HELD_OUT
from leukjax.errors import UserError
from leukjax.evaluate import scores as evaluation
from leukjax.evaluate.rescore import mean, predict_again
from leukjax.metrics import predictions
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import scores
from leukjax.models.registry import option_names
from leukjax.report.provenance import About
from leukjax.report.tables import COLUMNS, number, render
from leukjax.rundir import RunDir
from leukjax.storage import csv_text, write_atomic

OUT_OF_FOLD = "predictions/out_of_fold.csv"
# Fields of a config that change no number, or that a row of the table names better.
_LEFT_OUT = ("seed", "split.", "model.name", "checkpoint.metric")  # besides the free fields


def write_tables(study: Study) -> None:
    """Writes ``out_of_fold.csv``, ``trials.csv``, ``fairness.csv`` and ``fairness.md``.

    Raises:
      UserError: runs of one fold were tested on different images.
    """
    write_atomic(study.folder / OUT_OF_FOLD, out_of_fold_table(study))
    write_atomic(study.folder / "trials.csv", trials.table(study))
    aspects = compare_settings(study)
    rows = [[name, "yes" if shared else "no", *values] for name, shared, values in aspects]
    table = csv_text(["aspect", "shared", *study.models], rows)
    write_atomic(study.folder / "fairness.csv", table)
    write_atomic(study.folder / "fairness.md", _fairness(study, aspects))


def write_and_print(study: Study) -> None:
    """Writes ``summary.md`` and prints it as plain text."""
    write_atomic(study.folder / "summary.md", _summary(study, markdown=True))
    print("\n" + _summary(study, markdown=False))


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


def compare_settings(study: Study) -> list[tuple[str, bool, list[str]]]:
    """Returns (aspect, whether all models share it, its value for each model).

    Data, folds, seeds and the budget of tuning come first, then the architectures, then each field
    of the configs.
    """
    summaries = [RunDir(study.path(study.runs(model)[0])).summary() for model in study.models]
    model_configs = list(study.configs.values())
    swept = list(study.trials[0]) if study.trials else []
    budget = f"{len(study.trials)} a fold: {', '.join(swept)}" if swept else "none"
    data = RunDir(study.path(study.runs()[0])).data()
    held_out = f"test part of the protocol {model_configs[0].split.held_out}"

    def same(value: Any) -> list[Any]:
        return [value] * len(summaries)

    aspects: dict[str, list[Any]] = {
        "data": [summary["data"] for summary in summaries],
        "images and groups": same(f"{data['images']:,} and {data['groups']:,}"),
        "folds": same(study.folds),
        "held out of all folds": same("nothing" if study.pool else held_out),
        "seed of the split": [config.split.seed for config in model_configs],
        "seeds of training": same(" ".join(map(str, study.seeds))),
        "tuning": same(budget),
        "chosen by, on validation": [config.checkpoint.metric for config in model_configs],
        "architecture": [summary["model"] for summary in summaries],
        "parameters": [f"{summary['parameters']:,}" for summary in summaries],
        "FLOPs an image": [f"{summary['flops_per_image']:,}" for summary in summaries],
    }
    fields = [configs.flatten(config) for config in model_configs]
    for field in fields[0]:
        if field in configs.free_fields() or field.startswith(_LEFT_OUT):
            continue
        aspects[field] = [
            "swept" if field in swept else _value(field, values[field], values["model.name"])
            for values in fields
        ]
    texts = {aspect: list(map(str, values)) for aspect, values in aspects.items()}
    return [(aspect, len(set(values)) == 1, values) for aspect, values in texts.items()]


def _value(field: str, value: Any, family: str) -> Any:
    section, name = field.split(".")[0], field.split(".")[-1]
    if section == "model" and name not in (*option_names(family), "fused"):
        return "–"  # this architecture has no such field
    empty = {"init.weights": "random", "data.positive": "the data set's"}
    return empty.get(field, "none") if value == "" else value


def _fairness(study: Study, aspects: list[tuple[str, bool, list[str]]]) -> str:
    differing = [[aspect, *values] for aspect, is_shared, values in aspects if not is_shared]
    shared = [[aspect, values[0]] for aspect, is_shared, values in aspects if is_shared]
    sections = []
    if differing:
        left = range(len(study.models) + 1)
        table = render(["", *study.models], differing, markdown=True, left=left)
        sections += ["## What differs between the models\n", table + "\n"]
    table = render(["", "all models"], shared, markdown=True, left=(0, 1))
    sections += ["## What all models share\n", table + "\n"]
    return "\n".join(sections)


def _summary(study: Study, *, markdown: bool) -> str:
    about = evaluation.about_of(study.path(study.runs()[0]), "held-out test")  # of all runs
    sections = _out_of_fold(study, about, markdown=markdown)
    notes = [
        f"Intervals, paired tests and figures: leukjax.compare {study.folder} --output=report/",
        f"What the models share and where they differ: {study.folder / 'fairness.md'}",
    ]
    if not study.pool:
        ensembles = {
            f"{model}, ensemble": evaluation.score(
                predictions.read(held_out_file(study.folder, model)), about.positive
            )
            for model in study.models
        }
        sections.append(evaluation.table(ensembles, about, markdown=markdown))
        accesses = [line["model"] for line in RunDir(study.folder).study_accesses()]
        counts = ", ".join(f"{accesses.count(model)} for {model}" for model in study.models)
        notes.append(f"Accesses to the held-out split: {counts} (ledger.jsonl).")
    sections.append(_notes(notes, markdown=markdown))
    return "\n".join(sections)


def _out_of_fold(study: Study, about: About, *, markdown: bool) -> list[str]:
    """Scores of the mean over seeds with intervals, a baseline, and the range over seeds."""
    about = dataclasses.replace(about, part="out-of-fold")
    by_seed = {
        model: [of_seed(study, model, seed) for seed in study.seeds] for model in study.models
    }
    by_model = {model: mean(seeds) for model, seeds in by_seed.items()}
    by_model["larger class"] = class_frequencies(study)
    notes = [
        f"{study.folds} folds; every folded image is scored by models that never saw it.",
        "Larger class: every image gets the class frequencies of its fold's training split.",
    ]
    scored = {name: evaluation.score(p, about.positive) for name, p in by_model.items()}
    tables = [evaluation.table(scored, about, markdown=markdown)]
    if len(study.seeds) == 1:
        return [*tables, _notes(notes, markdown=markdown)]
    notes.append(f"The scores are of the mean probability over {len(study.seeds)} seeds.")
    rows = []
    for model, seeds in by_seed.items():
        values = [
            scores(seed.labels, seed.probabilities, seed.classes, about.positive).values
            for seed in seeds
        ]
        rows.append([model, *(_mean_and_range([x[name] for x in values]) for name in COLUMNS)])
    title = "Single seeds, out of fold: mean, lowest to highest (no confidence interval)"
    table = render(["", *COLUMNS.values()], rows, markdown=markdown)
    heading = f"**{title}**\n\n" if markdown else f"{title}\n"
    return [*tables, _notes(notes, markdown=markdown), heading + table + "\n"]


def _notes(notes: list[str], *, markdown: bool) -> str:
    return "\n".join(f"- {note}" if markdown else note for note in notes) + "\n"


def _mean_and_range(values: list[float | None]) -> str:
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return number(None)
    centre = number(statistics.fmean(defined))
    return centre if len(defined) == 1 else f"{centre}\n{min(defined):.3f}–{max(defined):.3f}"
