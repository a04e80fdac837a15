"""Reads what is compared: finished runs, cross-validation folders, and CSV files of predictions.

An argument is ``PATH``, ``NAME=PATH``, or ``NAME=RUN,RUN`` for several seeds of one model.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukjax import terminal
from leukjax.errors import UserError
from leukjax.metrics import predictions as prediction_files
from leukjax.metrics.predictions import Predictions, read_checked
from leukjax.rundir import RunDir, check_fields


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished work directory.

    Attributes:
      folder: the work directory.
      config, data, summary: content of the JSON files of these names.
      weights: the initial weights as the config names them; "" = random.
      history: records of metrics.jsonl that have an epoch.
      test, val: predictions, sorted by id.
      split: id -> (subject, group, label, part), from split.csv.
      attributes: column -> id -> value, from attributes.csv; {} without one.
    """

    folder: Path
    config: dict[str, Any]
    weights: str
    data: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    test: Predictions
    val: Predictions
    split: dict[str, tuple[str, str, str, str]]
    attributes: dict[str, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model in the comparison.

    Attributes:
      name: unique.
      source: the argument or its path, for messages.
      predictions: mean probability over the runs, sorted by id.
      part: the part of the split of `predictions`: "test" or "out of fold".
      runs: work directories, one per seed (and fold); empty for bare predictions.
      members: predictions of each seed (on a held-out test: of each run) on the same images; one
        for a single run, none for an ensemble without files of its members.
      folds: for a cross-validation: [seed][fold] predictions on the images that the fold leaves
        out; otherwise empty.
      out_of_fold: for a cross-validation whose `predictions` are of a held-out test: the pooled
        predictions of the folds; otherwise None.
      study: folder of the cross-validation; otherwise None.
    """

    name: str
    source: str
    predictions: Predictions
    part: str = "test"
    runs: tuple[Run, ...] = ()
    members: tuple[Predictions, ...] = ()
    folds: tuple[tuple[Predictions, ...], ...] = ()
    out_of_fold: Predictions | None = None
    study: Path | None = None

    @property
    def leaky(self) -> bool:
        """Whether subjects are in several parts of the split; False where it is unknown."""
        return any(run.summary["leaky"] for run in self.runs)

    @property
    def is_probe(self) -> bool:
        """Whether the runs are heads on a network that was not trained (`leukjax.probe`)."""
        return any(run.summary["probe"] for run in self.runs)

    @property
    def positive(self) -> str:
        """The positive class of the runs; "" if there is none."""
        return self.runs[0].summary["positive"] if self.runs else ""


def read_entries(arguments: Sequence[str]) -> list[Entry]:
    """Reads all arguments.

    Raises:
      UserError: a path is no input, a run is not finished, predictions are invalid, or a name
        occurs twice.
    """
    entries: list[Entry] = []
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        if not equals or Path(argument).exists():
            name, paths = "", argument
        entries += _read(name, paths)
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        entries = [_with_parent(e) if names.count(e.name) > 1 else e for e in entries]
    # A name may contain control characters or bytes that are not UTF-8: escape them for files and
    # terminals.
    entries = [dataclasses.replace(e, name=terminal.escape(e.name)) for e in entries]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: is the name of {names.count(name)} models; give NAME=PATH")
    return entries


def _with_parent(entry: Entry) -> Entry:
    path = Path(entry.source).absolute()
    if path.stem != entry.name and path.name != entry.name:
        return entry  # the user gave the name
    return dataclasses.replace(entry, name=f"{path.parent.name}/{entry.name}")


def _read(name: str, paths: str) -> list[Entry]:
    several = [Path(path) for path in paths.split(",")] if not Path(paths).exists() else []
    if len(several) > 1:
        runs = tuple(read_run(path) for path in several)
        tests = [run.test for run in runs]
        for run in runs[1:]:
            check_same_images(tests[0], run.test, str(runs[0].folder), str(run.folder))
        name = name or "+".join(path.name for path in several)
        return [Entry(name, paths, mean(tests), runs=runs, members=tuple(tests))]
    path = Path(paths)
    if path.is_file():
        predictions = read_checked(path)
        return [Entry(name or path.stem, paths, predictions, members=(predictions,))]
    if (path / "crossval.json").is_file():
        return _read_crossval(path, name)
    run = read_run(path)
    return [Entry(name or path.absolute().name, paths, run.test, runs=(run,), members=(run.test,))]


def read_run(folder: Path) -> Run:
    """Reads a finished work directory.

    Raises:
      UserError: it is not a work directory, it is not finished, or its predictions do not match its
        split.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such file or folder; give a run, a crossval folder or a CSV")
    run_dir = RunDir(folder)
    run_dir.require("data.json", "summary.json", "split.csv", "predictions/test.csv")
    config, recorded = run_dir.config(), run_dir.recorded()
    data, summary = run_dir.data(), run_dir.summary()
    test, val = (_sorted_by_id(run_dir.predictions(part)) for part in ("test", "val"))
    for part, predictions in (("test", test), ("val", val)):
        if list(predictions.classes) != summary["classes"]:
            raise UserError(
                f"{folder}/predictions/{part}.csv: its classes are not those of summary.json;"
                " copy the run again"
            )
    split = _read_split(folder)
    for part, predictions in (("test", test), ("val", val)):
        unknown = [name for name in predictions.id if split.get(name, ("",) * 4)[3] != part]
        if unknown:
            raise UserError(
                f"{folder}/predictions/{part}.csv: {unknown[0]} is no {part} image of split.csv"
                f" ({len(unknown)} such ids); predict again"
            )
    return Run(
        folder,
        config.to_dict(),
        recorded["init.weights"],
        data,
        summary,
        history=[record for record in run_dir.history() if "epoch" in record],
        test=test,
        val=val,
        split=split,
        attributes=run_dir.attributes(),
    )


def _sorted_by_id(predictions: Predictions) -> Predictions:
    """Returns predictions sorted by id, in float64."""
    ordered = predictions.take(np.argsort(predictions.id, kind="stable"))
    return dataclasses.replace(ordered, probabilities=ordered.probabilities.astype(np.float64))


@functools.lru_cache(maxsize=64)
def _read_split(folder: Path) -> dict[str, tuple[str, str, str, str]]:
    return RunDir(folder).split()


def mean(predictions: Sequence[Predictions]) -> Predictions:
    """Returns the ensemble: the mean probability of each image."""
    if len(predictions) == 1:
        return predictions[0]
    average = prediction_files.mean([member.probabilities for member in predictions])
    return dataclasses.replace(predictions[0], probabilities=average)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Returns the predictions of all folds on the images that they leave out, sorted by id."""
    columns = ("id", "subject", "group", "labels", "probabilities")
    values = [np.concatenate([getattr(part, column) for part in parts]) for column in columns]
    ids, counts = np.unique(values[0], return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"crossval: {ids[counts > 1][0]} is in two folds' test parts; run crossval again"
        )
    return Predictions(parts[0].classes, *values).take(np.argsort(values[0]))


def _read_crossval(folder: Path, name: str) -> list[Entry]:
    """Returns one entry per model: its ensemble on the held-out test, or out of fold."""
    models = _models_of(folder)
    if name and len(models) > 1:
        raise UserError(
            f"{name}={folder}: contains {len(models)} models; give the folder without NAME"
        )
    entries = []
    for model, paths in models.items():
        runs = tuple(read_run(folder / path) for path in paths)
        seeds = sorted({run.config["seed"] for run in runs})
        folds = tuple(
            tuple(
                run.test
                for run in sorted(runs, key=lambda run: run.config["split"]["fold"])
                if run.config["seed"] == seed
            )
            for seed in seeds
        )
        pooled = tuple(join(parts) for parts in folds)
        for seed, member in zip(seeds[1:], pooled[1:], strict=True):
            check_same_images(
                pooled[0], member, f"{model}, seed {seeds[0]}", f"{model}, seed {seed}"
            )
        out_of_fold = Entry(
            name or model,
            str(folder),
            mean(pooled),
            "out of fold",
            runs,
            pooled,
            folds,
            None,
            folder,
        )
        entries.append(_on_held_out_test(out_of_fold, folder, model) or out_of_fold)
    return entries


def _on_held_out_test(out_of_fold: Entry, folder: Path, model: str) -> Entry | None:
    """Returns a model's entry on the held-out test; None if the cross-validation has none."""
    path = folder / "predictions" / "test" / f"{model}.csv"
    if not path.is_file():
        return None
    test = read_checked(path)
    member_paths = sorted((folder / "predictions" / "test_members" / model).glob("*.csv"))
    members = tuple(read_checked(member_path) for member_path in member_paths)
    for member_path, member in zip(member_paths, members, strict=True):
        check_same_images(test, member, str(path), str(member_path))
    return dataclasses.replace(
        out_of_fold,
        source=str(path),
        predictions=test,
        part="test",
        members=members,
        out_of_fold=out_of_fold.predictions,
    )


def _models_of(folder: Path) -> dict[str, list[str]]:
    """Returns the run folders of each model of a cross-validation; all are below `folder`."""
    content = RunDir(folder).read_json("crossval.json")
    try:
        check_fields(content, {"models": _check_models})
    except ValueError as error:
        raise UserError(f"{folder}/crossval.json: {error}; run crossval again") from error
    return {model: record["runs"] for model, record in content["models"].items()}


def _check_models(models: Any) -> None:
    if not isinstance(models, dict) or not models:
        raise ValueError("names no models")
    for model, record in models.items():
        if not _is_below(model) or "/" in model:
            raise ValueError(f"{model[:100]!r} is no name of a model")
        paths = record.get("runs") if isinstance(record, dict) else None
        if not isinstance(paths, list) or not paths:
            raise ValueError(f"names no runs of {model}")
        for path in paths:
            if not isinstance(path, str) or not _is_below(path):
                raise ValueError("a run is not in the folder of the study")


def _is_below(path: str) -> bool:
    """Returns whether a relative path stays below the folder in which it starts."""
    parts = Path(path).parts
    return bool(parts) and not Path(path).is_absolute() and ".." not in parts and "\0" not in path


def check_comparable(entries: Sequence[Entry]) -> list[str]:
    """Checks that models can be compared.

    Models of the `image` protocol are tested on other images than those of a subject-wise split:
    each of the two kinds is compared within itself.

    Returns:
      Sentences on differences that do not prevent a comparison.

    Raises:
      UserError: test images, classes or data differ, or there is only one group.
    """
    first = entries[0]
    for entry in entries:
        groups = np.unique(entry.predictions.group)
        if len(groups) < 2:
            raise UserError(
                f"{entry.source}: all {len(entry.predictions)} images are of one group"
                f" ({groups[0]}); intervals and tests need the images of several subjects"
            )
        if entry.predictions.classes != first.predictions.classes:
            check_same_images(first.predictions, entry.predictions, first.source, entry.source)
    for leaky in (False, True):
        panel = [entry for entry in entries if entry.leaky is leaky]
        for entry in panel[1:]:
            check_same_images(
                panel[0].predictions, entry.predictions, panel[0].source, entry.source
            )
    return _check_same_data([run for entry in entries for run in entry.runs])


def check_same_images(first: Predictions, second: Predictions, name: str, other: str) -> None:
    """Checks that two models, `name` and `other` in messages, were tested on the same images.

    Raises:
      UserError: classes or their order differ, ids differ, or an id has another label, group or
        subject.
    """
    if first.classes != second.classes:
        raise UserError(
            f"{other}: its classes are {', '.join(second.classes)} and those of {name} are"
            f" {', '.join(first.classes)}; both must have the same, in the same order"
        )
    for a, b, name_a, name_b in ((second, first, other, name), (first, second, name, other)):
        unknown = np.setdiff1d(a.id, b.id)
        if len(unknown):
            raise UserError(
                f"{name_a}: {unknown[0]} is no test image of {name_b} ({len(unknown)} of"
                f" {len(a)} ids are unknown); compare models on the same test set"
            )
    for column, title in (("labels", "label"), ("group", "group"), ("subject", "subject")):
        differ = np.flatnonzero(getattr(first, column) != getattr(second, column))
        if len(differ):
            raise UserError(
                f"{other}: {first.id[differ[0]]} has another {title} than in {name}"
                f" ({len(differ)} such ids); compare models on the same test set"
            )


def _check_same_data(runs: Sequence[Run]) -> list[str]:
    """Compares the record checksums of runs that prepared their images in the same way."""
    notes = []
    first_by_preparation: dict[tuple, Run] = {}
    for run in runs:
        prepared = tuple(run.config["data"][name] for name in ("image_size", "crop", "denoise"))
        if run.summary["data"] != runs[0].summary["data"]:
            raise UserError(
                f"{run.folder}: was trained on {run.summary['data']} and {runs[0].folder} on"
                f" {runs[0].summary['data']}; compare models of the same data"
            )
        first = first_by_preparation.setdefault(prepared, run)
        if run.data["records_sha256"] != first.data["records_sha256"]:
            raise UserError(
                f"{run.folder}: its data are not those of {first.folder} (records_sha256 in"
                " data.json differs); train on the same images"
            )
    if len(first_by_preparation) > 1:
        preparations = "; ".join(
            f"{size} px, crop {crop}, denoise {denoise}"
            for size, crop, denoise in first_by_preparation
        )
        notes.append(
            f"The models used {len(first_by_preparation)} preparations of the images"
            f" ({preparations}), so the checksums of the prepared images cannot be compared; ids,"
            " labels, subjects and groups are the same."
        )
    subject_wise = [run for run in runs if not run.summary["leaky"]]
    folds = {run.config["split"].get("fold") for run in subject_wise}
    if len(folds) == 1 and len({run.data["split_sha256"] for run in subject_wise}) > 1:
        notes.append(
            "The models share the test images but not the training images (their split.csv differ):"
            " a part of the difference may be due to the training data."
        )
    return notes


def choose_positive(entries: Sequence[Entry], requested: str) -> str:
    """Returns the class of precision, recall, specificity, F1 and AUROC; "" above two classes.

    Raises:
      UserError: there is no such class, there are more than two classes, or runs disagree.
    """
    classes = entries[0].predictions.classes
    if requested and requested not in classes:
        raise UserError(f"positive={requested!r}: no such class; one of {', '.join(classes)}")
    if len(classes) > 2:
        if requested:
            raise UserError(
                f"positive={requested!r}: there are {len(classes)} classes, and with more than two"
                " every score is a mean over the classes; do not set it"
            )
        return ""
    if requested:
        return requested
    named = sorted({entry.positive for entry in entries if entry.positive})
    if len(named) > 1:
        raise UserError(
            f"positive: the runs name {' and '.join(named)} as their positive class; choose one"
        )
    # The second class is also the positive one of scikit-learn.
    return named[0] if named else classes[1]
