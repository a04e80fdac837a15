"""One way to train: epochs, and the bare step before and after each; run by end_to_end.py."""

import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import jax
from harness import serve
from measured import processor, versions

from leukjax import config, runtime
from leukjax.checkpoints.writer import Checkpoints
from leukjax.rundir import RunDir
from leukjax.training import loop
from leukjax.training.evaluation import predict
from leukjax.training.metric_writer import MetricWriter
from leukjax.training.prefetch import DevicePrefetcher
from leukjax.training.trainer import Trainer
from leukjax.training.training_data import make_batches


class Clock:
    """Seconds spent in named functions of the loop, which stay what they are."""

    def __init__(self):
        self.seconds = {}

    def around(self, owner, function, name):
        original = getattr(owner, function)

        def timed(*arguments, **options):
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                passed = time.perf_counter() - began
                self.seconds[name] = self.seconds.get(name, 0.0) + passed

        setattr(owner, function, timed)


def prepare(spec):
    settings = config.load(spec["config"], spec["changes"])
    folder = Path(tempfile.mkdtemp(dir=spec["folder"]))
    runtime.start(settings)
    trainer = Trainer.from_config(settings)
    whole, _ = trainer._assemble(folder / "first", trainer.data)
    plain = trainer.compiled(whole.data.records.background)
    images = make_batches(
        settings, whole.data.records, whole.data.rows("train"), settings.train.batch_size,
        training=True,
    )  # fmt: skip
    batch = next(DevicePrefetcher(images, whole.mesh, 0, 1))
    size, epoch = settings.train.batch_size, whole.steps_per_epoch
    if not spec["save"]:
        Checkpoints.save = lambda *arguments: None
    clock, number = Clock(), [0]
    clock.around(Checkpoints, "save", "checkpoints")
    clock.around(Checkpoints, "wait", "checkpoints")
    clock.around(MetricWriter, "step", "logging")
    evaluate = loop._evaluate
    pairs: list[tuple[float, float]] = []  # images/s of an epoch and of the bare step beside it
    bare_state = [plain.init(whole.settings)]
    mark = {"began": 0.0, "other": 0.0, "bare": 0.0}

    def bare() -> float:
        """Images/s of the step alone, with a batch that lies on the device: half an epoch."""
        steps = max(1, epoch // 2)
        state = bare_state[0]
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = plain.train_steps[1](state, batch)
        jax.block_until_ready(metrics)
        bare_state[0] = state
        return steps * size / (time.perf_counter() - began)

    def at_the_end_of_an_epoch(*arguments, **options):
        """The pace of the epoch beside those of the bare step before and after; then evaluate."""
        began = time.perf_counter()
        other = sum(clock.seconds.values())
        paced = epoch * size / (began - mark["began"] - (other - mark["other"]))
        after = bare()
        pairs.append((paced, (mark["bare"] + after) / 2))
        clock.seconds["bare"] = clock.seconds.get("bare", 0.0) + time.perf_counter() - began
        began = time.perf_counter()
        try:
            return evaluate(*arguments, **options)
        finally:
            now = time.perf_counter()
            clock.seconds["evaluation"] = clock.seconds.get("evaluation", 0.0) + now - began
            mark.update(began=now, other=sum(clock.seconds.values()), bare=after)

    loop._evaluate = at_the_end_of_an_epoch

    def once():
        number[0] += 1
        own = folder / str(number[0])
        own.mkdir()
        checkpoints = Checkpoints(own / "checkpoints", keep_latest=2, lower_is_better=False)
        log = MetricWriter(
            RunDir(own), start=0, total_steps=whole.total_steps, steps_per_epoch=epoch, positive=""
        )
        fresh = jax.block_until_ready(plain.init(whole.settings))
        pairs.clear()
        clock.seconds = {}
        mark.update(other=0.0, bare=bare())
        mark["began"] = began = time.perf_counter()
        with contextlib.closing(log), contextlib.closing(checkpoints):
            loop.train(whole, fresh, 0, checkpoints, log)
            seconds = time.perf_counter() - began
        seconds -= clock.seconds.pop("bare")
        began = time.perf_counter()
        predict(whole, bare_state[0], "val")
        evaluated = len(whole.data.rows("val")) / (time.perf_counter() - began)
        trained = whole.total_steps * size
        lost = {f"seconds_{name}": value for name, value in clock.seconds.items()}
        pure = statistics.median(bare for _, bare in pairs)
        pace = statistics.median(paced for paced, _ in pairs)
        return {
            "pure_images_per_second": pure,
            "images_per_second": pace,
            "share_of_pure": statistics.median(paced / bare for paced, bare in pairs),
            "share_all_included": trained / seconds / pure,
            "evaluation_to_training": evaluated / pace,
            "seconds": seconds,
            **lost,
        }

    once()  # compiles
    return {"device": processor(), "versions": versions("jax", "flax")}, once


if __name__ == "__main__":
    serve(prepare)
