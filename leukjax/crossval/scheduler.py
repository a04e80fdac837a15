"""The work of a study: every device gets the next job until all are done, or a signal comes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leukjax.crossval import held_out, job_result, trials
from leukjax.crossval.job_result import Answer
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.progress import Board
from leukjax.crossval.workers import Workers
from leukjax.errors import Stopped, UserError
from leukjax.storage import read_text, write_atomic
from leukjax.training.preemption import StopRequest

POLL = 0.5  # seconds between two looks at the running jobs


def is_done(study: Study, job: Job) -> bool:
    """Whether a run has its summary, or a trial its result."""
    if job.trial is None:
        return (study.path(job) / "summary.json").exists()
    return trials.is_done(study, job)


def failures(study: Study, jobs: Sequence[Job]) -> dict[str, str]:
    """Name of each job that failed -> why."""
    found = {job.name: _failure_file(study, job.name) for job in jobs}
    return {
        name: json.loads(read_text(file))["message"]
        for name, file in found.items()
        if file.exists()
    }


def forget_failures(study: Study, jobs: Sequence[Job]) -> None:
    """Let failed jobs be tried again."""
    for job in jobs:
        _failure_file(study, job.name).unlink(missing_ok=True)


def _failure_file(study: Study, name: str) -> Path:
    return study.folder / "failures" / f"{name.replace('/', '-')}.json"


def log_file(study: Study, name: str) -> Path:
    """Where a job's own words go."""
    return study.folder / "logs" / f"{name}.txt"


def all_jobs(study: Study, runs: Sequence[Job]) -> list[Job]:
    """These runs, and before those of each fold its trials."""
    jobs: dict[Job, None] = {}
    for run in runs:
        jobs |= dict.fromkeys(study.tried(run.model, run.fold))
        jobs[run] = None
    return list(jobs)


class Conductor:
    """Gives jobs to workers and takes their answers."""

    def __init__(self, study: Study, workers: Workers, board: Board):
        """Nothing is started yet."""
        self._study, self._workers, self._board = study, workers, board
        self._stop = StopRequest()

    def train(self, runs: Sequence[Job]) -> None:
        """Do these runs and the trials that they wait for; failed ones are left alone.

        Raises:
          Stopped: a signal asked for it; everything is saved.
        """
        study = self._study
        jobs = all_jobs(study, runs)
        before = failures(study, jobs)
        failed = [job for job in jobs if job.name in before]
        waiting = [job for job in jobs if job not in failed and not is_done(study, job)]
        self._board.expect(waiting, failed)
        with StopRequest() as self._stop:
            while waiting or self._workers.busy:
                for device in self._workers.free:
                    job = self._next(waiting)
                    if job is None:
                        break
                    self._board.started(job, device)
                    self._workers.give(device, job, self._message(job))
                if not self._workers.busy:
                    return  # what still waits is of folds with a failed trial
                self._answers()

    def open_held_out(self) -> None:
        """Score every model's ensemble on the held-out part, where that is not done.

        Raises:
          Stopped: a signal asked for it.
          UserError: it cannot be done.
        """
        study = self._study
        waiting = [m for m in study.models if not held_out.table(study.folder, m).exists()]
        failed: list[str] = []
        with StopRequest() as self._stop:
            while waiting or self._workers.busy:
                for device in self._workers.free[: len(waiting)]:
                    model = waiting.pop(0)
                    self._board.say(f"opening the held-out part for the ensemble of {model}")
                    message = {
                        "kind": "held_out",
                        "study": str(study.folder),
                        "model": model,
                        "folders": [str(study.path(run)) for run in study.runs(model)],
                        "places": study.places(model),
                        "log": str(log_file(study, f"{model}/held_out")),
                    }
                    self._workers.give(device, model, message)
                failed += [
                    f"{model}: {answer.message}"
                    for model, answer in self._poll()
                    if answer.status != job_result.DONE
                ]
        if failed:
            raise UserError(f"held-out part: {'; '.join(failed)}; the same command tries it again")

    def _next(self, waiting: list[Job]) -> Job | None:
        """The first job that can begin; a run waits for the trials of its fold."""
        for job in list(waiting):
            try:
                ready = self._values(job) is not None
            except UserError as error:
                waiting.remove(job)
                self._end(job, Answer(job_result.FAILED, str(error)))
                continue
            if ready:
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
            "log": str(log_file(self._study, job.name)),
        }

    def _answers(self) -> None:
        for job, answer in self._poll():
            self._end(job, answer)

    def _end(self, job: Job, answer: Answer) -> None:
        good = (job_result.DONE,) if job.trial is None else (job_result.DONE, job_result.DIVERGED)
        if answer.status not in good:
            content = {"message": answer.message or answer.status}
            write_atomic(_failure_file(self._study, job.name), json.dumps(content) + "\n")
        self._board.ended(job, answer)

    def _poll(self) -> list[tuple[Any, Answer]]:
        """What has ended.

        Raises:
          Stopped: a signal came. Workers that are busy have saved by then.
        """
        ended = self._workers.wait(POLL)
        self._board.draw()
        # A queue may send its signal to the workers as well, and theirs may come first.
        theirs = any(answer.status == job_result.STOPPED for _, answer in ended)
        reason = self._stop.requested() or ("SIGTERM" if theirs else "")
        if reason:
            self._board.say(f"{reason}: the running jobs save and stop")
            self._workers.terminate()
            self._workers.close()
            raise Stopped(
                f"{reason}; everything is saved in {self._study.folder}; "
                "the same command goes on from here"
            )
        return ended
