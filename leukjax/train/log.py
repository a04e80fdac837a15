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

from leukjax.files import write_whole

# Fields of a line that depend on the machine and not on the run; two runs agree in all others.
TIMES = ("elapsed", "images_per_second", "data_wait", "mfu", "peak_memory")


class Log:
    """The log of one run. On all processes but the first it does nothing."""

    def __init__(self, workdir: Path, *, start: int, total_steps: int, steps_per_epoch: int):
        """Go on at step `start`: lines of later steps, written by a killed run, are dropped."""
        self._path = workdir / "metrics.jsonl"
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._active = jax.process_index() == 0
        if not self._active:
            return
        _drop_lines_after(self._path, start)
        self._file = self._path.open("a")
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
        """Move the progress bar; nothing is written."""
        if self._active:
            epoch = min((step - 1) // self._per_epoch + 1, math.ceil(self._total / self._per_epoch))
            self._bar.set_description_str(f"epoch {epoch}  loss {loss:.3f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line and send its numbers to TensorBoard; on the disk when this returns."""
        if not self._active:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        part = record["part"]
        for name, value in record.items():
            if isinstance(value, int | float) and name not in ("step",):
                self._board.add_scalar(f"{part}/{name}", value, record["step"])
        self._board.flush()

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self._active:
            with tqdm.external_write_mode(file=sys.stderr):
                logging.info("%s", text)

    def close(self) -> None:
        """Close the files and leave the bar as it stands."""
        if self._active:
            self._bar.close()
            self._board.close()
            self._file.close()


def epoch_line(
    train: dict[str, Any], val: dict[str, Any], *, epochs: float, positive: str, left: str
) -> str:
    """The line that is printed after each evaluation; what does not apply is left out."""
    parts = [
        f"epoch {train['epoch']:g}/{epochs:g}",
        f"train loss {_number(train['loss'])} accuracy {_number(train['accuracy'])}"
        f" lr {train['learning_rate']:.2e} grad {train['grad_norm']:.2g}",
    ]
    of = f" ({positive})" if positive else " (macro)"
    names = {
        "loss": "loss",
        "balanced_accuracy": "balanced acc",
        "precision": f"precision{of}",
        "recall": "recall",
        "specificity": "specificity",
        "f1": "F1",
        "auroc": "AUROC",
    }
    scores = " ".join(f"{title} {_number(val[key])}" for key, title in names.items() if key in val)
    parts.append("val " + scores)
    if "images_per_second" in train:
        rate = f"{train['images_per_second']:.1f} images/s"
        if "mfu" in train:
            rate += f" {train['mfu']:.1%} of peak FLOP/s"
        parts.append(f"{rate}, waiting for data {train['data_wait']:.1%}")
    parts.append(f"{train['peak_memory'] / 2**30:.2f} GiB, {left} left")
    return " | ".join(parts)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """All whole lines of ``metrics.jsonl``; a line that a kill cut short is left out."""
    records = []
    path = workdir / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def seconds_trained(workdir: Path) -> float:
    """Seconds of training and validation up to the last line of the log, over all starts."""
    return max((record.get("elapsed", 0.0) for record in read_metrics(workdir)), default=0.0)


def _drop_lines_after(path: Path, step: int) -> None:
    kept = [record for record in read_metrics(path.parent) if record["step"] <= step]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
