"""A work directory belongs to one run and to one process at a time."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from leukjax import config
from leukjax.data.manifest import Manifest
from leukjax.data.split import Split, checksum
from leukjax.errors import UserError
from leukjax.rundir import RunDir

FACTS = {"images": 10, "records_sha256": "a"}


def test_the_same_run_goes_on_and_another_is_refused(tmp_path):
    first = config.load("cnn")
    assert RunDir(tmp_path).claim(first, FACTS) is False
    assert RunDir(tmp_path).claim(first, FACTS) is True
    assert RunDir(tmp_path).claim(config.load("cnn", {"data.threads": 2}), FACTS) is True
    with pytest.raises(UserError, match=r"train\.epochs: 20\.0 -> 3\.0; undo"):
        RunDir(tmp_path).claim(config.load("cnn", {"train.epochs": 3}), FACTS)
    with pytest.raises(UserError, match="records_sha256: 'a' -> 'b'"):
        RunDir(tmp_path).claim(first, FACTS | {"records_sha256": "b"})


def test_where_files_are_may_change_and_what_they_hold_may_not(tmp_path):
    """A table of subjects may move as the images may: its content enters split.csv."""
    before = {"data.name": "image_folder", "data.root": "/old", "data.subject_csv": "/old/s.csv"}
    moved = before | {"data.root": "/new", "data.subject_csv": "/new/subjects.csv"}
    facts = FACTS | {"split_sha256": split_checksum(("p1", "p2"))}
    RunDir(tmp_path).claim(config.load("cnn", before), facts)
    assert RunDir(tmp_path).claim(config.load("cnn", moved), facts) is True
    other = FACTS | {"split_sha256": split_checksum(("p1", "p3"))}
    with pytest.raises(UserError, match="split_sha256"):
        RunDir(tmp_path).claim(config.load("cnn", moved), other)


def split_checksum(subjects: tuple[str, ...]) -> str:
    """Of two images of these subjects, on the same sides of the split."""
    count, text = len(subjects), ("a", "b")
    manifest = Manifest(
        ("all", "hem"), text, text, [0] * count, subjects, subjects, text, text, text,
        [0] * count, [0] * count,
    )  # fmt: skip
    return checksum(manifest, Split(np.array(["train", "test"]), "subject"))


def test_a_broken_config_json_is_said(tmp_path):
    RunDir(tmp_path).claim(config.load("cnn"), FACTS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        RunDir(tmp_path).claim(config.load("cnn"), FACTS)


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from leukjax.rundir import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).lock():\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="another process"), RunDir(tmp_path).lock():
            pass
        other.kill()
    with RunDir(tmp_path).lock():
        pass


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        RunDir(tmp_path / "file" / "run").lock(),
    ):
        pass


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path):
    with pytest.raises(UserError, match="no data"), RunDir(tmp_path / "runs" / "new").lock():
        raise UserError("no data")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "kept").mkdir()
    with RunDir(tmp_path / "kept").lock():
        (tmp_path / "kept" / "config.json").write_text("{}")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {".lock", "config.json"}


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error"), ValueError("NOT_FOUND")])
def test_a_folder_that_vanishes_while_it_is_held(tmp_path, error):
    folder = tmp_path / "run"

    def work() -> None:
        with RunDir(folder).lock():
            shutil.rmtree(folder)
            folder.mkdir()  # an empty mount point
            if error is not None:
                raise error

    with pytest.raises(UserError, match="removed, replaced or unmounted") as said:
        work()
    assert said.value.__cause__ is error
    assert folder.exists()
