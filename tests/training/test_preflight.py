"""Steps lowered for GPU and TPU on this machine; whole preflights where the compilers are."""

import json
import re
import subprocess
import sys

import jax
import pytest

from leukjax import config as configs
from leukjax import sharding
from leukjax.compiler import targets
from leukjax.errors import UserError
from leukjax.training import preflight

SMALL = {
    "data.image_size": 32,
    "train.batch_size": 16,
    "model.width": 4,
    "compute_dtype": "bfloat16",
}


def config_of(name, **changes):
    fields = {key.replace("__", "."): value for key, value in changes.items()}
    return configs.load(name, {**SMALL, **fields})


def lowered(name, platform, **changes):
    config = config_of(name, **changes)
    mesh = sharding.make_mesh(config.mesh, config.train.batch_size)
    return preflight.lower_on(config, mesh, platform).as_text()


@pytest.fixture(scope="module", params=["cuda", "tpu"])
def resnet(request):
    """The step of the smallest model with bottlenecks, as StableHLO for a platform."""
    return lowered("resnet50", request.param)


def test_bfloat16_configs_convolve_nothing_in_float32(resnet):
    operands = re.findall(r"stablehlo\.convolution\(.*?: \(tensor<(?:\d+x)+(\w+)>", resnet)
    assert len(operands) > 100
    assert set(operands) == {"bf16"}


def test_nothing_is_sent_to_the_host_in_a_step(resnet):
    assert not re.search(r"stablehlo\.(send|recv|infeed|outfeed)|callback", resnet)


def test_every_array_of_the_state_is_donated(resnet):
    """One copy of the state is left: each input gives its memory to an output."""
    head = resnet[resnet.index("@main(") : resnet.index(") -> (", resnet.index("@main("))]
    arguments = head.split("%arg")[1:]
    donated = [part for part in arguments if "tf.aliasing_output" in part or "donor" in part]
    read_only = [part for part in arguments if part not in donated]
    # The four fields of a batch, those that the step reads; and of the settings none.
    assert len(donated) > 400
    assert {re.search(r"tensor<(\w+)", part)[1] for part in read_only} <= {
        "16x32x32x3xui8",
        "16xi32",
    }


def test_fused_forms_are_for_gpus_and_off_until_measured():
    """Their sums are of complex numbers; TPUs and CPUs get layer by layer."""
    on = {"model__fused": "on"}
    assert "complex<f32>" in lowered("cnn", "cuda", **on)
    assert "complex<f32>" not in lowered("cnn", "cuda")  # auto: not measured on any GPU yet
    assert "complex<f32>" not in lowered("cnn", "tpu", **on)
    assert "complex<f32>" not in lowered("cnn", "cuda", compute_dtype="float32", **on)


def test_memory_of_two_batches_gives_the_largest():
    config = config_of("cnn")
    # 100 bytes that are always there, 10 an image on each of 2 devices (20 a batch of 16: 8 each).
    found = preflight.largest_batch(config, 2, once=100 + 80, twice=100 + 160, usable=1000)
    assert found == 180


def test_a_largest_batch_is_made_of_whole_parts():
    config = config_of("resnet50", model__norm_batch=8, train__accumulate=2)
    found = preflight.largest_batch(config, 1, once=100 + 160, twice=100 + 320, usable=1000)
    assert found == 80
    assert preflight.largest_batch(config, 1, once=2000, twice=2160, usable=1000) == 0


@pytest.mark.parametrize("device", ["h100", "h200:8", "h100:0", "h100:x", ":8"])
def test_a_device_that_is_not_known_is_named(device):
    with pytest.raises(UserError, match="must be DEVICE:COUNT"):
        targets.parse(device)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[preflight\]'"):
        preflight.run(config_of("cnn"), tmp_path, "h100:8")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    bool(targets.missing(targets.TARGETS["h100"])),
    reason="the compilers (the extra preflight) are not installed",
)
def test_preflight_of_a_small_model(tmp_path):
    command = [sys.executable, "-m", "leukjax.main", "--config=cnn", "--preflight=h100:8"]
    subprocess.run([*command, f"--workdir={tmp_path}"], check=True)
    found = json.loads((tmp_path / preflight.RESULT).read_text())
    assert (found["device"], found["count"], found["fits"]) == ("h100", 8, True)
    assert found["largest_batch"] > found["batch_size"]
    assert found["bytes_per_image"] > 48 * 48 * 3
    assert "ENTRY" in (tmp_path / preflight.PROGRAM).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [preflight.PROGRAM, preflight.RESULT]
    assert jax.default_backend() == "cpu"  # and this process is as it was
