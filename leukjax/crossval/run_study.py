"""One start of a study: fresh or going on, to the end or to the next stop."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from absl import logging

from leukjax import distributed, storage
from leukjax.crossval import collect, plan, scheduler, summary
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.progress import Board
from leukjax.crossval.workers import Workers, find_devices
from leukjax.data import datasets, loader
from leukjax.data import split as data_split
from leukjax.errors import UserError
from leukjax.models import summary as summary_of
from leukjax.training import compiled_functions, workdir
from leukjax.training.assemble import split_of


def run(study: Study, shard: tuple[int, int], *, retry: bool) -> None:
    """Train this machine's share, and join the tables once every share is done.

    Raises:
      UserError: configs, data or folder do not allow it, or runs failed; one line says what to do.
      Stopped: a signal asked for it; everything is saved.
    """
    if os.environ.get(distributed.ENVIRONMENT[0]):
        raise UserError(
            f"environment: {distributed.ENVIRONMENT[0]} is set; crossval is one process a machine, "
            "and --shard=NUMBER/OF splits the runs over several"
        )
    number, of = shard
    own = study.folder if of == 1 else study.folder / f".shard-{number}-of-{of}"
    with workdir.locked(own) as lock:
        _check_data(study)
        plan.claim(study)
        share = study.share(shard)
        jobs = scheduler.all_jobs(study, share)
        if retry:
            scheduler.forget_failures(study, jobs)
        devices = find_devices()
        _say_what(study, jobs, shard, len(devices))
        board = Board(study, jobs, len(devices))
        workers = Workers(devices, study.folder / "logs", lock.fileno())
        conductor = scheduler.Conductor(study, workers, board)
        try:
            conductor.train(share)
            _report_failures(study, jobs)
            if not all(scheduler.is_done(study, one) for one in study.runs()):
                missing = sum(not scheduler.is_done(study, one) for one in study.runs())
                logging.info(
                    "this share is done; the tables are written with the last of all shares "
                    "(%d runs are missing)",
                    missing,
                )
                return
            with _one_joins(study):
                collect.write(study)
                if not study.pool:
                    conductor.open_held_out()
                summary.write_and_print(study)
        finally:
            workers.close()


def _check_data(study: Study) -> None:
    """Prepare the data, and prove that every model takes them and every fold can be made.

    Raises:
      UserError: too few groups, a fold without a class, models that would not share the folds, or
        an image size that a model cannot take.
    """
    folds: dict[int, str] = {}
    for model in study.models:
        config = study.configs[model]
        records = datasets.prepare(config.data)
        # By its shapes alone: a model says here what its images must be.
        summary_of.table(
            compiled_functions.make_module(config, len(records.classes), "cpu"),
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
                    f"{model}: its folds are not those of {study.models[0]}; give the same data "
                    "fields for all models"
                )
        loader.check_fills(study.configs[model].train.batch_size, fewest)


def _say_what(study: Study, jobs: Sequence[Job], shard: tuple[int, int], devices: int) -> None:
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
        logging.warning("%s failed: %s; all that it said: %s", name, message,
                        scheduler.log_file(study, name))  # fmt: skip
    if failed:
        waiting = sum(not scheduler.is_done(study, job) for job in jobs) - len(failed)
        also = f", and {waiting} wait for them" if waiting else ""
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs and trials failed ({', '.join(failed)}){also}; "
            "mend the cause and start again with --retry"
        )


@contextlib.contextmanager
def _one_joins(study: Study) -> Iterator[None]:
    """Of several shards that end together one joins at a time, so that test is opened once."""
    with storage.lock(study.folder / ".join.lock", wait=True):
        yield
