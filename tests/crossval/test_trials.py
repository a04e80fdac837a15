"""Validation chooses among trials; the chosen one becomes a run; all are recorded."""

import csv
import io
import json
from pathlib import Path

import pytest

from leukjax.crossval import plan, trials
from leukjax.crossval.plan import Job
from leukjax.errors import UserError


@pytest.fixture
def study(tmp_path):
    return plan.make(
        tmp_path,
        ["cnn"],
        [],
        folds=3,
        seeds=2,
        pool=False,
        sweep=["optimizer.learning_rate=1e-4,1e-3,1e-2"],
    )


def write_trials(study, fold: int, scores: list[float | None]) -> None:
    """Writes the folders of a fold's trials as workers do: metrics, checkpoints, result."""
    for job, score in zip(study.trial_jobs("cnn", fold), scores, strict=True):
        folder: Path = study.path(job)
        (folder / "checkpoints").mkdir(parents=True)
        if score is None:
            trials.write_divergence(folder, "the loss is nan")
            continue
        lines = [
            {"part": part, "step": step, "epoch": step / 10, "balanced_accuracy": value}
            for part, step, value in [("val", 10, 0.1), ("train", 20, 0.0), ("val", 20, score)]
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        trials.write_result(folder, "balanced_accuracy", best_step=20)


def test_the_best_on_validation_becomes_the_run(study):
    assert trials.choose(study, "cnn", 0) is None  # a fold waits for its trials
    write_trials(study, 0, [0.5, 0.75, None])
    write_trials(study, 1, [0.7, 0.5, 0.7])  # of equal ones the first
    write_trials(study, 2, [None, None, 0.25])
    chosen = [trials.choose(study, "cnn", fold) for fold in range(3)]
    assert [values["optimizer.learning_rate"] for values in chosen] == ["1e-3", "1e-4", "1e-2"]
    # The choice is the same after the trial's folder was renamed.
    assert [trials.choose(study, "cnn", fold) for fold in range(3)] == chosen
    first = study.trial_jobs("cnn", 0)
    assert (study.path(Job("cnn", 0, 0)) / "metrics.jsonl").exists()
    assert not study.path(first[1]).exists()
    assert not (study.path(first[0]) / "checkpoints").exists()  # removed to free the disk
    assert all(trials.is_done(study, job) for job in first)

    rows = list(csv.DictReader(io.StringIO(trials.table(study))))
    assert len(rows) == 9
    assert [row["chosen"] for row in rows] == list("010100001")
    assert rows[1] == {
        "model": "cnn", "fold": "0", "trial": "1", "seed": "0", "optimizer.learning_rate": "1e-3",
        "metric": "balanced_accuracy", "score": "0.75", "epoch": "2", "chosen": "1", "failure": "",
    }  # fmt: skip
    assert (rows[2]["score"], rows[2]["failure"]) == ("", "the loss is nan")


def test_all_diverged(study):
    write_trials(study, 0, [None, None, None])
    with pytest.raises(UserError, match="cnn, fold 0: every trial diverged; --sweep smaller"):
        trials.choose(study, "cnn", 0)
