"""The log: whole lines, none from a future that was killed, and event files TensorBoard opens."""

import errno
import json
import os

from leukjax.rundir import RunDir
from leukjax.training.metric_writer import (
    MetricWriter,
    epoch_header,
    epoch_line,
)
from leukjax.training.throughput import duration


def _log(folder, start=0):
    return MetricWriter(
        RunDir(folder), start=start, total_steps=100, steps_per_epoch=10, positive="all"
    )


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    log = _log(tmp_path)
    for step in (10, 20, 30):
        log.write({"step": step, "part": "val", "loss": step / 7})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "part": "va')  # killed while it wrote
    assert [record["step"] for record in RunDir(tmp_path).history()] == [10, 20, 30]
    log = _log(tmp_path, start=20)
    log.write({"step": 30, "part": "val", "loss": 0.5})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [
        (10, 10 / 7),
        (20, 20 / 7),
        (30, 0.5),
    ]


def test_seconds_add_up_over_starts(tmp_path):
    assert RunDir(tmp_path).seconds_trained() == 0
    log = _log(tmp_path)
    log.write({"step": 10, "part": "train", "elapsed": 12.5})
    log.close()
    assert RunDir(tmp_path).seconds_trained() == 12.5


def test_tensorboard_opens_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = _log(tmp_path)
    log.write({"step": 10, "part": "val", "loss": 0.75, "auroc": None})
    log.write({"step": 20, "part": "val", "loss": 0.5, "auroc": 0.9})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(10, 0.75), (20, 0.5)]
    assert [e.step for e in events.Scalars("val/auroc")] == [20]


def test_rows_stand_under_their_titles_and_leave_out_what_is_unknown():
    train = {"epoch": 2.0, "loss": 0.5, "accuracy": 0.75, "learning_rate": 1e-3, "grad_norm": 1.5}
    train["peak_memory"] = 2**31
    val = {"loss": 0.6, "balanced_accuracy": 0.7, "precision": 0.8, "recall": None, "auroc": 0.9}
    groups, titles = epoch_header("all").splitlines()
    assert "F1 of all" in groups
    row = epoch_line(train, val, epochs=8.0, left="1:05")
    for title, cell in {"bal.acc": "0.700", "prec": "0.800", "recall": "–", "left": "1:05"}.items():
        end = titles.index(title) + len(title)
        assert row[:end].endswith(cell), title
    assert "%" not in row
    speed = {"images_per_second": 30.0, "data_wait": 0.01, "mfu": 0.2}
    row = epoch_line(train | speed, val, epochs=8.0, left="?")
    assert row.endswith("?  20.0% of peak FLOP/s")
    assert row[: titles.index("images/s") + 8].endswith("30.0")
    assert "means over classes" in epoch_header("")


def test_durations():
    assert [duration(x) for x in (7, 750, 5025)] == ["0:07", "12:30", "1:23:45"]


def test_a_file_system_without_fsync_has_a_log_all_the_same(tmp_path, monkeypatch):
    def refused(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    log = _log(tmp_path)
    monkeypatch.setattr(os, "fsync", refused)
    log.write({"step": 10, "part": "val", "loss": 0.75})
    log.close()
    assert [line["step"] for line in RunDir(tmp_path).history()] == [10]
