"""Trackers, with the real packages, offline; skipped where the extras are not installed."""

import importlib.util

import pytest

from leukjax import config as configs
from leukjax.errors import UserError
from leukjax.rundir import RunDir
from leukjax.training import trackers
from leukjax.training.metric_writer import MetricWriter

SETTINGS = configs.without_places(
    configs.load("default", {"data.root": "/home/somebody/cells", "train.epochs": 3})
)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # wandb keeps settings there


def write(folder, tracked_by, start, *steps):
    log = MetricWriter(
        RunDir(folder), start=start, total_steps=20, steps_per_epoch=10, positive="all",
        tracked_by=tracked_by, settings=SETTINGS,
    )  # fmt: skip
    for step in steps:
        log.write({"step": step, "part": "val", "loss": step / 7, "auroc": None})
    log.close()


def test_no_place_leaves_this_machine():
    assert SETTINGS["train.epochs"] == 3
    assert "data.root" not in SETTINGS
    assert "/home/somebody/cells" not in SETTINGS.values()


def test_weights_and_biases(offline, tmp_path):
    pytest.importorskip("wandb", reason="needs leukjax[wandb]")
    write(tmp_path / "run", "tensorboard,wandb", 0, 10)
    identifier = RunDir(tmp_path / "run").tracker_ids()["wandb"]
    write(tmp_path / "run", "tensorboard,wandb", 10, 20)
    assert RunDir(tmp_path / "run").tracker_ids() == {"wandb": identifier}
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert files
    assert all(path.name == f"run-{identifier}.wandb" for path in files)
    content = b"".join(path.read_bytes() for path in files)
    assert b"val/loss" in content
    assert b"val/auroc" not in content
    assert b"somebody" not in content


def test_mlflow(offline, tmp_path):
    pytest.importorskip("mlflow", reason="needs leukjax[mlflow]")
    from mlflow.tracking import MlflowClient

    write(tmp_path / "run", "mlflow", 0, 10)
    identifier = RunDir(tmp_path / "run").tracker_ids()["mlflow"]
    assert MlflowClient().get_run(identifier).info.status == "KILLED"
    write(tmp_path / "run", "mlflow", 10, 20)
    run = MlflowClient().get_run(identifier)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "3.0"
    assert "data.root" not in run.data.params
    history = MlflowClient().get_metric_history(identifier, "val/loss")
    assert [(point.step, point.value) for point in history] == [(10, 10 / 7), (20, 20 / 7)]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_fails_does_not_end_the_training(monkeypatch, tmp_path, caplog):
    class Broken:
        def __init__(self, *_):
            self.calls = 0

        def write(self, step, values):
            self.calls += 1
            raise ConnectionError("no answer")

    monkeypatch.setitem(trackers._KINDS, "mlflow", Broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    write(tmp_path, "mlflow", 0, 10, 20)
    assert caplog.text.count("mlflow: no answer; nothing more is sent there") == 1
    assert len(RunDir(tmp_path).history()) == 2


def test_a_tracker_that_does_not_start(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError("log in first")

    monkeypatch.setitem(trackers._KINDS, "wandb", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="wandb cannot be started: log in first"):
        write(tmp_path, "wandb", 0, 10)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    trackers.check_installed("tensorboard")
    with pytest.raises(UserError, match=r"pip install 'leukjax\[wandb\]'"):
        trackers.check_installed("tensorboard,wandb")


@pytest.mark.parametrize("value", ["", "neptune", "wandb,", "wandb mlflow"])
def test_names_of_trackers(value):
    with pytest.raises(UserError, match=r"train\.trackers"):
        configs.load("default", {"train.trackers": value})
