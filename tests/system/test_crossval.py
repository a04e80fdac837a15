"""A whole study: its tables follow from those of its runs, with and without interruptions."""

import csv
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, finish, start

from leukjax.errors import UserError
from leukjax.evaluate import evaluate_run
from leukjax.metrics.predictions import read
from leukjax.rundir import RunDir

FIELDS = TINY | {"data.smears_subjects": 24, "train.epochs": 1, "mesh.data": 1}


def crossval(folder: Path, *flags: str, **changes) -> list[str]:
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    return [
        sys.executable,
        "-m",
        "leukjax.crossval",
        "configs/cnn.py",
        "--folds=3",
        f"--workdir={folder}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *flags,
    ]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("study") / "study"
    user_code = folder.with_name("mine.py")
    user_code.write_text("open(__file__ + '.log', 'a').write('imported\\n')\n")
    finish(crossval(folder, "--seeds=1", f"--import={user_code}"), cache)
    return folder


def test_the_command_and_its_worker_import_the_users_code(whole):
    assert whole.with_name("mine.py.log").read_text() == "imported\n" * 2


@pytest.mark.smoke("crossval")
def test_every_folded_image_is_predicted_exactly_once(whole):
    joined = table(whole / "predictions" / "out_of_fold.csv")
    parts = [table(whole / f"runs/cnn/fold{fold}-seed0" / "split.csv") for fold in range(3)]
    held_out = {row["id"] for row in parts[0] if row["part"] == "held_out"}
    assert held_out
    for rows in parts:
        assert {row["id"] for row in rows if row["part"] == "held_out"} == held_out
    ids = [row["id"] for row in joined]
    assert len(ids) == len(set(ids))
    assert set(ids) == {row["id"] for row in parts[0]} - held_out
    for row in joined:
        (image,) = [r for r in parts[int(row["fold"])] if r["id"] == row["id"]]
        assert image["part"] == "test"
        assert image["label"] == row["label"]
    # The table has the values of the runs' own tables, to the last digit.
    run = table(whole / "runs/cnn/fold1-seed0/predictions/test.csv")
    first = {"model": "cnn", "seed": "0", "fold": "1"}
    assert [row for row in joined if row["fold"] == "1"] == [first | row for row in run]


def test_the_held_out_split_is_accessed_once_for_the_ensemble(whole, cache):
    ensemble = read(whole / "predictions/test/cnn.csv")
    members = [
        read(whole / f"predictions/test_members/cnn/fold{fold}-seed0.csv") for fold in range(3)
    ]
    mean = np.mean([member.probabilities for member in members], axis=0)
    np.testing.assert_allclose(ensemble.probabilities, mean, rtol=1e-6)
    split = table(whole / "runs/cnn/fold0-seed0/split.csv")
    assert sorted(ensemble.id) == [row["id"] for row in split if row["part"] == "held_out"]
    access = [{"model": "cnn", "part": "held_out", "runs": 3}]
    ledger = whole / "ledger.jsonl"
    assert [json.loads(line) for line in ledger.read_text().splitlines()] == access
    # The same command again trains nothing and accesses nothing.
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*.csv")}
    said = finish(crossval(whole, "--seeds=1"), cache)
    assert "Accesses to the held-out split: 1 for cnn" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [json.loads(line) for line in ledger.read_text().splitlines()] == access


@pytest.mark.smoke("evaluate")
def test_scored_again(whole, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEUKJAX_CACHE", str(cache))
    run = whole / "runs/cnn/fold0-seed0"
    evaluate_run.run([run], "val", "youden", tmp_path / "val")
    again, before = read(tmp_path / "val" / "predictions.csv"), read(run / "predictions/val.csv")
    assert again.id.tolist() == before.id.tolist()
    np.testing.assert_allclose(again.probabilities, before.probabilities, rtol=1e-4)
    assert "chosen and scored on the same images: too optimistic" in capsys.readouterr().out
    assert RunDir(run).test_accesses() == 1

    evaluate_run.run([run], "test", "sensitivity=0.9", tmp_path / "test", tta=True)
    assert RunDir(run).test_accesses() == 2
    assert json.loads((run / "test_openings.jsonl").read_text().splitlines()[1])["by"] == "evaluate"
    scores = json.loads((tmp_path / "test" / "scores.json").read_text())
    found = read(tmp_path / "test" / "predictions.csv")
    point = scores["operating_points"]["image"]
    # Recomputed by hand: the threshold from validation with eight views, applied to test.
    evaluate_run.run([run], "val", "sensitivity=0.9", tmp_path / "val8", tta=True)
    validation = read(tmp_path / "val8" / "predictions.csv")
    column = found.classes.index(scores["positive"])
    threshold = point["threshold"]
    of = validation.probabilities[validation.labels == column, column].astype(float)
    assert np.mean(of >= threshold) >= 0.9
    assert np.mean(of > threshold + 1e-9) == np.mean(of >= threshold)  # lies between images
    called = found.probabilities[:, column] >= threshold
    assert point["scores"]["recall"]["value"] == pytest.approx(
        called[found.labels == column].mean()
    )
    assert point["scores"]["specificity"]["value"] == pytest.approx(
        1 - called[found.labels != column].mean()
    )

    others = [whole / f"runs/cnn/fold{fold}-seed0" for fold in (0, 1)]
    with pytest.raises(UserError, match="must be scored on the same images"):
        evaluate_run.run(others, "val", "youden", tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with pytest.raises(UserError, match=r"--config\.model\.width: a finished run keeps its config"):
        evaluate_run.run([run], "val", "youden", tmp_path, overrides=[("model.width", "9")])
    with pytest.raises(UserError, match=r"study: holds no run \(no config\.json\)"):
        evaluate_run.run([whole], "val", "youden", tmp_path)


def until(process, condition) -> None:
    """Waits until the condition holds while the command runs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_stopped_killed_failed_and_started_again_ends_the_same(tmp_path, cache):
    flags = ("--seeds=2", "--sweep=optimizer.learning_rate=1e-4,1e-3")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    # The uninterrupted study runs as two shards; the second one writes the tables.
    said = finish(crossval(calm, *flags, "--shard=1/2", train__epochs=2), cache)
    assert "the last share to end writes the tables (2 runs are missing)" in said
    assert not (calm / "predictions").exists()
    finish(crossval(calm, *flags, "--shard=2/2", train__epochs=2), cache)

    command = crossval(rough, *flags, train__epochs=2)
    # One run fails: its folder holds a damaged config.
    (rough / "runs/cnn/fold0-seed1").mkdir(parents=True)
    (rough / "runs/cnn/fold0-seed1/config.json").write_text("no config")
    begun = [rough / f"trials/cnn/fold{fold}-trial1/metrics.jsonl" for fold in (0, 1)]
    process = start(command, cache)
    until(process, begun[0].exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "the same command resumes from here" in err

    process = start(command, cache)
    until(process, begun[1].exists)
    process.kill()
    process.communicate()

    # A worker that outlives its study saves and stops; until then the folder is locked.
    deadline = time.monotonic() + 120
    while True:
        process = start(command, cache)
        _, err = process.communicate(timeout=300)
        if "another process is working in it" not in err or time.monotonic() > deadline:
            break
    assert process.returncode == 1
    assert "1 of 12 runs and trials failed (cnn/fold0-seed1); fix the cause" in err
    assert not (rough / "predictions/out_of_fold.csv").exists()

    shutil.rmtree(rough / "runs/cnn/fold0-seed1")
    finish(crossval(rough, *flags, "--retry", train__epochs=2), cache)
    for name in (
        "predictions/out_of_fold.csv",
        "predictions/test/cnn.csv",
        "trials.csv",
        "fairness.csv",
        "ledger.jsonl",
        "crossval.json",
    ):
        assert (rough / name).read_bytes() == (calm / name).read_bytes(), name
    assert len(table(calm / "trials.csv")) == 6
