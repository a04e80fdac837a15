"""What is compared: finished runs, crossval folders, and predictions of any tool, read and checked.

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
from leukjax.metrics import predictions as tables
from leukjax.metrics.predictions import Predictions, read_checked
from leukjax.rundir import RunDir, check_fields


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished work directory.

    Attributes:
        folder: the work directory.
        config, data, summary: of the JSON files of these names.
        weights: what the run started from, as its config names it; "" = at random.
        history: lines of metrics.jsonl.
        test, val: predictions, sorted by id.
        split: id -> (subject, group, label, part), of split.csv.
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


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model in the comparison.

    Attributes:
        name: unique.
        source: what was given, for messages.
        predictions: mean probability over the runs, sorted by id.
        part: what `predictions` are of: "test" or "out of fold".
        runs: its work directories, one per seed (and fold); empty for bare predictions.
        members: predictions of each seed (of each run, on a held-out test) on the same images; one
            for a single run, none for an ensemble whose members are not at hand.
        folds: of a crossval folder: [seed][fold] predictions on the parts that were left out; else
            empty.
        out_of_fold: of a crossval folder whose `predictions` are of a held-out test; else None.
        study: the crossval folder; None otherwise.
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
        """Subjects are on both sides of the split; unknown, hence False, of bare predictions."""
        return any(run.summary["leaky"] for run in self.runs)

    @property
    def positive(self) -> str:
        """The runs' own positive class; "" if there is none."""
        return self.runs[0].summary["positive"] if self.runs else ""


def read_entries(arguments: Sequence[str]) -> list[Entry]:
    """Read every argument.

    Raises:
        UserError: a path that is nothing of the kind, an unfinished run, bad predictions, or a name
            that occurs twice.
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
    # A name may be bytes that are not UTF-8, or hold control characters; files and terminals get
    # them as escapes.
    entries = [dataclasses.replace(e, name=terminal.escape(e.name)) for e in entries]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: is the name of {names.count(name)} models; give NAME=PATH")
    return entries


def _with_parent(entry: Entry) -> Entry:
    path = Path(entry.source).absolute()
    if path.stem != entry.name and path.name != entry.name:
        return entry  # a name that was given
    return dataclasses.replace(entry, name=f"{path.parent.name}/{entry.name}")


def _read(name: str, paths: str) -> list[Entry]:
    several = [Path(path) for path in paths.split(",")] if not Path(paths).exists() else []
    if len(several) > 1:
        runs = tuple(read_run(path) for path in several)
        tests = [run.test for run in runs]
        for run in runs[1:]:
            same_images(tests[0], run.test, str(runs[0].folder), str(run.folder))
        shown = name or "+".join(path.name for path in several)
        return [Entry(shown, paths, mean(tests), runs=runs, members=tuple(tests))]
    path = Path(paths)
    if path.is_file():
        found = read_checked(path)
        return [Entry(name or path.stem, paths, found, members=(found,))]
    if (path / "crossval.json").is_file():
        return _read_crossval(path, name)
    run = read_run(path)
    return [Entry(name or path.absolute().name, paths, run.test, runs=(run,), members=(run.test,))]


def read_run(folder: Path) -> Run:
    """A finished work directory.

    Raises:
        UserError: it is none, or it is not finished, or its predictions are not of its split.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such file or folder; give a run, a crossval folder or a CSV")
    run = RunDir(folder)
    run.require("data.json", "summary.json", "split.csv", "predictions/test.csv")
    config, recorded = run.config(), run.recorded()
    data, summary = run.data(), run.summary()
    test, val = (_by_id(run.predictions(part)) for part in ("test", "val"))
    for part, found in (("test", test), ("val", val)):
        if list(found.classes) != summary["classes"]:
            raise UserError(
                f"{folder}/predictions/{part}.csv: its classes are not those of summary.json;"
                " copy the run again"
            )
    split = _read_split(folder)
    for part, found in (("test", test), ("val", val)):
        strangers = [name for name in found.id if split.get(name, ("",) * 4)[3] != part]
        if strangers:
            raise UserError(
                f"{folder}/predictions/{part}.csv: {strangers[0]} is no {part} image of split.csv"
                f" ({len(strangers)} such ids); predict again"
            )
    return Run(
        folder,
        config.to_dict(),
        recorded["init.weights"],
        data,
        summary,
        history=[line for line in run.history() if "epoch" in line],
        test=test,
        val=val,
        split=split,
    )


def _by_id(found: Predictions) -> Predictions:
    """Sorted by id, in float64."""
    ordered = found.take(np.argsort(found.id, kind="stable"))
    return dataclasses.replace(ordered, probabilities=ordered.probabilities.astype(np.float64))


def same_images(first: Predictions, second: Predictions, name: str, other: str) -> None:
    """Refuse to compare what was not tested on the same images.

    Raises:
        UserError: other classes or another order of them, other ids, or an id with another label or
            group.
    """
    if first.classes != second.classes:
        raise UserError(
            f"{other}: its classes are {', '.join(second.classes)} and those of {name} are"
            f" {', '.join(first.classes)}; both must have the same, in the same order"
        )
    for ours, theirs, here, there in (
        (second, first, other, name),
        (first, second, name, other),
    ):
        unknown = np.setdiff1d(ours.id, theirs.id)
        if len(unknown):
            raise UserError(
                f"{here}: {unknown[0]} is no test image of {there} ({len(unknown)} of"
                f" {len(ours)} ids are unknown); compare models on the same test set"
            )
    for column, title in (("labels", "label"), ("group", "group"), ("subject", "subject")):
        differ = np.flatnonzero(getattr(first, column) != getattr(second, column))
        if len(differ):
            raise UserError(
                f"{other}: {first.id[differ[0]]} has another {title} than in {name}"
                f" ({len(differ)} such ids); compare models on the same test set"
            )


def mean(predictions: Sequence[Predictions]) -> Predictions:
    """The ensemble: mean probability of each image."""
    if len(predictions) == 1:
        return predictions[0]
    p = tables.mean([one.probabilities for one in predictions])
    return dataclasses.replace(predictions[0], probabilities=p)


def _read_crossval(folder: Path, name: str) -> list[Entry]:
    """One entry a model of a crossval folder: its ensemble on the held-out test, or out of fold."""
    models = _models_of(folder)
    if name and len(models) > 1:
        raise UserError(
            f"{name}={folder}: holds {len(models)} models; give the folder without NAME"
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
        members = tuple(join(parts) for parts in folds)
        for seed, one in zip(seeds[1:], members[1:], strict=True):
            same_images(members[0], one, f"{model}, seed {seeds[0]}", f"{model}, seed {seed}")
        pooled = mean(members)
        held_out = folder / "predictions" / "test" / f"{model}.csv"
        shown = name or model
        if held_out.is_file():
            test = read_checked(held_out)
            each = sorted((folder / "predictions" / "test_members" / model).glob("*.csv"))
            alone = tuple(read_checked(path) for path in each)
            for path, one in zip(each, alone, strict=True):
                same_images(test, one, str(held_out), str(path))
            entries.append(
                Entry(shown, str(held_out), test, "test", runs, alone, folds, pooled, folder)
            )
        else:
            entries.append(
                Entry(shown, str(folder), pooled, "out of fold", runs, members, folds, None, folder)
            )
    return entries


def join(parts: Sequence[Predictions]) -> Predictions:
    """The parts that the folds left out, as one table sorted by id."""
    columns = ("id", "subject", "group", "labels", "probabilities")
    values = [np.concatenate([getattr(part, column) for part in parts]) for column in columns]
    ids, counts = np.unique(values[0], return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"crossval: {ids[counts > 1][0]} is in two folds' test parts; run crossval again"
        )
    return Predictions(parts[0].classes, *values).take(np.argsort(values[0]))


@functools.lru_cache(maxsize=64)
def _read_split(folder: Path) -> dict[str, tuple[str, str, str, str]]:
    return RunDir(folder).split()


def _models_of(folder: Path) -> dict[str, list[str]]:
    """The models of a crossval folder, and the folders of their runs, all below it."""
    content = RunDir(folder).read_json("crossval.json")
    try:
        check_fields(content, {"models": _check_models})
    except ValueError as error:
        raise UserError(f"{folder}/crossval.json: {error}; run crossval again") from error
    return {model: about["runs"] for model, about in content["models"].items()}


def _check_models(models: Any) -> None:
    if not isinstance(models, dict) or not models:
        raise ValueError("names no models")
    for model, about in models.items():
        if not _is_below(model) or "/" in model:
            raise ValueError(f"{model[:100]!r} is no name of a model")
        paths = about.get("runs") if isinstance(about, dict) else None
        if not isinstance(paths, list) or not paths:
            raise ValueError(f"names no runs of {model}")
        for path in paths:
            if not isinstance(path, str) or not _is_below(path):
                raise ValueError("a run is not in the folder of the study")


def _is_below(path: str) -> bool:
    """Whether a relative path stays below where it starts."""
    parts = Path(path).parts
    return bool(parts) and not Path(path).is_absolute() and ".." not in parts and "\0" not in path
