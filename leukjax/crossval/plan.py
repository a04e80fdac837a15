"""The plan of a study: models that share folds and seeds, the trials of a sweep, and all jobs.

It is a pure function of the command line (and of the sources of the data, where these are the
folds); ``crossval.json`` records it.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.data.datasets import make_dataset
from leukjax.data.given_split import names_of_sources
from leukjax.data.parts import ONE_SOURCE
from leukjax.errors import UserError
from leukjax.storage import read_text, write_atomic

FILE = "crossval.json"
# All models share their data set and split, so that their predictions are paired. What is done with
# an image may differ, because folds are made of groups.
_PREPARATION = (
    *("data.image_size", "data.crop", "data.denoise", "data.mean", "data.std", "data.sampling"),
    *("data.stain", "data.cache_dir"),
)
Values = dict[str, Any]  # field -> value


@dataclasses.dataclass(frozen=True)
class Job:
    """One training: a run, or a trial of a sweep.

    Attributes:
      model: name of the model.
      fold, seed: of the run.
      trial: number of the trial, from 0; None for a run.
    """

    model: str
    fold: int
    seed: int
    trial: int | None = None

    @property
    def name(self) -> str:
        """``cnn/fold0-seed0``, ``cnn/fold0-trial2``."""
        last = f"seed{self.seed}" if self.trial is None else f"trial{self.trial}"
        return f"{self.model}/fold{self.fold}-{last}"

    @property
    def folder(self) -> str:
        """The work directory, relative to the study's folder."""
        return f"{'runs' if self.trial is None else 'trials'}/{self.name}"


@dataclasses.dataclass(frozen=True)
class Study:
    """The models, folds, seeds and trials of one command.

    Attributes:
      folder: the study's work directory.
      sources: model -> config as named on the command line.
      configs: model -> its config, with the folds in ``split``.
      folds: number of folds.
      seeds: seeds of the runs.
      pool: whether the held-out split is folded as well.
      trials: the swept values of each trial; empty without a sweep.
    """

    folder: Path
    sources: Mapping[str, str]
    configs: Mapping[str, ConfigDict]
    folds: int
    seeds: tuple[int, ...]
    pool: bool
    trials: tuple[Values, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order of the command line."""
        return tuple(self.configs)

    def runs(self, model: str | None = None) -> list[Job]:
        """All runs of one model, or of all models: by model, fold, seed."""
        models = self.models if model is None else (model,)
        return list(
            itertools.starmap(Job, itertools.product(models, range(self.folds), self.seeds))
        )

    def trial_jobs(self, model: str, fold: int) -> list[Job]:
        """The trials of a fold, all with the first seed."""
        seed = self.seeds[0]
        return [Job(model, fold, seed, number) for number in range(len(self.trials))]

    def path(self, job: Job) -> Path:
        """The work directory of a job."""
        return self.folder / job.folder

    def config(self, job: Job, values: Mapping[str, Any]) -> ConfigDict:
        """The config of a run or trial, with the values that the sweep chose or tries."""
        config = self.configs[job.model].copy_and_resolve_references()
        for field, value in values.items():
            configs.set_field(config, field, value)
        config.split.fold = job.fold
        config.seed = job.seed
        return config

    def machine_fields(self, model: str) -> Values:
        """Fields of a model's config that depend on the machine: paths and runtime settings."""
        flat = configs.flatten(self.configs[model])
        return {field: flat[field] for field in flat if configs.may_be_given_again(field)}

    def share(self, shard: tuple[int, int]) -> list[Job]:
        """The runs of one of several machines.

        With a sweep all runs of a fold are on one machine, since they wait for its trials.

        Args:
          shard: number of the machine, from 1, and number of machines.
        """
        number, count = shard
        runs = self.runs()
        units = [[run] for run in runs]
        if self.trials:
            folds = itertools.groupby(runs, lambda run: (run.model, run.fold))
            units = [list(runs_of_fold) for _, runs_of_fold in folds]
        return [run for unit in units[number - 1 :: count] for run in unit]

    def jobs(self, runs: Sequence[Job]) -> list[Job]:
        """These runs, and before those of each fold its trials."""
        jobs: dict[Job, None] = {}
        for run in runs:
            jobs |= dict.fromkeys(self.trial_jobs(run.model, run.fold))
            jobs[run] = None
        return list(jobs)

    def log_file(self, name: str) -> Path:
        """The file for the output of the job of this name."""
        return self.folder / "logs" / f"{name}.txt"


def make(
    folder: Path,
    sources: Sequence[str],
    overrides: Sequence[tuple[str, str]],
    *,
    folds: int,
    seeds: int,
    pool: bool,
    sweep: Sequence[str],
) -> Study:
    """Returns the study of a command line.

    Args:
      folder: work directory of the study.
      sources: configs, ``PATH.py[:ARGUMENT]``.
      overrides: changes of fields, for all configs.
      folds: at least 3: one tests, one validates, the others train. Ignored with
        ``split.protocol=leave_one_source_out``, whose folds are the sources of the data.
      seeds: number of seeds, from the configs' own seed on.
      pool: fold the held-out split as well.
      sweep: texts ``FIELD=VALUE,VALUE,…``; several make a grid.

    Raises:
      UserError: a wrong config or field, or configs whose models could not be compared.
    """
    if not sources:
        raise UserError(
            "no config is given; for instance: crossval configs/cnn.py configs/resnet50.py"
        )
    taken = {"split.folds": "--folds", "split.fold": "--folds", "split.held_out": "--pool"}
    for field, _ in overrides:
        if field in taken:
            raise UserError(f"--config.{field}: set by {taken[field]} here; leave it out")
    by_model: dict[str, ConfigDict] = {}
    for source in sources:
        name = model_name(source)
        if name in by_model:
            raise UserError(f"{source}: a second model with the name {name}; rename a config file")
        by_model[name] = _with_folds(configs.load(source, overrides), folds, pool)
    _check_shared(by_model)
    first = next(iter(by_model.values()))
    if first.split.protocol == ONE_SOURCE:  # every image is tested, so nothing is held out
        folds, pool = len(_sources(first)), True
    study = Study(
        folder,
        dict(zip(by_model, sources, strict=True)),
        by_model,
        folds,
        tuple(range(first.seed, first.seed + seeds)),
        pool,
        grid(sweep),
    )
    for model, values in itertools.product(study.models, study.trials):
        configs.check(study.config(Job(model, 0, study.seeds[0]), values))
    return study


def model_name(source: str) -> str:
    """``configs/hybrid_vit.py:cnmc,r50_b16`` -> ``hybrid_vit-r50_b16``."""
    argument = source.partition(":")[2]
    return "-".join([configs.name_of(source), *argument.split(",")[1:]])


def grid(sweep: Sequence[str]) -> tuple[Values, ...]:
    """``["a.b=1,2", "c=x"]`` -> ``({"a.b": "1", "c": "x"}, {"a.b": "2", "c": "x"})``.

    Raises:
      UserError: a text of another form, a field named twice, or one that all runs share.
    """
    fields: dict[str, list[str]] = {}
    for text in sweep:
        field, equals, values = text.removeprefix("config.").partition("=")
        listed = values.split(",")
        if not equals or not field or not all(listed) or len(set(listed)) < len(listed):
            raise UserError(f"--sweep={text}: must read FIELD=VALUE,VALUE,… with different values")
        if field in fields:
            raise UserError(f"--sweep={text}: {field} is swept twice; give all values in one list")
        if _is_shared(field) or field == "checkpoint.metric":
            raise UserError(f"--sweep={text}: shared by all runs of a study; sweep another field")
        fields[field] = listed
    if not fields:
        return ()
    return tuple(
        dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
    )


def _with_folds(config: ConfigDict, folds: int, pool: bool) -> ConfigDict:
    if config.split.protocol == "image":
        raise UserError(
            "--config.split.protocol=image: the folds and the held-out split are made of whole "
            "groups; give subject or official"
        )
    if config.split.protocol == "kfold" and not pool:
        raise UserError(
            "--config.split.protocol=kfold: holds nothing out; give the protocol whose test split "
            "is held out (subject, official, given, auto), or --pool"
        )
    if config.split.protocol == ONE_SOURCE:
        return config
    config.split.held_out = "none" if pool else config.split.protocol
    config.split.protocol = "kfold"
    config.split.folds = folds
    config.split.fold = 0
    configs.check(config)
    return config


def _sources(config: ConfigDict) -> list[str]:
    """Returns the sources of the labelled images; reads lists, no image."""
    dataset = make_dataset(config.data)
    sources = dataset.attributes.get("source", {})
    names = names_of_sources(sources.get(e.id, "") for e in dataset.entries if e.label >= 0)
    if len(names) < 2:
        raise UserError(
            f"split.protocol={ONE_SOURCE}: the data name {len(names)} sources, and it needs two; "
            "give a table with the sources (--config.data.columns=source=COLUMN)"
        )
    return names


def _check_shared(by_model: Mapping[str, ConfigDict]) -> None:
    (first, config), *others = by_model.items()
    expected = configs.flatten(config)
    for model, config in others:
        fields = configs.flatten(config)
        for field, value in expected.items():
            if _is_shared(field) and fields[field] != value:
                raise UserError(
                    f"{field}: {value!r} in {first}, {fields[field]!r} in {model}; models are "
                    f"compared on the same folds of the same data: give --config.{field} for all"
                )


def _is_shared(field: str) -> bool:
    if field.startswith("data.") and field in configs.fields():
        machine = field in configs.free_fields() and field not in configs.path_fields()
        return not machine and field not in _PREPARATION
    return field == "seed" or field.startswith("split.")


def claim(study: Study) -> None:
    """Writes ``crossval.json``, or checks that the folder holds this study.

    Raises:
      UserError: it holds another one; the message names every difference.
    """
    record = _record(study)
    path = study.folder / FILE
    if not path.exists():
        if (study.folder / "config.json").exists():
            raise UserError(f"--workdir={study.folder}: holds a single run; choose another folder")
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        return
    try:
        before = json.loads(read_text(path))
        changed = configs.differences(before, record, ignore=_free(study))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read; choose another --workdir") from error
    if changed:
        raise UserError(
            f"--workdir={study.folder}: holds a study that differs from this one: "
            f"{'; '.join(changed)}; undo the change or choose another --workdir"
        )


def _free(study: Study) -> list[str]:
    """Fields that may change between two starts: paths, and how a config is named."""
    free = [f"fields.{field}" for field in configs.free_fields()] + ["config"]
    return [f"models.{model}.{field}" for model in study.models for field in free]


def _record(study: Study) -> dict[str, Any]:
    sweep = {
        field: list(dict.fromkeys(values[field] for values in study.trials))
        for field in (study.trials[0] if study.trials else ())
    }
    return {
        "models": {
            model: {
                "config": study.sources[model],
                "runs": [run.folder for run in study.runs(model)],
                "fields": study.configs[model].to_dict(),
            }
            for model in study.models
        },
        "folds": study.folds,
        "seeds": list(study.seeds),
        "pool": study.pool,
        "held_out": next(iter(study.configs.values())).split.held_out,
        "sweep": sweep or None,
    }
