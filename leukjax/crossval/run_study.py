"""One start of a study, new or resumed, until it is finished or stopped."""

import os
from collections.abc import Sequence

from absl import logging

from leukjax import distributed, storage
from leukjax.crossval import plan, scheduler, summary
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.progress import Progress
from leukjax.crossval.scheduler import Scheduler
from leukjax.crossval.workers import Workers, find_devices
from leukjax.data import datasets, loader
from leukjax.data import split as data_split
from leukjax.errors import UserError
from leukjax.models import summary as model_summary
from leukjax.models.registry import model_from_config
from leukjax.rundir import RunDir
from leukjax.training.training_data import split_of


def run(study: Study, shard: tuple[int, int], *, retry: bool, imports: Sequence[str] = ()) -> None:
    """Trains this machine's share, and writes the tables once all shares are done.

    Args:
      study: the plan.
      shard: number of this machine, from 1, and number of machines.
      retry: start failed jobs again.
      imports: files and modules that every worker imports.

    Raises:
      UserError: configs, data or folder do not allow it, or runs failed.
      Stopped: on a signal; everything is saved.
    """
    if os.environ.get(distributed.ENVIRONMENT[0]):
        raise UserError(
            f"environment: {distributed.ENVIRONMENT[0]} is set; crossval is one process a machine, "
            "and --shard=NUMBER/COUNT splits the runs over several"
        )
    number, count = shard
    locked = study.folder if count == 1 else study.folder / f".shard-{number}-of-{count}"
    with RunDir(locked).lock() as lock:
        _check_data(study)
        plan.claim(study)
        share = study.share(shard)
        jobs = study.jobs(share)
        if retry:
            scheduler.forget_failures(study, jobs)
        devices = find_devices()
        _log_plan(study, jobs, shard, len(devices))
        progress = Progress(study, jobs, len(devices))
        pool = Workers(devices, study.folder / "logs", lock.fileno(), imports)
        try:
            _train_and_collect(study, share, Scheduler(study, pool, progress))
        finally:
            pool.close()


def _train_and_collect(study: Study, share: Sequence[Job], jobs: Scheduler) -> None:
    jobs.train(share)
    _report_failures(study, study.jobs(share))
    missing = sum(not scheduler.is_done(study, run) for run in study.runs())
    if missing:
        logging.info(
            "this share is done; the last share to end writes the tables (%d runs are missing)",
            missing,
        )
        return
    # One of several shards that end together at a time: the held-out split is accessed once.
    with storage.lock(study.folder / ".join.lock", wait=True):
        summary.write_tables(study)
        if not study.pool:
            jobs.predict_held_out()
        summary.write_and_print(study)


def _check_data(study: Study) -> None:
    """Prepares the data, and checks that every model accepts them and every fold can be made.

    Raises:
      UserError: too few groups, a fold without a class, models that would not share the folds, or
        an image size that a model does not support.
    """
    folds: dict[int, str] = {}
    for model in study.models:
        config = study.configs[model]
        records = datasets.prepare(config.data)
        # Computes shapes alone, and raises if the model does not support the image size.
        model_summary.table(
            model_from_config(config, len(records.classes), "cpu"),
            config.data.image_size,
        )
        fewest = len(records.manifest)
        for fold in range(study.folds):
            config = study.config(Job(model, fold, study.seeds[0]), {})
            split = split_of(config, records)
            fewest = min(fewest, int((split.part == "train").sum()))
            checksum = data_split.checksum(records.manifest, split)
            if folds.setdefault(fold, checksum) != checksum:
                raise UserError(
                    f"{model}: its folds differ from those of {study.models[0]}; give the same "
                    "data fields for all models"
                )
        loader.check_fills(study.configs[model].train.batch_size, fewest)


def _log_plan(study: Study, jobs: Sequence[Job], shard: tuple[int, int], devices: int) -> None:
    trials = sum(job.trial is not None for job in jobs)
    share = f", share {shard[0]} of {shard[1]}" if shard[1] > 1 else ""
    logging.info(
        "%s; %d folds, %d seeds: %d runs%s%s, %s at a time",
        ", ".join(study.models),
        study.folds,
        len(study.seeds),
        len(jobs) - trials,
        f" and {trials} trials" if trials else "",
        share,
        f"one on each of {devices} devices" if devices > 1 else "one",
    )


def _report_failures(study: Study, jobs: Sequence[Job]) -> None:
    failed = scheduler.failures(study, jobs)
    for name, message in failed.items():
        logging.warning("%s failed: %s; its output: %s", name, message, study.log_file(name))
    if failed:
        waiting = sum(not scheduler.is_done(study, job) for job in jobs) - len(failed)
        also = f", and {waiting} wait for them" if waiting else ""
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs and trials failed ({', '.join(failed)}){also}; "
            "fix the cause and start again with --retry"
        )
