"""The training loop: evaluate, save, take the batch, step.

This order makes a resume exact. At step k the state holds k updates, and batch k has not been used
yet. A checkpoint of step k is all that is needed to resume: evaluation and log lines of step k are
on disk before the checkpoint is, and batch k and the random numbers of its step are functions of
(seed, k). A run restored at step k takes batch k as if it had never stopped. Every evaluation is
followed by a save, else a killed run would evaluate, and log, twice.

One dispatch of the compiled step does ``train.steps_per_call`` steps, or one step if fewer are left
before the next evaluation, checkpoint, or first or last step of a trace (`plan_dispatches`). So
these happen at the steps that the config names. A request to stop may arrive within a dispatch; it
is answered after it. Metrics of a dispatch are read when the next one is running.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from leukjax.checkpoints.writer import Checkpoints
from leukjax.errors import Stopped
from leukjax.metrics.scores import scores
from leukjax.rundir import RunDir
from leukjax.training import divergence
from leukjax.training.evaluation import predict
from leukjax.training.metric_writer import MetricWriter
from leukjax.training.preemption import StopRequest
from leukjax.training.prefetch import DevicePrefetcher, plan_dispatches
from leukjax.training.profiler import Trace
from leukjax.training.run import Run
from leukjax.training.state import TrainState
from leukjax.training.throughput import ThroughputMeter


def train(
    run: Run,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    log: MetricWriter,
    stop: StopRequest | None = None,
) -> None:
    """Trains from the state of step `start` to the end; the last state is saved in `checkpoints`.

    Raises:
      Stopped: `stop` was requested; everything is saved.
      Diverged: loss, gradient or parameters are not finite; the checkpoints before it are kept.
    """
    total = run.total_steps
    eval_every, save_every = run.steps("train.eval_every"), run.steps("checkpoint.every")
    meter, trace = _meter(run), _trace(run)
    plan, batches = _batches(run, start, every=(eval_every, save_every), at=trace.ends)
    timed: set[int] = set()  # lengths of dispatches that have run, and so are compiled
    pending: tuple[int, dict[str, jax.Array]] | None = None  # end and metrics of a dispatch
    last: dict[str, float] = {}

    with (
        stop or contextlib.nullcontext(),
        contextlib.closing(trace),
        jax.transfer_guard("disallow"),
    ):
        # A dispatch of no steps comes last: the state is evaluated and saved, then the loop ends.
        for step, steps in itertools.chain(plan(), [(total, 0)]):
            has_trained = step > start
            # Asked once per step, so that the decision to save and the message agree.
            stop_signal = stop.requested() if stop else ""
            evaluate = has_trained and (step % eval_every == 0 or step == total)
            save = has_trained and (evaluate or step % save_every == 0 or bool(stop_signal))
            score = None
            if save and pending is not None:
                last = _report_metrics(run, log, checkpoints, *pending)
                pending = None
            if save:  # never a diverged state: it would be resumed from, or chosen as the best
                with meter.paused():
                    divergence.check_state(state, step, checkpoints)
            if evaluate:
                times = meter.read(step, batches.waited)
                with meter.paused():
                    score = _evaluate(run, state, step, last | times, log, meter)
                state = state.with_zero_totals()  # training averages start again
            if save:
                with meter.paused():
                    # {}: nothing is recorded beside step and score.
                    checkpoints.save(step, state.saved, {}, score)
                    run.notify("checkpoint", step, {"score": score})
            trace.before(step, state)
            if stop_signal:
                checkpoints.wait()
                raise Stopped(_stopped(run, stop_signal, step))
            if step == total:
                break
            batch = next(batches)
            if not timed:
                log.say("compiling the training step, which takes a while")
            state, metrics = run.compiled.train_steps[steps](state, batch)
            # The metrics of a dispatch are read when the next one is running, so that the device
            # never waits for the host.
            if pending is not None:
                last = _report_metrics(run, log, checkpoints, *pending)
            pending = (step + steps, metrics)
            if steps not in timed:
                jax.block_until_ready(metrics)
                meter.first_call_done(step + steps, batches.waited)
                timed.add(steps)
    checkpoints.wait()


def _batches(
    run: Run, start: int, *, every: tuple[int, ...], at: tuple[int, ...]
) -> tuple[Callable[[], Iterator[tuple[int, int]]], DevicePrefetcher]:
    """Returns the plan of the dispatches, and their batches.

    Every step at which the loop does something else must be in `every` or `at`: dispatches of
    several steps never run across these.
    """
    plan = functools.partial(
        plan_dispatches, start, run.total_steps, run.config.train.steps_per_call, every=every, at=at
    )
    batches = DevicePrefetcher(
        run.train_batches,
        run.mesh,
        start,
        run.total_steps,
        device_images=run.placement.device_images,
        # A second iteration of the plan: the prefetcher runs ahead of the loop.
        counts=(steps for _, steps in plan()),
    )
    return plan, batches


def _trace(run: Run) -> Trace:
    return Trace(
        run.workdir / "profile",
        first=run.config.profile.first,
        count=run.config.profile.steps,
        is_recorder=jax.process_index() == 0,
    )


def _meter(run: Run) -> ThroughputMeter:
    return ThroughputMeter(
        batch_size=run.config.train.batch_size,
        total_steps=run.total_steps,
        flops_per_image=run.training_flops,
        seconds_before=RunDir(run.workdir).seconds_trained(),
    )


def _stopped(run: Run, name: str, step: int) -> str:
    if step == 0:
        return f"{name} before the first step of {run.workdir}; the same command starts again"
    where = f"at step {step} of {run.total_steps}, saved in {run.workdir}"
    return f"{name} {where}; the same command resumes from here"


def _report_metrics(
    run: Run, log: MetricWriter, checkpoints: Checkpoints, step: int, metrics: dict[str, jax.Array]
) -> dict[str, float]:
    """Logs the metrics of a dispatch that ended at `step`, and returns those of its last step.

    Raises:
      Diverged: loss or gradient are not finite.
    """
    by_step = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
    values = divergence.check_metrics(by_step, step, checkpoints)
    log.step(step, values["loss"])
    run.notify("step", step, values)
    return values


def _evaluate(
    run: Run,
    state: TrainState,
    step: int,
    last: dict[str, float],
    log: MetricWriter,
    meter: ThroughputMeter,
) -> float | None:
    """Logs the training since the last evaluation and the scores on the validation split.

    Returns:
      The score that chooses the best checkpoint; None if it is undefined.
    """
    totals = jax.device_get(state.totals)
    where: dict[str, Any] = {"step": step, "epoch": round(step / run.steps_per_epoch, 4)}
    train_line = {
        **where,
        "part": "train",
        **last,  # learning rate, speed since the last line; loss and grad_norm follow as means
        "loss": float(totals.loss / totals.examples),
        "accuracy": float(totals.correct / totals.examples),
        "grad_norm": float(totals.grad_norm / totals.steps),
    }
    predictions = predict(run, state, "val")
    result = scores(
        predictions.labels, predictions.probabilities, run.data.classes, run.data.positive
    )
    custom = run.custom_scores(predictions.labels, predictions.probabilities)
    val_line = {**where, "part": "val", **result.values, **custom}
    log.write(train_line)
    log.write(val_line)
    log.epoch(train_line, val_line, left=meter.time_left(step))
    for name, reason in result.reasons.items():
        log.say(f"  {name} is undefined: {reason}")
    run.notify("evaluation", step, {"train": train_line, "val": val_line})
    return result.values[run.config.checkpoint.metric]
