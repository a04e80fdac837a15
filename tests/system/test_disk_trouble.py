"""A disk that is full, closed or gone in the middle of a run: one line; the last save stands."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from bad_inputs import arguments, images
from many import run_all
from runs import command, finish

# After the second epoch of four the folder of the run is removed, replaced or closed.
TROUBLE = """
import shutil
from leukjax.training import metric_writer as log
original = log.MetricWriter.step
def trouble(self, step, loss):
    original(self, step, loss)
    run = self._run_dir.folder
    if step == 10 and run.name in ("removed", "replaced"):
        shutil.rmtree(run)
    if step == 10 and run.name == "replaced":
        run.mkdir()
    if step == 10 and run.name == "closed":
        (run / "checkpoints").chmod(0o555)
log.MetricWriter.step = trouble
"""


def test_the_folder_of_a_run_is_lost_in_the_middle(tmp_path):
    root = images(tmp_path / "data")
    says = {
        "removed": "was removed, replaced or unmounted during the run; bring it back",
        "replaced": "was removed, replaced or unmounted during the run; bring it back",
        "closed": "permission denied; choose a folder that you may use",
    }
    changes = {"data.root": root, "train.epochs": 4}
    commands = [arguments(tmp_path, changes | {"workdir": tmp_path / name}) for name in says]
    answers = run_all(commands, tmp_path / "cache", patch=TROUBLE)
    for answer, (name, text) in zip(answers, says.items(), strict=True):
        assert answer["status"] == 1, answer["err"]
        assert answer["err"].splitlines()[-1].startswith("error: "), answer["err"]
        assert text in answer["err"].splitlines()[-1]
        assert "Traceback" not in answer["err"]
        assert not (tmp_path / name / "summary.json").exists()
    assert (tmp_path / "closed" / "checkpoints" / "4" / "checksums.json").exists()


FULL = """
mkdir {place} && mount -t tmpfs -o size={size} tmpfs {place} || exit 9
{command} 2>&1; echo first status $?
ls {place}/run/checkpoints 2> /dev/null
mount -o remount,size=100m {place}
{command} 2>&1; echo second status $?
"""


def in_small_disk(command: list[str], place: Path, size: str, cache: Path) -> tuple[str, str]:
    """What a command says on a full disk, and what it says when the disk has grown."""
    script = FULL.format(place=place, size=size, command=shlex.join(command))
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    allowed = subprocess.run(["unshare", "--mount", *own, "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("no small disk can be mounted on this machine")
    said = finish(["unshare", "--mount", *own, "bash", "-c", script], cache)
    assert "Traceback" not in said
    assert said.count("error:") == 1
    first, second = said.split("first status 1\n")
    assert first.splitlines()[-1].startswith("error: ")
    assert second.splitlines()[-1] == "second status 0"
    return first.splitlines()[-1], second


def test_full_disk_during_a_save(tmp_path):
    place = tmp_path / "small"
    error, second = in_small_disk(command("cnn", place / "run"), place, "700k", tmp_path / "cache")
    assert "no space left on the device; free some and start again; the checkpoints" in error
    assert second.splitlines()[0] == "5"  # and nothing of the one that could not be saved
    assert "resuming from step 5 of 15" in second


@pytest.mark.slow
def test_full_disk_during_the_preparation(tmp_path):
    place = tmp_path / "small"
    arguments = command("cnn", tmp_path / "run", {"data.cache_dir": place / "cache"})
    error, _ = in_small_disk(arguments, place, "60k", tmp_path / "cache")
    assert "data.cache_dir: " in error
    assert "free space there, or choose another folder" in error
