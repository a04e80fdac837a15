"""benchmarks/accelerator.sh and its check; the stages are run by the slow proof."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import accelerator
import harness

SCRIPT = Path(accelerator.__file__).with_suffix(".sh")


def call(*arguments):
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
    )


def write(folder, stage, *rows):
    harness.append(accelerator.file_of(stage), list(rows), folder)


def test_a_stage_without_rows_is_an_error(tmp_path, capsys):
    write(tmp_path, "a", {"check": "logits", "value": 0.0, "limit": 0.1, "passed": True})
    assert accelerator.check(tmp_path, ["a"]) == 0
    assert accelerator.check(tmp_path, ["a", "b"]) == 1
    assert "stage b (resnet50) has no row" in capsys.readouterr().err


def test_skipped_peers_are_named_and_are_no_rows(tmp_path, capsys):
    write(tmp_path, "b", {"contender": "timm", "skipped": "not installed"})
    assert accelerator.check(tmp_path, ["b"]) == 1
    assert "timm: skipped: not installed" in capsys.readouterr().out


def test_a_failed_comparison_is_an_error(tmp_path, capsys):
    row = {"check": "fused against plain", "model": "cnn", "value": 0.5, "limit": 0.1}
    write(tmp_path, "a", {**row, "passed": False})
    assert accelerator.check(tmp_path, ["a"]) == 1
    assert "fused against plain, cnn: 0.5 > 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--out=DIR is required"),
        (("--outt=x",), "unknown"),
        (("--out=x", "--minutes=x"), "number"),
        (("--out=/tmp", "--stage=h"), "must be one of a to g"),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    done = call(*flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


@pytest.mark.parametrize("script", ["accelerator.sh", "wheels.sh", "peers.sh"])
def test_shellcheck_finds_nothing(script):
    tool = Path(sys.executable).with_name("shellcheck")
    if not tool.exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [str(tool), str(SCRIPT.with_name(script))], capture_output=True, text=True
    )
    assert done.stdout == ""


@pytest.mark.slow
def test_every_stage_has_rows_on_a_cpu(tmp_path):
    done = call("--small", "--minutes=30", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr + done.stdout
