"""Errors of crossval and evaluate are one line, before anything is trained or written."""

import pytest

from leukjax import command
from leukjax.crossval import cli
from leukjax.evaluate import cli as evaluate

SMALL = ["data.smears_subjects=8", "data.smears_cells=2", "data.image_size=16"]


def error_line(capsys, module, *arguments: str) -> str:
    assert command.status(module.main, module.FLAGS, arguments, doc=None) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir="], "--workdir is missing"),
        (["--shard=0/3"], "--shard=0/3: must read NUMBER/COUNT, as in 2/8, counted from 1"),
        (["--shard=4/3"], "--shard=4/3: must read"),
        (["--folds=5"], "split.protocol kfold: class all has 3 groups for 5 parts"),
        (
            ["--config.split.protocol=official"],
            "split.protocol official: the data set has no official split",
        ),
        (
            ["hybrid_vit", "--config.model.variant=r26_s32", "--config.train.batch_size=4"],
            "image_size=16: too small for the hybrid_vit r26_s32",
        ),
        ([], "train.batch_size: a batch of 32 cannot be filled by the 4 training images: use 4"),
        (["configs/nobody.py"], "--config=configs/nobody.py: no such file"),
    ],
)
def test_crossval(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    fields = [f"--config.{field}" for field in SMALL]
    folder = tmp_path / "study"
    line = error_line(capsys, cli, "cnn", "--folds=3", "--shard=1/1", f"--workdir={folder}",
                  *fields, *flags)  # fmt: skip
    assert message in line
    assert not folder.exists()


def test_several_processes_are_refused_in_favour_of_shards(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    line = error_line(capsys, cli, "cnn", "--folds=3", "--shard=1/1", f"--workdir={tmp_path}")
    assert "crossval is one process a machine, and --shard=NUMBER/COUNT splits" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir="], "--workdir is missing"),
        (["--workdir=a,a"], "--workdir=a,a: a run is named twice"),
        (["--workdir=a,b"], "--output is missing; give a folder for the scores of the ensemble"),
        (["--workdir=a"], "a: holds no run"),
        (["--workdir=a", "b"], "b: not understood; a run has its own config"),
    ],
)
def test_evaluate(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_line(capsys, evaluate, *flags)


def test_an_unfinished_run_is_not_scored_again(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    line = error_line(capsys, evaluate, f"--workdir={tmp_path}")
    assert "the run is not finished (summary.json is missing)" in line
