"""A run ends with the same bits for every placement of the images and length of a dispatch."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from runs import TINY, assert_same_bits

from leukjax import config as configs
from leukjax.errors import Stopped
from leukjax.training import trainer
from leukjax.training.metric_writer import MetricWriter

# Every kind of state that a step may carry; 5 steps an epoch, saved every 4 and stopped at others.
CHANGES = {
    "model.dropout": 0.3,
    "train.ema_decay": 0.9,
    "optimizer.schedule": "cosine",
    "checkpoint.every": "4 steps",
    "mesh.data": 1,
}
DEVICE = {"data.cache": "device"}
SEVERAL = DEVICE | {"train.steps_per_call": 3}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs in this process, which share what they compile."""
    folder = tmp_path_factory.mktemp("modes")
    places = {
        "data.cache_dir": str(folder / "cache"),
        "runtime.compilation_cache": str(folder / "compiled"),
    }

    def run(name, changes):
        fields = TINY | CHANGES | places | changes
        trainer.train(configs.load("cnn", fields), folder / name)
        return folder / name

    yield run
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def streamed(train):
    return train("none", {"data.cache": "none"})


# A step that takes its images from device memory is another program. Its bits are the same as
# users compile it, but not with the flags of tests/conftest.py: hence the slow tests.
@pytest.mark.parametrize(
    "changes", [{"data.cache": "host"}, pytest.param(DEVICE, marks=pytest.mark.slow)], ids=str
)
def test_all_modes_end_with_the_same_bits(train, streamed, changes):
    other = train("-".join(map(str, changes.values())), changes)
    assert_same_bits(streamed, other)


@pytest.mark.slow
def test_shared_by_eight_devices_is_the_same_as_whole_on_each(train):
    eight = {"mesh.data": 8, "model.norm_batch": 2, "train.epochs": 1}
    size = 24 * 24 * 3 * 150  # bytes, a little above what there is
    whole = train("whole", eight | DEVICE)
    shared = train("shared", eight | DEVICE | {"data.device_gb": size / 4 / 1e9})
    assert_same_bits(whole, shared)


@pytest.mark.slow
def test_stopped_between_two_checkpoints_and_gone_on_in_other_modes(train, streamed, monkeypatch):
    original = MetricWriter.step
    said = []

    stops = [3, 7, 11]

    def at_step(log, step, loss):
        original(log, step, loss)
        said.append(step)
        if stops and step == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricWriter, "step", at_step)
    for changes in (SEVERAL, {"data.cache": "host"}, SEVERAL):
        with pytest.raises(Stopped, match="the same command resumes"):
            train("stopped", changes)
    assert not stops
    assert_same_bits(streamed, train("stopped", SEVERAL))
    # Three steps at a time where no evaluation (5, 10, 15) and no checkpoint (4, 8, 12) cuts in.
    assert {3, 4, 5} <= set(said)
    assert 2 not in said
    starts = (train("stopped", SEVERAL) / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["repeated"] for line in starts] == [0] * 5


def test_a_trace_covers_its_steps_and_no_others(train, monkeypatch):
    from leukjax.training import profiler

    spans = []
    monkeypatch.setattr(
        profiler.jax.profiler, "start_trace", lambda *_, **__: spans.append("start")
    )
    monkeypatch.setattr(profiler.jax.profiler, "stop_trace", lambda: spans.append("stop"))
    original = MetricWriter.step
    monkeypatch.setattr(
        MetricWriter,
        "step",
        lambda log, step, loss: (spans.append(step), original(log, step, loss)),
    )
    options = {"profile.first": 2, "profile.steps": 2, "checkpoint.every": "1 epochs"}
    train("traced", SEVERAL | options | {"train.epochs": 1})
    # A dispatch is reported when the next is running: steps 3 and 4 are between start and stop.
    assert spans.index("start") < spans.index(3) < spans.index(4)
    assert spans.index("stop") - spans.index("start") <= 4
    assert np.all(np.diff([s for s in spans if isinstance(s, int)]) == 1)
