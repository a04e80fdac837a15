"""Runs a study: gives each free device the next job, until all are done or the study is stopped."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from leukjax import distributed, storage
from leukjax.crossval import plan, results, trials, workers
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.progress import Progress
from leukjax.crossval.workers import JobResult, Workers, find_devices
from leukjax.data import loader
from leukjax.data import split as data_split
from leukjax.errors import Stopped, UserError
from leukjax.models import summary as model_summary
from leukjax.models.registry import model_from_config
from leukjax.rundir import RunDir
from leukjax.storage import read_text, write_atomic
from leukjax.training.preemption import StopRequest
from leukjax.training.training_data import records_of, split_of

POLL = 0.5  # seconds between two polls of the running jobs


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
            forget_failures(study, jobs)
        devices = find_devices()
        _log_plan(study, jobs, shard, len(devices))
        progress = Progress(study, jobs, len(devices))
        pool = Workers(devices, study.folder / "logs", lock.fileno(), imports)
        try:
            _train_and_collect(study, share, Scheduler(study, pool, progress))
        finally:
            pool.close()


def _train_and_collect(study: Study, share: Sequence[Job], jobs: "Scheduler") -> None:
    jobs.train(share)
    _report_failures(study, study.jobs(share))
    missing = sum(not is_done(study, run) for run in study.runs())
    if missing:
        logging.info(
            "this share is done; the last share to end writes the tables (%d runs are missing)",
            missing,
        )
        return
    # One of several shards that end together at a time: the held-out split is accessed once.
    with storage.lock(study.folder / ".join.lock", wait=True):
        results.write_tables(study)
        if not study.pool:
            jobs.predict_held_out()
        results.write_and_print(study)


def _check_data(study: Study) -> None:
    """Prepares the data, and checks that every model accepts them and every fold can be made.

    Raises:
      UserError: too few groups, a fold without a class, models that would not share the folds, or
        an image size that a model does not support.
    """
    folds: dict[int, str] = {}
    for model in study.models:
        config = study.configs[model]
        records = records_of(config)
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
    trial_count = sum(job.trial is not None for job in jobs)
    share = f", share {shard[0]} of {shard[1]}" if shard[1] > 1 else ""
    logging.info(
        "%s; %d folds, %d seeds: %d runs%s%s, %s at a time",
        ", ".join(study.models),
        study.folds,
        len(study.seeds),
        len(jobs) - trial_count,
        f" and {trial_count} trials" if trial_count else "",
        share,
        f"one on each of {devices} devices" if devices > 1 else "one",
    )


def _report_failures(study: Study, jobs: Sequence[Job]) -> None:
    failed = failures(study, jobs)
    for name, message in failed.items():
        logging.warning("%s failed: %s; its output: %s", name, message, study.log_file(name))
    if failed:
        waiting = sum(not is_done(study, job) for job in jobs) - len(failed)
        also = f", and {waiting} wait for them" if waiting else ""
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs and trials failed ({', '.join(failed)}){also}; "
            "fix the cause and start again with --retry"
        )


class Scheduler:
    """Gives jobs to workers and collects their results."""

    def __init__(self, study: Study, pool: Workers, progress: Progress):
        """Starts nothing yet."""
        self._study, self._pool, self._progress = study, pool, progress
        self._stop = StopRequest()

    def train(self, runs: Sequence[Job]) -> None:
        """Does these runs and the trials that they wait for, but not those that failed before.

        Raises:
          Stopped: on a signal; everything is saved.
        """
        study = self._study
        jobs = study.jobs(runs)
        failed_before = failures(study, jobs)
        failed = [job for job in jobs if job.name in failed_before]
        waiting = [job for job in jobs if job not in failed and not is_done(study, job)]
        self._progress.expect(waiting, failed)
        with contextlib.closing(self._progress), StopRequest() as self._stop:
            while waiting or self._pool.busy:
                for device in self._pool.free:
                    job = self._next(waiting)
                    if job is None:
                        break
                    self._progress.started(job, device)
                    self._pool.give(device, job, self._message(job))
                if not self._pool.busy:
                    return  # the jobs that still wait are of folds with a failed trial
                for job, result in self._poll():
                    self._end(job, result)

    def predict_held_out(self) -> None:
        """Predicts the held-out split with every model's ensemble, unless that is done.

        Raises:
          Stopped: on a signal.
          UserError: a model failed.
        """
        study = self._study
        waiting = [m for m in study.models if not results.held_out_file(study.folder, m).exists()]
        failed: list[str] = []
        with StopRequest() as self._stop:
            while waiting or self._pool.busy:
                for device in self._pool.free[: len(waiting)]:
                    model = waiting.pop(0)
                    self._progress.write(f"predicting the held-out split with all runs of {model}")
                    message = {
                        "kind": "held_out",
                        "study": str(study.folder),
                        "model": model,
                        "folders": [str(study.path(run)) for run in study.runs(model)],
                        "machine_fields": study.machine_fields(model),
                        "log": str(study.log_file(f"{model}/held_out")),
                    }
                    self._pool.give(device, model, message)
                failed += [
                    f"{model}: {result.message}"
                    for model, result in self._poll()
                    if result.status != workers.DONE
                ]
        if failed:
            raise UserError(f"held-out split: {'; '.join(failed)}; the same command tries it again")

    def _next(self, waiting: list[Job]) -> Job | None:
        """Removes and returns the first job that can start; a run waits for its fold's trials."""
        for job in list(waiting):
            try:
                is_ready = self._values(job) is not None
            except UserError as error:
                waiting.remove(job)
                self._end(job, JobResult(workers.FAILED, str(error)))
                continue
            if is_ready:
                waiting.remove(job)
                return job
        return None

    def _values(self, job: Job) -> dict[str, Any] | None:
        if job.trial is not None:
            return self._study.trials[job.trial]
        return trials.choose(self._study, job.model, job.fold)

    def _message(self, job: Job) -> dict[str, Any]:
        values = self._values(job)
        assert values is not None
        return {
            "kind": "run" if job.trial is None else "trial",
            "config": self._study.config(job, values).to_dict(),
            "folder": str(self._study.path(job)),
            "log": str(self._study.log_file(job.name)),
        }

    def _end(self, job: Job, result: JobResult) -> None:
        diverged = job.trial is not None and result.status == workers.DIVERGED
        if result.status != workers.DONE and not diverged:
            content = {"message": result.message or result.status}
            write_atomic(_failure_file(self._study, job.name), json.dumps(content) + "\n")
        self._progress.ended(job, result)

    def _poll(self) -> list[tuple[Any, JobResult]]:
        """Returns the jobs that have ended.

        Raises:
          Stopped: on a signal. Busy workers have saved by then.
        """
        ended = self._pool.wait(POLL)
        self._progress.draw()
        # A queue may send its signal to the workers as well, and theirs may come first.
        worker_stopped = any(result.status == workers.STOPPED for _, result in ended)
        reason = self._stop.requested() or ("SIGTERM" if worker_stopped else "")
        if reason:
            self._progress.write(f"{reason}: the running jobs save and stop")
            self._pool.terminate()
            self._pool.close()
            raise Stopped(
                f"{reason}; everything is saved in {self._study.folder}; "
                "the same command resumes from here"
            )
        return ended


def is_done(study: Study, job: Job) -> bool:
    """Whether a run has its summary, or a trial its result."""
    if job.trial is None:
        return RunDir(study.path(job)).is_finished
    return trials.is_done(study, job)


def failures(study: Study, jobs: Sequence[Job]) -> dict[str, str]:
    """Returns the message of each job that failed, by the job's name."""
    files = {job.name: _failure_file(study, job.name) for job in jobs}
    return {
        name: json.loads(read_text(file))["message"]
        for name, file in files.items()
        if file.exists()
    }


def forget_failures(study: Study, jobs: Sequence[Job]) -> None:
    """Lets failed jobs be started again."""
    for job in jobs:
        _failure_file(study, job.name).unlink(missing_ok=True)


def _failure_file(study: Study, name: str) -> Path:
    return study.folder / "failures" / f"{name.replace('/', '-')}.json"
