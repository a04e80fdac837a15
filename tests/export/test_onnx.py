"""`leukjax.export --format=onnx`: onnxruntime returns the probabilities of the run."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import leukjax
from leukjax.errors import UserError
from leukjax.export import onnx
from leukjax.models.registry import create_model
from leukjax.predict.predictor import Predictor

INSTALLED = all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime"))
installed = pytest.mark.skipif(not INSTALLED, reason="the extra onnx is not installed here")
FAMILIES = {"resnet": {"depth": 18, "width": 8}, "hybrid_vit": {}, "bit": {"width": 8}, "vit": {}}


def export(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leukjax.export", "--format=onnx", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def model(trained_run):
    return leukjax.load(trained_run)


def another(model, family: str):
    """The same run with an untrained network of another family, with perturbed values."""
    module = create_model(family, len(model.classes), **FAMILIES[family])
    images = jnp.zeros((1, model.image_size, model.image_size, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()
    draw = np.random.default_rng(2)
    variables = jax.tree.map(
        lambda a: jnp.asarray(a + 0.05 * draw.normal(size=a.shape), jnp.float32), variables
    )
    return Predictor((dataclasses.replace(model.member, module=module, variables=variables),))


@installed
def test_the_command_and_the_loader_return_the_probabilities_of_the_run(
    model, trained_run, tmp_path
):
    done = export(f"--workdir={trained_run}", f"--output={tmp_path / 'out'}", "--calibrated")
    assert done.returncode == 0, done.stderr
    assert "checked with onnxruntime; python" in done.stdout
    draw, paths = np.random.default_rng(3), [tmp_path / f"{i}.png" for i in range(5)]
    for path, side in zip(paths, (17, 24, 31, 48, 90), strict=True):
        Image.fromarray(draw.integers(0, 256, (side, side + 2, 3), np.uint8)).save(path)
    command = [sys.executable, tmp_path / "out" / "predict.py", *paths]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    header, *rows = answer.stdout.splitlines()
    assert header == "image,predicted," + ",".join(f"p_{name}" for name in model.classes)
    expected = leukjax.load(trained_run, calibrated=True).predict(paths)
    found = np.array([row.split(",")[2:] for row in rows], np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert [row.split(",")[1] for row in rows] == [model.classes[i] for i in expected.argmax(1)]
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["difference"] <= 1e-5
    assert {"jax2onnx", "onnxruntime", "jax"} <= set(about["versions"])


@installed
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_converted(model, family: str, tmp_path):
    onnx.write(another(model, family), tmp_path)
    about = json.loads((tmp_path / onnx.PROGRAM).with_name("model.json").read_text())
    # GroupNorm over standardised weights far from their start: float32 loses more.
    assert about["difference"] <= (1e-4 if family == "bit" else 1e-5)


@installed
def test_a_file_with_other_probabilities_is_not_written(model, tmp_path, monkeypatch):
    other = onnx.serialize(dataclasses.replace(model.member, temperature=7.0))
    monkeypatch.setattr(onnx, "serialize", lambda member: other)
    with pytest.raises(UserError, match=r"differ by .* from the run's; nothing is written"):
        onnx.write(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@installed
def test_a_network_that_cannot_be_converted_is_one_line(model, monkeypatch):
    monkeypatch.setattr(onnx, "resolved", lambda function: function)
    with pytest.raises(
        UserError, match=r"jax2onnx .* cannot convert this network .*platform_index"
    ):
        onnx.serialize(model.member)
    monkeypatch.setattr(onnx, "MAX_BYTES", 2**10)
    with pytest.raises(UserError, match="an ONNX file holds less than 2; use the format stablehlo"):
        onnx.serialize(model.member)


@pytest.mark.skipif(INSTALLED, reason="the extra onnx is installed here")
def test_without_the_extra_the_command_names_it(trained_run, tmp_path):
    done = export(f"--workdir={trained_run}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1
    assert (
        "error: jax2onnx is not installed; pip install 'leukjax[onnx]' in"
        in (done.stderr.splitlines()[-1])
    )
    assert not Path(tmp_path / "out").exists()
