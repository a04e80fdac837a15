"""Metric writers: metrics.jsonl, trackers, one console line per epoch, and a progress bar."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from tqdm import tqdm

from leukjax.rundir import RunDir
from leukjax.training import trackers

# Fields of a line that depend on the machine and not on the run; two runs agree in all others.
TIMES = ("elapsed", "images_per_second", "data_wait", "mfu", "peak_memory")


class MetricWriter:
    """Writes what happens in a run. On all processes but the first it does nothing."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        start: int,
        total_steps: int,
        steps_per_epoch: int,
        positive: str,
        echo: bool = False,
        tracked_by: str = "tensorboard",
        settings: Mapping[str, Any] | None = None,
    ):
        """Starts at step `start`: lines of later steps, written by a killed run, are dropped.

        With `echo`, lines are printed to standard error in place of the log, which shows nothing in
        a Python process that has not configured it. `tracked_by` is ``config.train.trackers``, and
        `settings` what they are given of the config.
        """
        self._run_dir, self._echo = run_dir, echo
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._positive, self._has_header = positive, False
        self._active = jax.process_index() == 0
        if not self._active:
            return
        run_dir.truncate_history(start)
        self._reached = run_dir.open_reached()
        self._trackers = trackers.start(tracked_by, run_dir, start, settings or {})
        self._written = start
        self._bar = tqdm(
            total=total_steps,
            initial=start,
            unit="step",
            file=sys.stderr,
            disable=not (sys.stderr.isatty() or _in_notebook()),
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left",
        )

    def step(self, step: int, loss: float) -> None:
        """Moves the progress bar, and records the step for a start after a kill."""
        if self._active:
            self._run_dir.write_reached(self._reached, step)
            epoch = min((step - 1) // self._per_epoch + 1, math.ceil(self._total / self._per_epoch))
            self._bar.set_description_str(f"epoch {epoch}  loss {loss:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one line and gives its numbers to the trackers; the line is on disk on return."""
        if not self._active:
            return
        self._run_dir.append_history(record)
        values = {
            f"{record['part']}/{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name != "step"
        }
        for tracker in self._trackers:
            tracker.write(record["step"], values)
        self._written = record["step"]

    def epoch(self, train: dict[str, Any], val: dict[str, Any], *, left: str) -> None:
        """Prints the row of an evaluation, below a header the first time."""
        if not self._has_header:
            self.say(epoch_header(self._positive))
            self._has_header = True
        self.say(epoch_line(train, val, epochs=self._total / self._per_epoch, left=left))

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._active:
            with tqdm.external_write_mode(file=sys.stderr):
                if self._echo:
                    print(text, file=sys.stderr, flush=True)
                else:
                    logging.info("%s", text)

    def close(self) -> None:
        """Closes the files; the bar stays visible."""
        if self._active:
            self._bar.close()
            for tracker in self._trackers:
                tracker.close(finished=self._written >= self._total)
            self._reached.close()


# Columns of the printed table: title, width, and the text of a cell from the two lines of the log.
_TRAIN = (("loss", 6), ("acc", 5), ("rate", 7), ("grad", 5))
_VAL = {
    "loss": "loss",
    "balanced_accuracy": "bal.acc",
    "precision": "prec",
    "recall": "recall",
    "specificity": "spec",
    "f1": "F1",
    "auroc": "AUROC",
}


def epoch_header(positive: str) -> str:
    """Titles of the columns of `epoch_line`; names the class of precision, recall and F1."""
    described = (
        f"precision, recall, specificity, F1 of {positive}" if positive else "means over classes"
    )
    train = " ".join(title.rjust(width) for title, width in _TRAIN)
    val = " ".join(title.rjust(7) for title in _VAL.values())
    groups = (
        f"{'':9}| {'training'.ljust(len(train))} | {f'validation: {described}'.ljust(len(val))} |"
    )
    titles = f"{'epoch':>8} | {train} | {val} | images/s  wait   GiB     left"
    return f"{groups}\n{titles}"


def epoch_line(train: dict[str, Any], val: dict[str, Any], *, epochs: float, left: str) -> str:
    """One row: the training since the last row, and the validation scores."""
    trained = (
        f"{train['loss']:6.3f}",
        f"{train['accuracy']:5.3f}",
        f"{train['learning_rate']:7.1e}" if "learning_rate" in train else "–".rjust(7),
        f"{train['grad_norm']:5.2g}",
    )
    scores = " ".join(_number(val.get(name)).rjust(7) for name in _VAL)
    rate = f"{train['images_per_second']:8.1f}" if "images_per_second" in train else " " * 8
    wait = f"{train['data_wait']:5.1%}" if "data_wait" in train else " " * 5
    peak = f"  {train['mfu']:.1%} of peak FLOP/s" if "mfu" in train else ""
    return (
        f"{train['epoch']:>4g}/{epochs:<3g} | {' '.join(trained)} | {scores} | "
        f"{rate} {wait} {train['peak_memory'] / 2**30:5.2f} {left:>8}{peak}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _in_notebook() -> bool:
    """Whether IPython's kernel shows the output."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
