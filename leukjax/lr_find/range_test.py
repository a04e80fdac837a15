"""The learning-rate range test: a short training at a rate that rises exponentially."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from leukjax import runtime
from leukjax.data.parallel import progress
from leukjax.report.style import BLUE, GREY, VERMILION, entitle, save, style
from leukjax.rundir import RunDir
from leukjax.training.trainer import Trainer

DATA, FIGURE = "lr_find.json", "lr_find"
_SMOOTHING = 0.9  # decay of the average of the losses
_EXPLODED = 4.0  # the test ends where the smoothed loss is this many times its lowest value
_MARGIN = 10.0  # the suggestion is the rate of the lowest loss divided by this


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Result of a range test.

    Attributes:
      rates: learning rate of each step.
      losses: training loss of each step, before its update.
      diverged: the loss exploded, and the test ended there.
    """

    rates: list[float]
    losses: list[float]
    diverged: bool

    @property
    def smoothed(self) -> list[float]:
        """Exponential moving average of the losses, corrected for its start at 0."""
        average, values = 0.0, []
        for count, loss in enumerate(self.losses, start=1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            values.append(average / (1 - _SMOOTHING**count))
        return values

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate of the lowest smoothed loss, to two digits; None if it never fell."""
        smoothed = self.smoothed
        lowest = int(np.argmin(smoothed)) if smoothed else 0
        return float(f"{self.rates[lowest] / _MARGIN:.1e}") if lowest else None


def run(config: ConfigDict, workdir: Path, steps: int, low: float, high: float) -> str:
    """Trains, writes ``lr_find.json`` and ``lr_find.png``, and returns what to print.

    Raises:
      UserError: what is wrong with the config, its data or the folder.
    """
    runtime.start(config)
    folder = RunDir(workdir)
    for name in (DATA, f"{FIGURE}.png"):  # before any work: neither may be a link
        folder.path(name)
    trainer = Trainer.from_config(_of_the_test(config))
    assert trainer.data is not None
    result = measure(trainer, np.geomspace(low, high, steps).tolist())
    folder.write_json(
        DATA,
        {
            "suggestion": result.suggestion,
            "diverged": result.diverged,
            "learning_rate": result.rates,
            "loss": result.losses,
            "smoothed": result.smoothed,
        },
    )
    records = trainer.data.records
    marks = [records.name, *(["SYNTHETIC"] if records.synthetic else [])]
    save(figure(result, marks), workdir, FIGURE, kinds=("png",))
    return _message(result, workdir)


def _of_the_test(config: ConfigDict) -> ConfigDict:
    """The config with a rate that only the test changes, and without averages that cost time."""
    changed = config.copy_and_resolve_references()
    changed.optimizer.schedule, changed.optimizer.warmup = "constant", "0 steps"
    changed.train.ema_decay, changed.train.swa = 0.0, "0 epochs"
    return changed


def measure(trainer: Trainer, rates: list[float]) -> RangeTest:
    """Trains one step at each rate, from a fresh state, until the loss explodes.

    Args:
      trainer: with data of its own and a constant schedule.
      rates: rising.
    """
    state, losses, diverged = trainer.init_state(), list[float](), False
    place = state.settings.learning_rate.sharding
    for rate, batch in zip(
        progress(rates, len(rates), "learning-rate range test", "steps"),
        trainer.batches(),
        strict=False,
    ):
        now = jax.device_put(jnp.float32(rate), place)
        state = state.replace(settings=state.settings.replace(learning_rate=now))
        state, metrics = trainer.train_step(state, batch)
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            return RangeTest(rates[: len(losses)], losses, True)
        losses.append(loss)
        smoothed = RangeTest(rates[: len(losses)], losses, False).smoothed
        diverged = smoothed[-1] > _EXPLODED * min(smoothed)
        if diverged:
            break
    return RangeTest(rates[: len(losses)], losses, diverged)


def figure(result: RangeTest, marks: list[str]) -> Figure:
    """Draws the losses over the learning rate, and the suggestion."""
    with style():
        drawing = Figure(figsize=(5.2, 3.4), facecolor="white")
        axes = drawing.subplots()
        axes.plot(result.rates, result.losses, color=GREY, linewidth=0.7, label="loss of each step")
        axes.plot(result.rates, result.smoothed, color=BLUE, label="smoothed")
        if result.suggestion is not None:
            label = f"suggestion {result.suggestion:g}"
            axes.axvline(result.suggestion, color=VERMILION, linestyle="--", label=label)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # powers need math text
        if result.losses:
            start = result.smoothed[0]
            axes.set_ylim(0.9 * min(result.losses), 1.1 * max(1.5 * start, *result.losses[:3]))
        axes.legend()
        entitle(drawing, "Learning-rate range test", marks)
    return drawing


def _message(result: RangeTest, workdir: Path) -> str:
    where = f"{workdir / FIGURE}.png, {workdir / DATA}"
    if result.suggestion is None:
        return f"no suggestion: the loss never fell; lower --low or raise --steps\n{where}"
    lines = [f"--config.optimizer.learning_rate={result.suggestion:g}", where]
    if not result.diverged:
        lines.insert(
            1, "the loss did not explode up to --high: the best rate may be above the suggestion"
        )
    return "\n".join(lines)
