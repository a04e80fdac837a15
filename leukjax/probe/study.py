"""The probes of a data set: every head on every fold, each as a folder that `compare` reads.

The work directory has the form of a study of `leukjax.crossval`; its runs have predictions and no
checkpoint.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int
from ml_collections import ConfigDict

from leukjax import runtime
from leukjax.crossval import plan, results
from leukjax.crossval.plan import Job, Study
from leukjax.data import duplicates
from leukjax.data import split as data_split
from leukjax.data.manifest import Manifest
from leukjax.data.records import Records
from leukjax.data.source import WARNING
from leukjax.data.split import HELD_OUT, Split
from leukjax.errors import UserError
from leukjax.metrics import predictions
from leukjax.metrics.predictions import Predictions
from leukjax.models import summary as model_summary
from leukjax.models.registry import describe
from leukjax.probe.backbone import Backbone
from leukjax.probe.features import Features
from leukjax.probe.heads import Fitted, Head, Problem
from leukjax.rundir import SUMMARY, RunDir
from leukjax.storage import csv_text, write_atomic
from leukjax.training.final_evaluation import versions
from leukjax.training.training_data import split_of

ATTENTION = "attention.csv"  # of a run: subject, id, weight of each cell of its test subjects


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """What is probed, and where.

    Attributes:
      study: the folds, and the name of each head as a model of it.
      records: prepared images, with the labels that are predicted.
      backbone: the network.
      features: of the images.
      units: what has a label and is predicted: the images, or the subjects; one row each.
      members: the images of each unit, as rows of the records.
      heads: by the name of the model.
      level: "image" or "subject".
    """

    study: Study
    records: Records
    backbone: Backbone
    features: Features
    units: Manifest
    members: list[Int[np.ndarray, " k"]]
    heads: Mapping[str, Head]
    level: str

    @property
    def config(self) -> ConfigDict:
        """The config that all heads share."""
        return self.study.configs[self.study.models[0]]

    @functools.cached_property
    def positive(self) -> str:
        """The class of precision, recall and F1; "" above two classes.

        Raises:
          UserError: the config names a class that there is not.
        """
        positive = self.config.data.positive or self.records.positive
        if positive and positive not in self.records.classes:
            raise UserError(
                f"--config.data.positive={positive}: no such class; one of "
                f"{', '.join(self.records.classes)}"
            )
        return positive

    @functools.cached_property
    def splits(self) -> tuple[Split, ...]:
        """The split of the units in each fold: that of their images, which no group divides.

        Raises:
          UserError: too few groups, or a fold without some class.
        """
        first = np.array([rows[0] for rows in self.members])
        splits = []
        for fold in range(self.study.folds):
            config = self.study.config(Job(self.study.models[0], fold, self.config.seed), {})
            split = split_of(config, self.records)
            splits.append(dataclasses.replace(split, part=split.part[first]))
        return tuple(splits)

    def problem(self, train: Int[np.ndarray, " t"], val: Int[np.ndarray, " v"]) -> Problem:
        """The problem of fitting a head to some units."""
        return Problem(
            self.features.pooled,
            self.features.tokens,
            self.members,
            self.units.label,
            len(self.records.classes),
            train,
            val,
            self.config.seed,
        )

    def predictions(self, fitted: Fitted, rows: Int[np.ndarray, " n"]) -> Predictions:
        """The predictions of a head for some units."""
        units = self.units
        return Predictions(
            self.records.classes,
            units.id[rows],
            units.subject[rows],
            units.group[rows],
            units.label[rows],
            fitted.predict(rows),
        )

    @functools.cached_property
    def network(self) -> model_summary.Summary:
        """Parameters and FLOPs of the network."""
        return model_summary.table(self.backbone.module, self.config.data.image_size)


def make_study(base: Study, name: str, heads: Mapping[str, Head]) -> tuple[Study, dict[str, Head]]:
    """Returns a study whose models are the heads, and the heads by the names of these models.

    Args:
      base: with the config that all share.
      name: of the network, which begins the name of each model.
      heads: by name.
    """
    (model,) = base.models
    names = {f"{name}-{key}": head for key, head in heads.items()}
    study = dataclasses.replace(
        base,
        sources=dict.fromkeys(names, base.sources[model]),
        configs=dict.fromkeys(names, base.configs[model]),
    )
    return study, names


def fit_all(probe: Probe) -> None:
    """Fits every head to every fold that has none yet, and writes the predictions.

    The caller holds the lock of the folder. A start after a kill continues.

    Raises:
      UserError: the folder holds another study, or a fold cannot be made.
    """
    study, splits = probe.study, probe.splits  # all are made before anything is written
    plan.claim(study)
    for note in (*probe.records.notes, *splits[0].notes):
        note.log()
    waiting = [job for job in study.runs() if not RunDir(study.path(job)).is_finished]
    has_held_out = bool((splits[0].part == HELD_OUT).any())
    if has_held_out:
        for model in dict.fromkeys(job.model for job in waiting):
            RunDir(study.folder).record_study_access(model, HELD_OUT, study.folds)
    manifest = probe.records.manifest
    pairs = duplicates.identical_pairs(manifest) + duplicates.near_duplicates(manifest)
    for fold, split in enumerate(splits):
        problem = probe.problem(split.rows("train"), split.rows("val"))
        for job in waiting:
            if job.fold == fold:
                _fit(probe, job, split, problem, pairs)
    if has_held_out:
        for model in study.models:
            jobs = study.runs(model)
            members = [predictions.read(_member_file(study, job)) for job in jobs]
            mean = predictions.mean([member.probabilities for member in members])
            ensemble = dataclasses.replace(members[0], probabilities=mean)
            ensemble.write(results.held_out_file(study.folder, model))
    write_atomic(study.folder / results.OUT_OF_FOLD, results.out_of_fold_table(study))


def _fit(
    probe: Probe, job: Job, split: Split, problem: Problem, pairs: list[duplicates.Pair]
) -> None:
    """Fits a head, and writes the folder of the run; the summary comes last."""
    began, study, head = time.perf_counter(), probe.study, probe.heads[job.model]
    fitted = head.fit(problem)
    run = RunDir(study.path(job))
    run.claim(study.config(job, {}), _facts(probe, split))
    data_split.save_csv(probe.units, split, run.path("split.csv"))
    if probe.level == "image":
        duplicates.save_csv(probe.units, pairs, run.path("duplicates.csv"))
        if probe.records.attributes:
            probe.records.save_attributes(run.path("attributes.csv"))
    run.write_predictions("val", probe.predictions(fitted, split.rows("val")))
    run.record_test_access(0, by="probe")
    test, held_out = split.rows("test"), split.rows(HELD_OUT)
    run.write_predictions("test", probe.predictions(fitted, test))
    if len(held_out):
        probe.predictions(fitted, held_out).write(_member_file(study, job))
    if fitted.weights is not None:
        run.write(ATTENTION, _attention_table(probe, test, fitted.weights(test)))
    seconds = time.perf_counter() - began
    run.write_json(SUMMARY, _summary(probe, job, split, fitted, seconds))
    logging.info("%s: fitted in %.1f s (%s)", job.name, seconds, fitted.setting)


def _member_file(study: Study, job: Job) -> Path:
    folder = RunDir(study.folder).path("predictions", "test_members", job.model)
    return folder / f"fold{job.fold}-seed{job.seed}.csv"


def _facts(probe: Probe, split: Split) -> dict[str, Any]:
    """What makes the data of a run, as `TrainingData.facts`."""
    units = probe.units
    facts = {
        "images": len(units),
        "subjects": len(np.unique(units.subject)),
        "groups": len(np.unique(units.group)),
        "classes": list(units.classes),
        "protocol": split.protocol,
        "records_sha256": probe.records.checksum,
        "split_sha256": data_split.checksum(units, split),
    }
    return facts | ({"init": dict(probe.backbone.facts)} if probe.backbone.facts else {})


def _attention_table(
    probe: Probe, subjects: Int[np.ndarray, " n"], weights: list[np.ndarray]
) -> str:
    rows = [
        (probe.units.id[subject], probe.records.manifest.id[image], f"{weight:.9g}")
        for subject, of_subject in zip(subjects, weights, strict=True)
        for image, weight in zip(probe.members[subject], of_subject, strict=True)
    ]
    return csv_text(("subject", "id", "weight"), rows)


def _summary(
    probe: Probe, job: Job, split: Split, fitted: Fitted, seconds: float
) -> dict[str, Any]:
    records, config = probe.records, probe.config
    head, network = probe.heads[job.model].description, describe(config.model)
    return {
        "model": f"{head} on features of {network}",
        "probe": head,
        "setting": fitted.setting,
        "level": probe.level,
        "parameters": probe.network.parameters,
        "flops_per_image": probe.network.flops,
        "data": records.name,
        "synthetic": records.synthetic,
        "subjects_known": records.subjects_known,
        "protocol": split.protocol,
        "leaky": split.leaky,
        "groups": config.split.groups,
        "rare_classes": list(split.rare),
        "classes": list(records.classes),
        "positive": probe.positive,
        "seed": job.seed,
        "epoch_chosen": float(fitted.epoch),
        "chosen_by": fitted.chosen_by,
        "data_warnings": [note.text for note in records.notes if note.level == WARNING],
        "test_openings": RunDir(probe.study.path(job)).test_accesses(),
        "seconds_trained": round(seconds, 1),
        "device": runtime.describe(),
        "processor": runtime.processor(),
        "versions": versions(),
    }
