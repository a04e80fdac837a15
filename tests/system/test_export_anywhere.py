"""What `leukjax.export --format=stablehlo` wrote, used where leukjax was never installed."""

import csv
import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import leukjax

NEEDS = ("jax", "jaxlib", "flatbuffers", "pillow", "numpy")


def run(*command: object, expect: int = 0) -> str:
    answer = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert answer.returncode == expect, answer.stderr
    return answer.stdout


def exported(workdir: Path, folder: Path, *flags: str) -> Path:
    said = run(
        *(sys.executable, "-m", "leukjax.export", "--format=stablehlo"),
        *(f"--workdir={workdir}", f"--output={folder}", *flags),
    )
    assert f"python {folder / 'predict.py'} IMAGE…" in said
    return folder


def answers(printed: str) -> tuple[list[str], np.ndarray]:
    """Predicted classes, and probabilities [n, classes]."""
    rows = list(csv.DictReader(io.StringIO(printed)))
    names = [name for name in rows[0] if name.startswith("p_")]
    found = np.array([[float(row[name]) for name in names] for row in rows])
    return [row["predicted"] for row in rows], found


def cells(shared: Path) -> list[Path]:
    """Real cells of many sizes."""
    return sorted((shared / "data" / "bccd_cells").glob("*/*.jpg"))[::40]


def test_the_calibrated_program_gives_calibrated_probabilities(trained_run, shared, tmp_path):
    folder = exported(trained_run, tmp_path / "out", "--calibrated")
    _, found = answers(run(sys.executable, folder / "predict.py", *cells(shared)))
    expected = leukjax.load(trained_run, calibrated=True).predict(cells(shared))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - leukjax.load(trained_run).predict(cells(shared))).max() > 1e-3


@pytest.mark.slow
def test_in_an_environment_with_three_packages(trained_run, shared, tmp_path):
    """jax, flatbuffers and Pillow are installed into an empty environment, and nothing else."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    wanted = [f"{name}=={version(name)}" for name in NEEDS]
    install = [python, "-m", "pip", "install", "--quiet", *wanted]
    done = subprocess.run([str(c) for c in install], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package could be installed: {done.stderr.splitlines()[-1:]}")
    assert "flax" not in run(python, "-m", "pip", "list")
    folder = exported(trained_run, tmp_path / "out")
    os.rename(folder, tmp_path / "elsewhere")
    paths = cells(shared)
    classes, found = answers(run(python, "-I", tmp_path / "elsewhere" / "predict.py", *paths))
    model = leukjax.load(trained_run)
    expected = model.predict(paths)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert classes == [model.classes[i] for i in expected.argmax(axis=1)]
    assert len(paths) > 30
