"""One way to train: whole epochs, and the bare step beside them; run by end_to_end.py."""

import contextlib
import tempfile
import time
from pathlib import Path

import jax
from harness import serve
from measured import processor, versions

from leukjax import config
from leukjax.train import loop, run, session
from leukjax.train.checkpoint import Checkpoints
from leukjax.train.evaluate import predict
from leukjax.train.feed import Feed
from leukjax.train.log import Log
from leukjax.train.programs import programs
from leukjax.train.settings import make_settings, step_options


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
    session.runtime.start(settings)
    whole, _ = run.assemble(settings, folder / "first")
    values = make_settings(
        settings,
        whole.records,
        whole.rows["train"],
        whole.steps_per_epoch,
        whole.total_steps,
    )
    options = step_options(settings, whole.records.background)
    plain = programs(whole.module, settings, options, values, whole.mesh)
    images = run.make_batches(
        settings, whole.records, whole.rows["train"], settings.train.batch_size, training=True
    )
    batch = next(Feed(images, whole.mesh, 0, 1))
    size, epoch = settings.train.batch_size, whole.steps_per_epoch
    clock, number = Clock(), [0]
    clock.around(loop, "_evaluate", "evaluation")
    clock.around(Checkpoints, "save", "checkpoints")
    clock.around(Checkpoints, "wait", "checkpoints")
    clock.around(Log, "step", "logging")

    def bare(state):
        """The step alone, with a batch that lies on the device."""
        began = time.perf_counter()
        for _ in range(epoch):
            state, metrics = plain.train_steps[1](state, batch)
        jax.block_until_ready(metrics)
        return epoch * size / (time.perf_counter() - began), state

    def once():
        number[0] += 1
        own = folder / str(number[0])
        own.mkdir()
        checkpoints = Checkpoints(own / "checkpoints", keep_latest=2, lower_is_better=False)
        log = Log(own, start=0, total_steps=whole.total_steps, steps_per_epoch=epoch, positive="")
        before, state = bare(plain.init(values))
        fresh = jax.block_until_ready(plain.init(values))
        clock.seconds = {}
        began = time.perf_counter()
        with contextlib.closing(log), contextlib.closing(checkpoints):
            loop.train(whole, fresh, 0, checkpoints, log)
            seconds = time.perf_counter() - began
        after, state = bare(state)
        pure = (before + after) / 2
        began = time.perf_counter()
        predict(whole, state, "val")
        evaluated = len(whole.rows["val"]) / (time.perf_counter() - began)
        trained = whole.total_steps * size
        lost = {f"seconds_{name}": value for name, value in clock.seconds.items()}
        training = seconds - sum(clock.seconds.values())
        return {
            "pure_images_per_second": pure,
            "images_per_second": trained / training,
            "share_of_pure": trained / training / pure,
            "share_all_included": trained / seconds / pure,
            "evaluation_to_training": evaluated * training / trained,
            "seconds": seconds,
            **lost,
        }

    once()  # compiles
    return {"device": processor(), "versions": versions("jax", "flax")}, once


if __name__ == "__main__":
    serve(prepare)
