"""Progress of a study: a block of lines on a terminal, else one line per job that ended."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from tqdm import tqdm

from leukjax import terminal
from leukjax.crossval import workers
from leukjax.crossval.plan import Job, Study
from leukjax.crossval.workers import JobResult
from leukjax.rundir import RunDir
from leukjax.training.throughput import duration

_REDRAW = 1.0  # seconds
PENDING, RUNNING, FINISHED, FAILED = "pending", "running", "done", "failed"
# Signs of runs, and the smaller ones of trials.
_SIGNS = {PENDING: "□▫", RUNNING: "▶▸", FINISHED: "■▪", FAILED: "✗✗"}
_PLAIN = {PENDING: "..", RUNNING: ">>", FINISHED: "#o", FAILED: "xx"}


class Progress:
    """The state of every job of this machine's share."""

    def __init__(self, study: Study, jobs: Sequence[Job], devices: int, out: TextIO | None = None):
        """Jobs count as done until `expect` is called.

        Args:
          study: the study.
          jobs: of this machine.
          devices: number of jobs that run at a time.
          out: stream; None: standard error.
        """
        self._study, self._devices = study, devices
        out = out or sys.stderr
        self._state = dict.fromkeys(jobs, FINISHED)
        self._seconds: dict[str, list[float]] = {model: [] for model in study.models}
        self._began: dict[Job, tuple[float, int]] = {}  # time, device
        self._live, self._last = out.isatty(), 0.0
        self._out = terminal.Raw(out)  # tqdm moves the cursor; every text of ours is escaped
        # One bar per line of the block; each shows its description alone.
        self._bars: list[tqdm] = []
        encoding = (out.encoding or "ascii").lower().replace("-", "")
        self._signs = _SIGNS if encoding.startswith("utf") else _PLAIN

    def expect(self, waiting: Sequence[Job], failed: Sequence[Job]) -> None:
        """Sets which jobs are to do, and which failed earlier; the others are done."""
        for job in self._state:
            if job in failed:
                self._state[job] = FAILED
            elif job in waiting:
                self._state[job] = PENDING
            elif seconds := RunDir(self._study.path(job)).seconds_trained():
                self._seconds[job.model].append(seconds)

    def started(self, job: Job, device: int) -> None:
        """Marks a job as running."""
        self._state[job] = RUNNING
        self._began[job] = (time.monotonic(), device)
        self.draw(now=True)

    def ended(self, job: Job, result: JobResult) -> None:
        """Marks a job as done or failed."""
        self._began.pop(job, None)
        diverged = result.status == workers.DIVERGED and job.trial is not None
        is_done = result.status == workers.DONE or diverged
        self._state[job] = FINISHED if is_done else FAILED
        if is_done:
            self._seconds[job.model].append(result.seconds)
        done = sum(state == FINISHED for state in self._state.values())
        start = f"[{done}/{len(self._state)}] {job.name}"
        if result.status != workers.DONE:
            self.write(f"{start} {result.status}: {result.message}")
        elif not self._live:
            took = duration(result.seconds)
            self.write(f"{start} done in {took}{self._score(job)}; {self.left()} left")

    def write(self, text: str) -> None:
        """Prints a line above the block."""
        tqdm.write(terminal.escape(text), file=self._out)
        self._out.flush()
        self.draw(now=True)

    def draw(self, *, now: bool = False) -> None:
        """Draws the block; at most once a second unless `now`."""
        if not self._live or not (now or time.monotonic() - self._last > _REDRAW):
            return
        self._last = time.monotonic()
        for index, line in enumerate(self.lines()):
            if index == len(self._bars):
                self._bars.append(
                    tqdm(file=self._out, position=index, bar_format="{desc}", leave=True,
                         dynamic_ncols=True)
                )  # fmt: skip
            self._bars[index].set_description_str(terminal.escape(line))

    def close(self) -> None:
        """Leaves the last block on the screen; later lines are printed below it."""
        self._live = False
        for bar in self._bars:
            bar.close()
        self._bars = []

    def lines(self) -> list[str]:
        """The block: a title, one line per model, one line per device."""
        states = list(self._state.values())
        failed = states.count(FAILED)
        counts = [
            f"{states.count(FINISHED)} of {len(states)} jobs done",
            f"{states.count(RUNNING)} running",
            *([f"{failed} failed"] if failed else []),
            f"{self.left()} left",
        ]
        lines = [", ".join(counts)]
        longest = max(len(model) for model in self._study.models)
        for model in self._study.models:
            jobs = {job: state for job, state in self._state.items() if job.model == model}
            done = sum(state == FINISHED for state in jobs.values())
            signs = self._signs_of(jobs)
            lines.append(f"  {model:<{longest}}  {done:>3}/{len(jobs):<3}  {signs}")
        running = {device: (job, began) for job, (began, device) in self._began.items()}
        for device in range(self._devices):
            text = "idle"
            if device in running:
                job, began = running[device]
                spent = duration(time.monotonic() - began)
                text = f"{job.name}, {spent}{self._epoch(job)}"
            lines.append(f"  device {device}: {text}")
        return lines

    def _signs_of(self, jobs: Mapping[Job, str]) -> str:
        """One sign per job, in groups of folds."""
        folds: dict[int, str] = {}
        for job, state in jobs.items():
            sign = self._signs[state][0 if job.trial is None else 1]
            folds[job.fold] = folds.get(job.fold, "") + sign
        return " ".join(folds.values())

    def _epoch(self, job: Job) -> str:
        lines = RunDir(self._study.path(job)).history()
        if not lines:
            return ", starting"
        epochs = self._study.configs[job.model].train.epochs
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        rate = f", {rates[-1]:,.0f} images/s" if rates and rates[-1] else ""
        return f", epoch {lines[-1]['epoch']:g} of {epochs:g}{self._score(job)}{rate}"

    def _score(self, job: Job) -> str:
        """The best validation score so far."""
        metric = self._study.configs[job.model].checkpoint.metric
        lines = RunDir(self._study.path(job)).history()
        scores = [x[metric] for x in lines if x["part"] == "val" and x.get(metric) is not None]
        if not scores:
            return ""
        best = min(scores) if metric == "loss" else max(scores)
        return f", {metric.replace('_', ' ')} {best:.3f} on validation"

    def left(self) -> str:
        """Time left, as ``1:23:45``, estimated from the finished jobs of each model.

        "~" marks an estimate in which a model without finished jobs counts as fast as the others.
        """
        known = {model: statistics.fmean(s) for model, s in self._seconds.items() if s}
        remaining = [job for job, state in self._state.items() if state in (PENDING, RUNNING)]
        if not known:
            return "?" if remaining else "0:00"
        average = statistics.fmean(known.values())
        seconds = sum(known.get(job.model, average) for job in remaining)
        now = time.monotonic()
        for job, (began, _) in self._began.items():
            seconds -= min(now - began, known.get(job.model, average))
        about = "~" if any(job.model not in known for job in remaining) else ""
        return about + duration(seconds / max(1, min(self._devices, len(remaining))))
