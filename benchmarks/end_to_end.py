"""Images per second over whole epochs relative to the bare step, by where images are stored.

python benchmarks/end_to_end.py                                  about 5 minutes on two cores
python benchmarks/end_to_end.py --config=resnet50 --image_size=64 --epochs=2

The bare step has its batch in device memory; half an epoch of it is timed before and after each
epoch, in the same process, and a round's share is the median over its epochs: slow phases of the
machine cancel. The throughput of an epoch excludes evaluation, checkpoints and logging, whose
seconds are printed. On CPU a checkpoint is written in the background by the cores that train: that
is in the share, except in that of the contender which saves nothing. Adds rows to
benchmarks/results/end_to_end.csv.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "cnn", "a shipped config")
flags.DEFINE_integer("image_size", 48, "pixels per side")
flags.DEFINE_integer("batch", 32, "images per batch")
flags.DEFINE_integer("epochs", 6, "epochs of a round", lower_bound=1)
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_integer("steps_per_call", 13, "of the contender with several steps per dispatch")
flags.DEFINE_bool("save", True, "append to benchmarks/results/end_to_end.csv")

SEVERAL, UNSAVED = "device, several steps per dispatch", "device, nothing saved"
MODES = ("none", "host", "device", UNSAVED, SEVERAL)
flags.DEFINE_multi_enum("mode", MODES, MODES, "what is measured; may be repeated")

TARGETS = {"device": 0.97, SEVERAL: 0.97, "host": 0.95}


def main(_: list[str]) -> None:
    """Measures all contenders, prints one line each, appends the rows."""
    changes = {
        "train.batch_size": FLAGS.batch,
        "data.image_size": FLAGS.image_size,
        "train.epochs": float(FLAGS.epochs),
    }
    modes: dict[str, dict[str, Any]] = {mode: {"data.cache": mode} for mode in ("none", "host")}
    modes["device"] = modes[UNSAVED] = {"data.cache": "device"}
    modes[SEVERAL] = {"data.cache": "device", "train.steps_per_call": FLAGS.steps_per_call}
    with tempfile.TemporaryDirectory() as folder:
        spec = {"config": FLAGS.config, "folder": folder}
        contenders = [
            harness.Contender(
                name, __file__, {**spec, "changes": changes | mode, "save": name != UNSAVED}
            )
            for name, mode in modes.items()
            if name in FLAGS.mode
        ]
        results = harness.measure(contenders, FLAGS.rounds)
    for name, answers in results.items():
        share, evaluation = (
            harness.spread([answer[measure] for answer in answers])
            for measure in ("share_of_pure", "evaluation_to_training")
        )
        target = ""
        if name in TARGETS:
            is_met = share.median >= TARGETS[name]
            target = f" (target {TARGETS[name]}: {'met' if is_met else 'missed'})"
        last = answers[-1]
        lost = ", ".join(
            f"{key.removeprefix('seconds_')} {value:.2f} s"
            for key, value in last.items()
            if key.startswith("seconds_") and key != "seconds_to_ready"
        )
        print(
            f"{name}: {share} of the bare step{target}; evaluation at {evaluation} x the training "
            f"rate; of {last['seconds']:.1f} s: {lost}"
        )
    if FLAGS.save:
        about = {"config": FLAGS.config, "batch": FLAGS.batch, "image_size": FLAGS.image_size}
        for measure in ("share_of_pure", "share_all_included", "evaluation_to_training"):
            harness.append("end_to_end", harness.rows(results, measure, FLAGS.mode[0], about))


class Clock:
    """Accumulates the seconds that methods take; the methods work as before."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Replaces a method by one that is timed under `name`."""
        original = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        setattr(owner, method, timed)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """One mode of training: whole epochs, and the bare step before and after each."""
    import jax

    from leukjax import config, runtime
    from leukjax.checkpoints.writer import Checkpoints
    from leukjax.rundir import RunDir
    from leukjax.training import loop
    from leukjax.training.evaluation import predict
    from leukjax.training.metric_writer import MetricWriter
    from leukjax.training.prefetch import DevicePrefetcher
    from leukjax.training.trainer import Trainer
    from leukjax.training.training_data import make_batches

    settings = config.load(spec["config"], spec["changes"])
    runtime.start(settings)
    folder = Path(tempfile.mkdtemp(dir=spec["folder"]))
    trainer = Trainer.from_config(settings)
    run, _ = trainer._assemble(folder / "first", trainer.data)
    records, size, epoch = run.data.records, settings.train.batch_size, run.steps_per_epoch
    bare_steps = trainer.compiled(records.background)  # of batches with images, whatever the cache
    batches = make_batches(settings, records, run.data.rows("train"), size, training=True)
    batch = next(DevicePrefetcher(batches, run.mesh, 0, 1))
    bare_state = bare_steps.init(run.settings)
    clock = Clock()
    if not spec["save"]:
        Checkpoints.save = lambda *arguments: None
    clock.wrap(Checkpoints, "save", "checkpoints")
    clock.wrap(Checkpoints, "wait", "checkpoints")
    clock.wrap(MetricWriter, "step", "logging")
    pairs: list[tuple[float, float]] = []  # images/s of an epoch, and of the bare step around it
    mark = {"began": 0.0, "other": 0.0, "bare": 0.0}

    def time_bare_step() -> float:
        nonlocal bare_state
        steps = max(1, epoch // 2)
        began = time.perf_counter()
        for _ in range(steps):
            bare_state, metrics = bare_steps.train_steps[1](bare_state, batch)
        jax.block_until_ready(metrics)
        return steps * size / (time.perf_counter() - began)

    evaluate = loop._evaluate

    def end_epoch(*arguments: Any, **options: Any) -> Any:
        """Compares the epoch with the bare step before and after it, then evaluates."""
        began = time.perf_counter()
        other = clock.seconds.total() - mark["other"]
        after = time_bare_step()
        pairs.append((epoch * size / (began - mark["began"] - other), (mark["bare"] + after) / 2))
        evaluation = time.perf_counter()
        clock.seconds["bare"] += evaluation - began
        try:
            return evaluate(*arguments, **options)
        finally:
            now = time.perf_counter()
            clock.seconds["evaluation"] += now - evaluation
            mark.update(began=now, other=clock.seconds.total(), bare=after)

    loop._evaluate = end_epoch

    def once() -> dict[str, float]:
        workdir = Path(tempfile.mkdtemp(dir=folder))
        checkpoints = Checkpoints(workdir / "checkpoints", keep_latest=2, lower_is_better=False)
        log = MetricWriter(
            RunDir(workdir), start=0, total_steps=run.total_steps, steps_per_epoch=epoch,
            positive="",
        )  # fmt: skip
        state = jax.block_until_ready(run.compiled.init(run.settings))
        pairs.clear()
        clock.seconds.clear()
        mark.update(other=0.0, bare=time_bare_step())
        mark["began"] = began = time.perf_counter()
        with contextlib.closing(log), contextlib.closing(checkpoints):
            loop.train(run, state, 0, checkpoints, log)
            seconds = time.perf_counter() - began
        seconds -= clock.seconds.pop("bare")
        began = time.perf_counter()
        predict(run, bare_state, "val")
        evaluated = len(run.data.rows("val")) / (time.perf_counter() - began)
        pure = statistics.median(bare for _, bare in pairs)
        throughput = statistics.median(rate for rate, _ in pairs)
        return {
            "pure_images_per_second": pure,
            "images_per_second": throughput,
            "share_of_pure": statistics.median(rate / bare for rate, bare in pairs),
            "share_all_included": run.total_steps * size / seconds / pure,
            "evaluation_to_training": evaluated / throughput,
            "seconds": seconds,
            **{f"seconds_{name}": value for name, value in clock.seconds.items()},
        }

    once()  # compiles
    return {"device": harness.processor(), "versions": harness.versions("jax", "flax")}, once


if __name__ == "__main__":
    harness.start(main, prepare)
