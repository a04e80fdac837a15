"""The training loop: evaluate, save, take the batch, step, log.

This order makes a resume exact. At step k the state holds k updates and nothing of batch k. A
checkpoint of step k is all that is needed to resume: evaluation and log lines of step k are on disk
before it is saved, and batch k and the random numbers of its step are functions of (seed, k). A run
restored at step k takes batch k as if it had never stopped.

One dispatch does ``train.steps_per_call`` steps, or one step if fewer are left before the next
evaluation, checkpoint or end of a trace (`chunk_steps`), so that these happen at the steps that the
config names. Only a request to stop may arrive within a dispatch; it is answered after it.
"""

import contextlib
import functools
import itertools
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
from leukjax.training.prefetch import DevicePrefetcher, chunk_steps
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
    """Trains from the state of step `start` to the end of the run, which is then in `checkpoints`.

    Raises:
      Stopped: `stop` was requested; everything is saved.
      Diverged: loss, gradient or parameters are not finite; the checkpoints before it are kept.
    """
    total = run.total_steps
    eval_every, save_every = run.steps("train.eval_every"), run.steps("checkpoint.every")
    meter = _meter(run)
    trace = Trace(
        run.workdir / "profile",
        first=run.config.profile.first,
        count=run.config.profile.steps,
        is_recorder=jax.process_index() == 0,
    )
    plan = functools.partial(
        chunk_steps,
        start,
        total,
        run.config.train.steps_per_call,
        every=(eval_every, save_every),
        at=trace.ends,
    )
    batches = DevicePrefetcher(
        run.train_batches,
        run.mesh,
        start,
        total,
        device_images=run.placement.device_images,
        counts=(count for _, count in plan()),
    )
    compiled: set[int] = set()  # numbers of steps per dispatch that have run
    pending: tuple[int, dict[str, jax.Array]] | None = None
    last: dict[str, float] = {}

    with (
        stop or contextlib.nullcontext(),
        contextlib.closing(trace),
        jax.transfer_guard("disallow"),
    ):
        for step, count in itertools.chain(plan(), [(total, 0)]):
            is_new = step > start
            stopping = stop.requested() if stop else ""  # once: what is saved is what is reported
            evaluate = is_new and (step % eval_every == 0 or step == total)
            save = is_new and (evaluate or step % save_every == 0 or bool(stopping))
            score = None
            if save and pending is not None:
                last, pending = _read(run, log, checkpoints, *pending), None
            if save:  # never a diverged state: it would be resumed from, or chosen as the best
                with meter.paused():
                    divergence.check_state(state, step, checkpoints)
            if evaluate:
                times = meter.read(step, batches.waited)
                with meter.paused():
                    score = _evaluate(run, state, step, last | times, log, meter)
                state = state.with_zero_totals()
            if save:
                with meter.paused():
                    checkpoints.save(step, state, {}, score)
                    run.notify("checkpoint", step, {"score": score})
            trace.before(step, state)
            if stopping:
                checkpoints.wait()
                raise Stopped(_stopped(run, stopping, step))
            if step == total:
                break
            batch = next(batches)
            state, metrics = run.compiled.train_steps[count](state, batch)
            # The metrics of a dispatch are read when the next one is running, so that the device
            # never waits for the host.
            if pending is not None:
                last = _read(run, log, checkpoints, *pending)
            pending = (step + count, metrics)
            if count not in compiled:
                jax.block_until_ready(metrics)
                meter.first_call_done(step + count, batches.waited)
                compiled.add(count)
    checkpoints.wait()


def _meter(run: Run) -> ThroughputMeter:
    return ThroughputMeter(
        batch_size=run.config.train.batch_size,
        total_steps=run.total_steps,
        flops_per_image=run.training_flops,
        seconds_before=RunDir(run.workdir).seconds_trained(),
    )


def _stopped(run: Run, name: str, step: int) -> str:
    where = f"at step {step} of {run.total_steps}, saved in {run.workdir}"
    return f"{name} {where}; the same command resumes from here"


def _read(
    run: Run, log: MetricWriter, checkpoints: Checkpoints, step: int, metrics: dict[str, jax.Array]
) -> dict[str, float]:
    """The metrics of the last step of a dispatch that ended at `step`."""
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
        **last,  # learning rate, and the speed since the last line
        "loss": float(totals.loss / totals.examples),
        "accuracy": float(totals.correct / totals.examples),
        "grad_norm": float(totals.grad_norm / totals.steps),
    }
    predictions = predict(run, state, "val")
    found = scores(
        predictions.labels, predictions.probabilities, run.data.classes, run.data.positive
    )
    own = run.own_scores(predictions.labels, predictions.probabilities)
    val_line = {**where, "part": "val", **found.values, **own}
    log.write(train_line)
    log.write(val_line)
    log.epoch(train_line, val_line, left=meter.time_left(step))
    for name, reason in found.reasons.items():
        log.say(f"  {name} is undefined: {reason}")
    run.notify("evaluation", step, {"train": train_line, "val": val_line})
    return found.values[run.config.checkpoint.metric]
