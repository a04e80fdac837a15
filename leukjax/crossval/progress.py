"""What a study shows while it runs: all jobs at a glance, and the time that is left.

On a terminal a block of lines that is drawn again and again; elsewhere a line for each end.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from leukjax import terminal
from leukjax.crossval import job_result
from leukjax.crossval.job_result import Answer
from leukjax.crossval.plan import Job, Study
from leukjax.rundir import RunDir
from leukjax.training.throughput import duration

_REDRAW = 1.0  # seconds between two drawings
TODO, RUNNING, FINISHED, FAILED = "todo", "running", "done", "failed"
# Signs of runs, and the smaller ones of trials.
_SIGNS = {TODO: "□▫", RUNNING: "▶▸", FINISHED: "■▪", FAILED: "✗✗"}
_PLAIN = {TODO: "..", RUNNING: ">>", FINISHED: "#o", FAILED: "xx"}


class Board:
    """State of every job of this machine's share."""

    def __init__(self, study: Study, jobs: Sequence[Job], workers: int, out: TextIO | None = None):
        """All jobs count as done until `expect` and `failed` say otherwise."""
        self._study, self._workers, self._out = study, workers, out or sys.stderr
        self._state = dict.fromkeys(jobs, FINISHED)
        self._seconds: dict[str, list[float]] = {model: [] for model in study.models}
        self._began: dict[Job, tuple[float, int]] = {}  # time, device
        self._live = self._out.isatty()
        self._drawn, self._last = 0, 0.0  # lines on the screen, time of the last drawing
        encoding = (self._out.encoding or "ascii").lower().replace("-", "")
        self._signs = _SIGNS if encoding.startswith("utf") else _PLAIN

    def expect(self, waiting: Sequence[Job], failed: Sequence[Job]) -> None:
        """Say what is to be done, and what failed in an earlier start; the rest is done."""
        for job in self._state:
            if job in failed:
                self._state[job] = FAILED
            elif job in waiting:
                self._state[job] = TODO
            elif seconds := RunDir(self._study.path(job)).seconds_trained():
                self._seconds[job.model].append(seconds)

    def started(self, job: Job, device: int) -> None:
        """A job begins."""
        self._state[job] = RUNNING
        self._began[job] = (time.monotonic(), device)
        self.draw(now=True)

    def ended(self, job: Job, answer: Answer) -> None:
        """A job ended, well or not; without a terminal this is a line."""
        if job in self._began:
            del self._began[job]
        well = answer.status == job_result.DONE or (
            answer.status == job_result.DIVERGED and job.trial is not None
        )
        self._state[job] = FINISHED if well else FAILED
        if well:
            self._seconds[job.model].append(answer.seconds)
        done = sum(state == FINISHED for state in self._state.values())
        count = f"[{done}/{len(self._state)}]"
        if answer.status == job_result.DONE:
            if not self._live:
                took = duration(answer.seconds)
                self.say(f"{count} {job.name} done in {took}{self._score(job)}; {self.left()} left")
        else:
            self.say(f"{count} {job.name} {answer.status}: {answer.message}")

    def say(self, text: str) -> None:
        """Print a line above the block."""
        self._erase()
        print(terminal.escape(text), file=self._out, flush=True)
        self.draw(now=True)

    def draw(self, *, now: bool = False) -> None:
        """Draw the block again, at most once a second unless it must be now."""
        if not self._live or not (now or time.monotonic() - self._last > _REDRAW):
            return
        width = shutil.get_terminal_size().columns - 1
        lines = [terminal.escape(line)[:width] for line in self.lines(width)]
        self._erase()
        self._out.write("".join(line + "\n" for line in lines))
        self._out.flush()
        self._drawn, self._last = len(lines), time.monotonic()

    def _erase(self) -> None:
        if self._drawn:
            terminal.control(self._out, f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0

    def lines(self, width: int) -> list[str]:
        """The block: a title, a line a model, a line a running job."""
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
            start = f"  {model:<{longest}}  {done:>3}/{len(jobs):<3}  "
            cells = self._cells(jobs)
            lines.append(start + (cells if len(start + cells) <= width else ""))
        for job, (began, device) in self._began.items():
            spent = duration(time.monotonic() - began)
            lines.append(f"  device {device}: {job.name}, {spent}{self._progress(job)}")
        return lines

    def _cells(self, jobs: Mapping[Job, str]) -> str:
        folds: dict[int, str] = {}
        for job, state in jobs.items():
            sign = self._signs[state][0 if job.trial is None else 1]
            folds[job.fold] = folds.get(job.fold, "") + sign
        return " ".join(folds.values())

    def _progress(self, job: Job) -> str:
        lines = RunDir(self._study.path(job)).history()
        if not lines:
            return ", starting"
        epochs = self._study.configs[job.model].train.epochs
        speed = next((x["images_per_second"] for x in lines[::-1] if "images_per_second" in x), 0)
        rate = f", {speed:,.0f} images/s" if speed else ""
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
        """``1:23:45`` until all is done, by what the jobs of each model took so far.

        A model of which none is done is taken for as slow as the others are on average, and "~"
        says so.
        """
        known = {model: statistics.fmean(s) for model, s in self._seconds.items() if s}
        to_do = [job for job, state in self._state.items() if state in (TODO, RUNNING)]
        if not known:
            return "?" if to_do else "0:00"
        guess = statistics.fmean(known.values())
        seconds = sum(known.get(job.model, guess) for job in to_do)
        now = time.monotonic()
        for job, (began, _) in self._began.items():
            seconds -= min(now - began, known.get(job.model, guess))
        about = "~" if any(job.model not in known for job in to_do) else ""
        return about + duration(seconds / max(1, min(self._workers, len(to_do))))
