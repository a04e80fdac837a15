"""Recomputation of blocks: the same numbers from less memory, as the compiled program says."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_step import Small, _batch, _close

from leukjax.training.step import compiler_options


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        ("cnn", {}, 1.0),
        pytest.param("resnet", {"model__depth": 50}, 0.75, marks=pytest.mark.slow),
        pytest.param("hybrid_vit", {"model__dropout": 0.2}, 0.9, marks=pytest.mark.slow),
        pytest.param(
            "vit", {"model__variant": "tiny", "model__dropout": 0.2}, 0.9, marks=pytest.mark.slow
        ),
    ],
)
def test_the_same_numbers_from_less_memory(name, options, share):
    peaks, ends = [], []
    for remat in (False, True):
        # Plain momentum: Adam turns the last bit of a tiny gradient into a whole step.
        trainer = Small(name, 1, train__remat=remat, optimizer__name="sgd", **options)
        batch = trainer.put(_batch())
        compiled = trainer.train_step.lower(trainer.state, batch).compile()
        peaks.append(compiled.memory_analysis().temp_size_in_bytes)
        ends.append(jax.device_get(compiled(trainer.state, batch)))
    assert peaks[1] < share * peaks[0], peaks
    _close(ends[1], ends[0], rtol=1e-4, atol=1e-5)
    assert np.isfinite(ends[0][1]["loss"])


@pytest.mark.parametrize(("platform", "told"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_what_the_cpu_compiler_is_told_others_are_not(platform, told):
    """Also where steps are compiled for GPUs on a machine that has none."""
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    assert (compiler_options(mesh) is not None) == told
