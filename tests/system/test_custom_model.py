"""A model registered outside of leukjax: trained, killed, resumed, and used by every command."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import REPOSITORY, assert_same_bits, command, finish, with_patch

MODEL = f"--import={REPOSITORY / 'examples' / 'custom_model.py'}"
FIELDS = {
    "model.name": "patch_mixer",
    "model.branches": 3,
    "data.image_size": 32,
    "checkpoint.every": "2 steps",
}
DYING = """
from leukjax.training import metric_writer
original = metric_writer.MetricWriter.step
def dying(self, step, loss):
    original(self, step, loss)
    if step >= 9:
        os.kill(os.getpid(), signal.SIGKILL)
metric_writer.MetricWriter.step = dying
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A finished run."""
    whole = tmp_path_factory.mktemp("custom") / "whole"
    finish([*command("cnn", whole, FIELDS), MODEL], cache)
    return whole


@pytest.mark.slow
def test_killed_and_resumed_it_equals_a_run_that_was_not(run, cache, tmp_path):
    arguments = [*command("cnn", tmp_path / "killed", FIELDS), MODEL]
    finish(with_patch(DYING, arguments), cache, expect=-signal.SIGKILL)
    assert "resuming from step" in finish(arguments, cache)
    assert_same_bits(run, tmp_path / "killed")


def leukjax(name: str, *flags: object) -> list[str]:
    return [sys.executable, "-m", f"leukjax.{name}", MODEL, *map(str, flags)]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("images") / "cell.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def test_predict(run, cache, image, tmp_path):
    table = tmp_path / "predictions.csv"
    finish(leukjax("predict", f"--workdir={run}", f"--output={table}", image), cache)
    assert len(table.read_text().splitlines()) == 2


def test_explain(run, cache, image, tmp_path):
    finish(leukjax("explain", f"--workdir={run}", f"--output={tmp_path / 'maps'}", image), cache)
    assert list((tmp_path / "maps").rglob("*.png"))


def test_evaluate(run, cache):
    said = finish(leukjax("evaluate", f"--workdir={run}", "--part=val"), cache)
    assert "whole" in said  # named after its folder


def test_compare_names_the_model(run, cache, tmp_path):
    finish(leukjax("compare", run, f"--output={tmp_path / 'report'}"), cache)
    assert "patch_mixer" in (tmp_path / "report" / "report.md").read_text()


def test_export(run, cache, tmp_path):
    output = tmp_path / "exported"
    format_ = "--format=stablehlo"
    finish(leukjax("export", f"--workdir={run}", f"--output={output}", format_), cache)
    assert list(output.glob("*.stablehlo"))


def test_without_the_import_one_line_asks_for_it(run, cache, image):
    arguments = leukjax("predict", f"--workdir={run}", image)
    arguments.remove(MODEL)
    said = finish(arguments, cache, expect=1)
    assert "uses the model 'patch_mixer', which is not registered: add --import=FILE" in said
    assert "Traceback" not in said
    assert json.loads((run / "config.json").read_text())["model"]["branches"] == 3
