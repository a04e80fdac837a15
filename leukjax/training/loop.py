"""The training loop: evaluate, save, take the batch, step.

This order makes a resume exact. At step k the state holds k updates, and batch k has not been used
yet. A checkpoint of step k is all that is needed to resume: evaluation and log lines of step k are
on disk before the checkpoint is, and batch k and the random numbers of its step are functions of
(seed, k). A run restored at step k takes batch k as if it had never stopped. Every evaluation is
followed by a save, so that a run that is killed later does not repeat it.

A dispatch is one call of the jitted function. It does ``train.steps_per_call`` steps, or one step
if fewer are left before the next evaluation, checkpoint, or start or end of a trace
(`plan_dispatches`). So each of these happens at the step that the config names. A request to stop
that arrives during a dispatch is answered after it. The metrics of a dispatch are read after the
next one has been dispatched, or before a save.
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
    """Trains from step `start` to the end, and saves the last state.

    Args:
      run: config, data and compiled functions of the run.
      state: the state after `start` updates. It is donated: do not use it afterwards.
      start: number of updates done.
      checkpoints: of the run.
      log: of the run.
      stop: entered here, so that it catches signals; None: they are not caught.

    Raises:
      Stopped: `stop` was requested; everything is saved.
      Diverged: loss, gradient or parameters are not finite; the checkpoints before it are kept.
    """
    total = run.total_steps
    eval_every, save_every = run.steps("train.eval_every"), run.steps("checkpoint.every")
    meter, trace = _meter(run), _trace(run)
    plan, batches = _batches(run, start, every=(eval_every, save_every), at=trace.ends)
    compiled: set[int] = set()  # numbers of steps of a dispatch whose function is compiled
    # Steps done after the last dispatch, and its metrics, which are not read yet.
    pending: tuple[int, dict[str, jax.Array]] | None = None
    last_metrics: dict[str, float] = {}

    with (
        stop or contextlib.nullcontext(),
        contextlib.closing(trace),
        jax.transfer_guard("disallow"),  # an implicit transfer would make the device wait
    ):
        # The last entry has no steps: the state is evaluated and saved, then the loop ends.
        for step, steps in itertools.chain(plan(), [(total, 0)]):
            # The state of `start` is untrained, or was evaluated and saved before.
            has_trained = step > start
            # Asked once per step: a signal may arrive between the save and the end below.
            stop_signal = stop.requested() if stop else ""
            evaluate = has_trained and (step % eval_every == 0 or step == total)
            save = has_trained and (evaluate or step % save_every == 0 or bool(stop_signal))
            score = None
            if save and pending is not None:
                last_metrics = _report_metrics(run, log, checkpoints, *pending)
                pending = None
            if save:
                # A diverged state is not saved: it would be resumed from, or chosen as the best.
                with meter.paused():
                    divergence.check_state(state, step, checkpoints)
            if evaluate:
                # The device is idle: the metrics of the last dispatch have been read.
                times = meter.read(step, batches.waited)
                with meter.paused():
                    score = _evaluate(run, state, step, last_metrics | times, log, meter)
                state = state.with_zero_totals()  # the next training averages begin here
            if save:
                with meter.paused():
                    # {}: no metadata. `saved` leaves out the parameters that LoRA freezes.
                    checkpoints.save(step, state.saved, {}, score)
                    run.notify("checkpoint", step, {"score": score})
            trace.before(step, state)  # waits for the state where a trace starts or ends
            if stop_signal:
                checkpoints.wait()
                raise Stopped(_stop_message(run, stop_signal, step))
            if step == total:
                break
            batch = next(batches)
            if not compiled:
                log.say("compiling the training step, which takes a while")
            state, metrics = run.compiled.train_steps[steps](state, batch)
            # The metrics of a dispatch are read after the next one has been dispatched, so that the
            # device never waits for the host.
            if pending is not None:
                last_metrics = _report_metrics(run, log, checkpoints, *pending)
            pending = (step + steps, metrics)
            if steps not in compiled:  # the throughput leaves out the time of compiling
                jax.block_until_ready(metrics)
                meter.restart(step + steps, batches.waited)
                compiled.add(steps)
    checkpoints.wait()


def _batches(
    run: Run, start: int, *, every: tuple[int, ...], at: tuple[int, ...]
) -> tuple[Callable[[], Iterator[tuple[int, int]]], DevicePrefetcher]:
    """Returns a function that yields (step, number of steps) of each dispatch, and the batches.

    No dispatch crosses a step of `at` or a multiple of `every`. These must hold every step at which
    the loop evaluates, saves, or starts or ends a trace.
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


def _stop_message(run: Run, signal: str, step: int) -> str:
    if step == 0:
        return f"{signal} before the first step of {run.workdir}; the same command starts again"
    position = f"at step {step} of {run.total_steps}, saved in {run.workdir}"
    return f"{signal} {position}; the same command resumes from here"


def _report_metrics(
    run: Run, log: MetricWriter, checkpoints: Checkpoints, step: int, metrics: dict[str, jax.Array]
) -> dict[str, float]:
    """Logs the metrics of a dispatch that ended at `step`, and returns those of its last step.

    Raises:
      Diverged: loss or gradient are not finite.
    """
    # A dispatch of one step returns numbers, a longer one an array of one value per step.
    by_step = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
    values = divergence.check_metrics(by_step, step, checkpoints)
    log.step(step, values["loss"])
    run.notify("step", step, values)
    return values


def _evaluate(
    run: Run,
    state: TrainState,
    step: int,
    last_metrics: dict[str, float],
    log: MetricWriter,
    meter: ThroughputMeter,
) -> float | None:
    """Scores the validation split; logs the scores and the training averages since the last time.

    Returns:
      The score that chooses the best checkpoint; None if it is undefined.
    """
    totals = jax.device_get(state.totals)
    position: dict[str, Any] = {"step": step, "epoch": round(step / run.steps_per_epoch, 4)}
    train_line = {
        **position,
        "part": "train",
        **last_metrics,  # learning rate and throughput; loss and grad_norm follow as means
        "loss": float(totals.loss / totals.examples),
        "accuracy": float(totals.correct / totals.examples),
        "grad_norm": float(totals.grad_norm / totals.steps),
    }
    predictions = predict(run, state, "val")
    result = scores(
        predictions.labels, predictions.probabilities, run.data.classes, run.data.positive
    )
    custom = run.custom_scores(predictions.labels, predictions.probabilities)
    val_line = {**position, "part": "val", **result.values, **custom}
    log.write(train_line)
    log.write(val_line)
    log.epoch(train_line, val_line, left=meter.time_left(step))
    for name, reason in result.reasons.items():
        log.say(f"  {name} is undefined: {reason}")
    run.notify("evaluation", step, {"train": train_line, "val": val_line})
    return result.values[run.config.checkpoint.metric]
