"""What works without the modules that Windows lacks, and without the reader of prepared images.

A stand-in for Windows: the modules cannot be imported, and `os` lacks what it lacks there.
"""

import os
import subprocess
import sys

import pytest
from PIL import Image

WITHOUT = """
import os, runpy, sys
for name in ("fcntl", "resource", "array_record"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
for name in ("O_NOFOLLOW", "pread"):  # Python's own modules need the others
    delattr(os, name)
sys.argv = sys.argv[1:]
import leukjax
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run(tmp_path):
    def start(module, *arguments):
        command = [sys.executable, "-c", WITHOUT, module, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return start


def test_the_help_of_a_command(run):
    assert "--workdir" in run("leukjax.predict", "--help")


def test_compare(run, trained_run, finished_run, tmp_path, monkeypatch):
    # There are prepared images, which nothing can read here.
    monkeypatch.setenv("LEUKJAX_CACHE", str(trained_run.parent / "cache"))
    run("leukjax.compare", finished_run, "--output=report")
    assert (tmp_path / "report" / "report.html").is_file()


def test_predict(run, trained_run, tmp_path):
    Image.new("RGB", (40, 40), (120, 60, 140)).save(tmp_path / "cell.png")
    run("leukjax.predict", f"--workdir={trained_run}", "cell.png", "--output=out.csv")
    assert (tmp_path / "out.csv").read_text().count("\n") == 2


def test_a_lock_that_the_system_lacks(tmp_path, monkeypatch, caplog):
    """Logs a warning and continues."""
    from leukjax import storage

    monkeypatch.setattr(storage, "fcntl", None)
    monkeypatch.setattr(storage, "_warned", set())
    with storage.lock(tmp_path / "lock", wait=False) as file:
        os.fstat(file.fileno())
    assert "flock: not supported here" in caplog.text
