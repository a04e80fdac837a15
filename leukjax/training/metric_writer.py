"""What a run says while it trains: metrics.jsonl, TensorBoard, a line an epoch, a progress bar."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import logging
from tensorboardX import SummaryWriter
from tqdm import tqdm

from leukjax.rundir import RunDir
from leukjax.storage import tolerate_unsupported, write_atomic

# Fields of a line that depend on the machine and not on the run; two runs agree in all others.
TIMES = ("elapsed", "images_per_second", "data_wait", "mfu", "peak_memory")


# Holds the step that the last start came to; a kill leaves it as it was.
REACHED = ".reached"


class Log:
    """The log of one run. On all processes but the first it does nothing."""

    def __init__(
        self, workdir: Path, *, start: int, total_steps: int, steps_per_epoch: int, positive: str
    ):
        """Go on at step `start`: lines of later steps, written by a killed run, are dropped."""
        place = RunDir(workdir).path
        self._path = place("metrics.jsonl")
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._positive, self._titled = positive, False
        self._active = jax.process_index() == 0
        if not self._active:
            return
        _drop_lines_after(self._path, start)
        self._file = self._path.open("a", encoding="utf-8")
        self._reached = place(REACHED).open("wb", buffering=0)
        # purge_step makes TensorBoard hide what a killed run had written beyond this step.
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=start,
            unit="step",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left",
        )

    def step(self, step: int, loss: float) -> None:
        """Move the progress bar, and leave word of the step for a start after a kill."""
        if self._active:
            os.pwrite(self._reached.fileno(), b"%20d\n" % step, 0)
            epoch = min((step - 1) // self._per_epoch + 1, math.ceil(self._total / self._per_epoch))
            self._bar.set_description_str(f"epoch {epoch}  loss {loss:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line and send its numbers to TensorBoard; on the disk when this returns."""
        if not self._active:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        with tolerate_unsupported("fsync"):
            os.fsync(self._file.fileno())
        part = record["part"]
        for name, value in record.items():
            if isinstance(value, int | float) and name not in ("step",):
                self._board.add_scalar(f"{part}/{name}", value, record["step"])
        with tolerate_unsupported("fsync"):
            self._board.flush()

    def epoch(self, train: dict[str, Any], val: dict[str, Any], *, left: str) -> None:
        """Print the row of an evaluation, under titles the first time."""
        if not self._titled:
            self.say(epoch_header(self._positive))
            self._titled = True
        self.say(epoch_line(train, val, epochs=self._total / self._per_epoch, left=left))

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            with tqdm.external_write_mode(file=sys.stderr):
                logging.info("%s", text)

    def close(self) -> None:
        """Close the files and leave the bar as it stands."""
        if self._active:
            self._bar.close()
            with tolerate_unsupported("fsync"):
                self._board.close()
            self._file.close()
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
    """Titles over the lines of `epoch_line`; says of which class precision and the rest speak."""
    of = f"precision, recall, specificity, F1 of {positive}" if positive else "means over classes"
    train = " ".join(title.rjust(width) for title, width in _TRAIN)
    val = " ".join(title.rjust(7) for title in _VAL.values())
    groups = f"{'':9}| {'training'.ljust(len(train))} | {f'validation: {of}'.ljust(len(val))} |"
    titles = f"{'epoch':>8} | {train} | {val} | images/s  wait   GiB     left"
    return f"{groups}\n{titles}"


def epoch_line(train: dict[str, Any], val: dict[str, Any], *, epochs: float, left: str) -> str:
    """One row: what was trained since the last, and the validation scores."""
    trained = (
        f"{train['loss']:6.3f}",
        f"{train['accuracy']:5.3f}",
        f"{train['learning_rate']:7.1e}",
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


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """`RunDir.history` of a work directory."""
    return RunDir(workdir).history()


def seconds_trained(workdir: Path) -> float:
    """Seconds of training and validation up to the last line of the log, over all starts."""
    return max((record.get("elapsed", 0.0) for record in read_metrics(workdir)), default=0.0)


def reached(workdir: Path) -> int:
    """The last step that was done before this start, whether it was saved or not."""
    try:
        return int((workdir / REACHED).read_bytes())
    except (OSError, ValueError):  # no step was done
        return 0


def _drop_lines_after(path: Path, step: int) -> None:
    kept = [record for record in read_metrics(path.parent) if record["step"] <= step]
    write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
