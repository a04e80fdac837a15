"""Files that a training writes and reads back: its history, its starts, the step it reached."""

import json
import os

import numpy as np
import pytest

from leukjax.errors import UserError
from leukjax.metrics.predictions import Predictions
from leukjax.rundir import RunDir


def line(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "part": "val", "epoch": step / 10, **more}


def test_a_resumed_run_drops_lines_after_its_step(tmp_path):
    run = RunDir(tmp_path)
    for step in (10, 20, 30):
        run.append_history(line(step, elapsed=step * 1.5))
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "pa')  # a kill cut it short
    assert run.seconds_trained() == 45.0
    run.truncate_history(20)
    run.append_history(line(25))
    assert [record["step"] for record in run.history()] == [10, 20, 25]
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").count("\n") == 3


def test_a_removed_folder_is_not_created_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        RunDir(tmp_path / "run").append_history(line(10))
    assert not (tmp_path / "run").exists()


def test_the_step_reached_survives_a_kill(tmp_path):
    run = RunDir(tmp_path)
    assert run.reached() == 0
    file = run.open_reached()
    for step in (1, 2, 1234):
        run.write_reached(file, step)
    assert RunDir(tmp_path).reached() == 1234  # the file was never closed
    file.close()
    (tmp_path / ".reached").write_bytes(b"12x")
    assert run.reached() == 0
    (tmp_path / ".reached").unlink()
    os.mkfifo(tmp_path / ".reached")
    assert run.reached() == 0


def test_starts_and_accesses_are_counted(tmp_path):
    run = RunDir(tmp_path)
    run.record_start(0, 0)
    run.record_start(20, 7)
    assert [start["step"] for start in run.starts()] == [0, 20]
    assert run.steps_repeated() == 7
    run.record_test_access(30)
    run.record_test_access(30, by="evaluate")
    assert run.test_accesses() == 2
    run.record_study_access("cnn", "held_out", 5)
    text = (tmp_path / "ledger.jsonl").read_text(encoding="utf-8")
    assert json.loads(text) == {"model": "cnn", "part": "held_out", "runs": 5}
    assert run.study_accesses()[0]["model"] == "cnn"


def test_predictions_and_files_are_written_below_the_folder(tmp_path):
    run = RunDir(tmp_path / "run")
    ids = np.array(["a", "b"])
    p = np.array([[0.25, 0.75], [1.0, 0.0]])
    assert not run.has_predictions("test")
    run.write_predictions("test", Predictions(("x", "y"), ids, ids, ids, np.array([1, 0]), p))
    assert run.has_predictions("test")
    np.testing.assert_array_equal(run.predictions("test").probabilities, p)
    run.write_json("summary.json", {"model": "CNN"})
    assert run.read_json("summary.json") == {"model": "CNN"}
    run.write("figures/note.txt", "text")
    assert (tmp_path / "run" / "figures" / "note.txt").read_text(encoding="utf-8") == "text"


@pytest.mark.parametrize("name", ["figures/note.txt", "metrics.jsonl"])
def test_links_are_not_written_through(tmp_path, name):
    run, outside = RunDir(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / name.split("/")[0]
    link.symlink_to(outside)
    with pytest.raises(UserError, match="is a symbolic link"):
        run.write(name, "text")
    with pytest.raises(UserError, match="is a symbolic link"):
        RunDir(tmp_path / "run").path(*name.split("/"))
    assert not list(outside.iterdir())
