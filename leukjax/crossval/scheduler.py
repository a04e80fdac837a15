"""The scheduler of a study: gives each free device the next job, until all are done or stopped."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leukjax.crossval import collect, trials, workers
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.progress import Progress
from leukjax.crossval.workers import JobResult, Workers
from leukjax.errors import Stopped, UserError
from leukjax.rundir import SUMMARY
from leukjax.storage import read_text, write_atomic
from leukjax.training.preemption import StopRequest

POLL = 0.5  # seconds between two polls of the running jobs


def is_done(study: Study, job: Job) -> bool:
    """Whether a run has its summary, or a trial its result."""
    if job.trial is None:
        return (study.path(job) / SUMMARY).exists()
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
        waiting = [m for m in study.models if not collect.held_out_file(study.folder, m).exists()]
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
