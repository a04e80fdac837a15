"""Probes a network on a data set: `fit_probe` for Python, `run` for the command."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import distributed, runtime, sharding, storage
from leukjax.crossval import plan
from leukjax.crossval.plan import Study
from leukjax.data import datasets
from leukjax.data.dataset import Dataset
from leukjax.data.records import Records
from leukjax.errors import UserError, names_arguments
from leukjax.metrics.evaluation import Evaluation
from leukjax.models.registry import model_from_config, name_of
from leukjax.probe import backbone, bags, curves, features, heads, report
from leukjax.probe.features import Features
from leukjax.probe.heads import Head
from leukjax.probe.study import Probe, fit_all, make_study
from leukjax.rundir import RunDir
from leukjax.training.trainer import Trainer
from leukjax.training.training_data import records_of


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `leukjax.probe`; `heads` () = all, `subjects` () = no learning curves."""

    folds: int = 5
    pool: bool = True
    heads: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    level: str = "image"
    subject_labels: str = ""
    output: str = ""


@names_arguments({"split.folds": "folds"})
def fit_probe(
    data: Dataset,
    model: nn.Module,
    *,
    workdir: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "",
    image_size: int = 224,
    folds: int = 5,
    heads: Sequence[str] = (),
    subjects: Sequence[int | str] = (),
    level: str = "image",
    subject_labels: str | os.PathLike[str] = "",
    mean: str | Sequence[float] = "auto",
    std: str | Sequence[float] = "auto",
    seed: int = 0,
    cache_dir: str | os.PathLike[str] = "",
) -> dict[str, Evaluation]:
    """Fits classifiers to the features of a model that is not trained, on folds of groups.

    Every labelled image is tested once; no group is divided.

    Args:
      data: labelled images with a group per image.
      model: a linen module that sows ``pooled``, as those of `create_model`.
      workdir: folder of the probes, which `compare_runs` takes; the same call again resumes.
      weights: a file, a run, or ``hf://OWNER/NAME``; "" = random weights, a baseline.
      image_size: pixels per side.
      folds: at least 3: one tests, the next one validates.
      heads: of logistic, logistic_val, knn1, knn20 and attentive; by subject of gated_attention,
        mean and max. () = all that the model supports.
      subjects: numbers of training subjects, and "all", for learning curves.
      level: "image", or "subject": one label per subject, from the features of all its cells.
      subject_labels: CSV with the columns subject and label, in place of the labels of `data`.
      mean: of each colour in [0, 1]; "auto" takes that of `weights`, or of ImageNet.
      std: standard deviation of each colour, as `mean`.
      seed: of random weights, heads and drawings.
      cache_dir: where features are kept. Default: the user's cache folder.

    Returns:
      The scores out of fold, by the name of each probe, with intervals over groups.

    Raises:
      TypeError: an argument of another type.
      ValueError: what is wrong with the data, the weights or an argument.
    """
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data: expected a Dataset, as lj.ImageFolder(…); got {type(data).__name__}"
        )
    heads, subjects = _listed("heads", heads), _listed("subjects", subjects)
    mesh = _mesh(configs.load("default"))
    trainer = Trainer(
        model,
        weights=weights,
        image_size=image_size,
        mean=mean,
        std=std,
        seed=seed,
        cache_dir=cache_dir,
        mesh=mesh,
    )
    fields = {
        **data.config_fields,
        "data.name": data.name if data.name in datasets.list_datasets() else datasets.CUSTOM,
        "split.protocol": "kfold",
        "split.folds": folds,
    }
    for field, value in fields.items():
        configs.set_field(trainer.config, field, value)
    configs.check(trainer.config)
    name = name_of(model) or type(model).__name__
    study = Study(Path(workdir), {name: name}, {name: trainer.config}, folds, (seed,), pool=True)
    records = data.prepare(image_size, cache_dir=os.fspath(cache_dir))
    options = Options(
        folds,
        heads=heads,
        subjects=tuple(map(str, subjects)),
        level=level,
        subject_labels=os.fspath(subject_labels),
    )
    return _probe(study, model, records, options, echo=False)


def _listed(argument: str, values: Any) -> tuple[Any, ...]:
    """The values of a list; one alone is a list of one."""
    if isinstance(values, str | int):
        return (values,)
    try:
        return tuple(values)
    except TypeError as error:
        raise TypeError(f"{argument}: expected a list, got {type(values).__name__}") from error


def run(
    source: str, overrides: Iterable[tuple[str, Any]], workdir: Path, options: Options
) -> dict[str, Evaluation]:
    """Does the work of the command: `fit_probe` with the data, model and folds of a config.

    Args:
      source: ``PATH.py[:ARGUMENT]``.
      overrides: changes of its fields.
      workdir: folder of the probes.
      options: the flags.

    Raises:
      UserError: config, data, weights or folder do not allow it.
    """
    if os.environ.get(distributed.ENVIRONMENT[0]):
        raise UserError(
            f"environment: {distributed.ENVIRONMENT[0]} is set; probe is one process, which uses "
            "all devices of its machine"
        )
    study = plan.make(
        workdir,
        [source],
        list(overrides),
        folds=options.folds,
        seeds=1,
        pool=options.pool,
        sweep=(),
    )
    (config,) = study.configs.values()
    _chosen(options)  # wrong flags are found before the images are read
    runtime.start(config)
    runtime.log_start()
    records = records_of(config)
    module = model_from_config(config, len(records.classes), jax.default_backend())
    return _probe(study, module, records, options, echo=True)


def _mesh(config: ConfigDict) -> Any:
    # The rows of a dispatch are a multiple of any number of devices, as 0 is.
    return sharding.make_mesh(config.mesh, 0)


def _chosen(options: Options) -> tuple[dict[str, Head], tuple[int, ...]]:
    """The heads and the numbers of subjects that the options name."""
    if options.level not in ("image", "subject"):
        raise UserError(f"--level={options.level}: must be image or subject")
    if options.subject_labels and options.level != "subject":
        raise UserError("--subject_labels: needs --level=subject")
    known = bags.HEADS if options.level == "subject" else heads.HEADS
    for name in options.heads:
        if name not in known:
            raise UserError(f"--heads={name}: no such head; by {options.level}: {', '.join(known)}")
    chosen = {name: head for name, head in known.items() if name in (options.heads or known)}
    return chosen, curves.parse(options.subjects)


def _probe(
    study: Study, module: nn.Module, records: Records, options: Options, *, echo: bool
) -> dict[str, Evaluation]:
    """Computes the features, fits the heads, writes report and exports."""
    chosen, numbers = _chosen(options)
    (name,), (config,) = study.models, study.configs.values()
    if options.subject_labels:
        records = bags.with_subject_labels(records, options.subject_labels)
    network = backbone.make(config, module, records.classes, _mesh(config))
    if not options.heads and "tokens" not in network.forms:
        chosen = {name: head for name, head in chosen.items() if not head.needs_tokens}
    with RunDir(study.folder).lock():
        computed = features.compute(
            network,
            records,
            tokens=any(head.needs_tokens for head in chosen.values()),
            cache_dir=config.data.cache_dir,
            threads=config.data.threads,
        )
        if options.output:
            export(computed, records, Path(options.output))
        of_heads, names = make_study(study, name, chosen)
        if options.level == "subject":
            units, members = bags.subjects_of(records.manifest)
        else:
            units = records.manifest
            members = list(np.arange(len(units))[:, None])
        probe = Probe(of_heads, records, network, computed, units, members, names, options.level)
        orders = curves.draw_all(probe, numbers)  # wrong numbers are found before the first fit
        fit_all(probe)
        points = curves.compute(probe, numbers, orders)
        return report.write(probe, points, echo=echo)


def export(computed: Features, records: Records, path: Path) -> None:
    """Writes ids, labels, classes, subjects, groups and features of all images as .npz.

    Args:
      computed: the features.
      records: the images; `labels` index `classes`, and are -1 for unlabelled images.
      path: the file.

    Raises:
      UserError: it cannot be written.
    """
    manifest = records.manifest
    arrays: Mapping[str, np.ndarray] = {
        "ids": manifest.id,
        "labels": manifest.label,
        "classes": np.array(records.classes),
        "subjects": manifest.subject,
        "groups": manifest.group,
        "features": computed.pooled,
    }
    try:
        with storage.open_output(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output={path}: cannot be written ({reason})") from error
