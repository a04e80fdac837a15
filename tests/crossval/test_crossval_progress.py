"""Progress: one sign per job, and the time left from the jobs that are done."""

import io
import json

import pytest

from leukjax.crossval import plan, workers
from leukjax.crossval.progress import Progress
from leukjax.crossval.workers import JobResult


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def study(tmp_path):
    return plan.make(
        tmp_path, ["cnn", "resnet50"], [], folds=3, seeds=1, pool=False,
        sweep=["optimizer.learning_rate=1e-4,1e-3"],
    )  # fmt: skip


def test_what_a_terminal_shows(study):
    jobs = study.jobs(study.runs())
    out = Terminal()
    progress = Progress(study, jobs, 2, out)
    todo = [job for job in jobs if job.name not in ("cnn/fold0-trial0", "cnn/fold1-trial0")]
    progress.expect(todo, [job for job in jobs if job.name == "cnn/fold1-trial0"])
    assert progress.left() == "?"
    running, other = todo[0], todo[1]
    progress.started(running, 1)
    progress.ended(running, JobResult(workers.DONE, "", 60.0))
    progress.started(other, 0)
    folder = study.path(other)
    folder.mkdir(parents=True)
    line = {"part": "val", "step": 5, "epoch": 1, "balanced_accuracy": 0.75}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    lines = progress.lines()
    # 9 jobs of each model; two of cnn are done, one failed, one is running.
    assert lines[0].startswith("2 of 18 jobs done, 1 running, 1 failed, ~7:")
    assert lines[1] == "  cnn         2/9    ▪▪▶ ✗▫□ ▫▫□"
    assert lines[2] == "  resnet50    0/9    ▫▫□ ▫▫□ ▫▫□"
    assert lines[3].startswith("  device 0: cnn/fold0-seed0, 0:0")
    assert lines[3].endswith("epoch 1 of 20, balanced accuracy 0.750 on validation")
    assert lines[4] == "  device 1: idle"
    progress.draw(now=True)
    for line in lines[1:]:
        assert line[:40] in out.getvalue()
    progress.close()
    before = out.getvalue()
    progress.draw(now=True)
    assert out.getvalue() == before


def test_names_and_messages_cannot_move_the_cursor(study):
    jobs = study.jobs(study.runs())
    out = Terminal()
    progress = Progress(study, jobs, 1, out)
    progress.write("\x1b[31mred\r")
    assert "\\x1b[31mred\\r\n" in out.getvalue()
    progress.draw(now=True)
    assert "\x1b" not in out.getvalue().replace("\x1b[A", "")  # tqdm moves up by lines


def test_without_a_terminal_one_line_per_job(study):
    jobs = study.jobs(study.runs())
    out = io.StringIO()
    progress = Progress(study, jobs, 1, out)
    progress.expect(jobs, [])
    progress.started(jobs[0], 0)
    progress.ended(jobs[0], JobResult(workers.DONE, "", 61.0))
    progress.ended(jobs[1], JobResult(workers.DIVERGED, "the loss is nan", 5.0))
    progress.ended(jobs[2], JobResult(workers.FAILED, "the disk is full", 5.0))
    assert out.getvalue().splitlines() == [
        "[1/18] cnn/fold0-trial0 done in 1:01; ~17:17 left",
        "[2/18] cnn/fold0-trial1 diverged: the loss is nan",
        "[2/18] cnn/fold0-seed0 failed: the disk is full",
    ]
