"""The display: every job has its sign, and the time left follows from what was done."""

import io
import json
import re

import pytest

from leukjax.crossval import job_result, plan
from leukjax.crossval.job_result import Answer
from leukjax.crossval.progress import Board
from leukjax.crossval.scheduler import all_jobs


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
    jobs = all_jobs(study, study.runs())
    out = Terminal()
    board = Board(study, jobs, 2, out)
    todo = [job for job in jobs if job.name not in ("cnn/fold0-trial0", "cnn/fold1-trial0")]
    board.expect(todo, [job for job in jobs if job.name == "cnn/fold1-trial0"])
    assert board.left() == "?"
    running, other = todo[0], todo[1]
    board.started(running, 1)
    board.ended(running, Answer(job_result.DONE, "", 60.0))
    board.started(other, 0)
    folder = study.path(other)
    folder.mkdir(parents=True)
    line = {"part": "val", "step": 5, "epoch": 1, "balanced_accuracy": 0.75}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    lines = board.lines(80)
    # 9 jobs of each model; two of cnn are done, one failed, one is running.
    assert lines[0].startswith("2 of 18 jobs done, 1 running, 1 failed, ~7:")
    assert lines[1] == "  cnn         2/9    ▪▪▶ ✗▫□ ▫▫□"
    assert lines[2] == "  resnet50    0/9    ▫▫□ ▫▫□ ▫▫□"
    assert lines[3].startswith("  device 0: cnn/fold0-seed0, 0:0")
    assert lines[3].endswith("epoch 1 of 20, balanced accuracy 0.750 on validation")
    assert board.lines(25)[1] == "  cnn         2/9    "  # too narrow for signs
    # Drawn again in place: as many lines up as were drawn.
    board.draw(now=True)
    assert "\x1b[4F\x1b[J" in out.getvalue()


def test_names_and_messages_cannot_move_the_cursor(study):
    jobs = all_jobs(study, study.runs())
    out = Terminal()
    board = Board(study, jobs, 1, out)
    board.say("\x1b[31mred\r")
    assert "\\x1b[31mred\\r\n" in out.getvalue()
    board.draw(now=True)
    rest = out.getvalue().replace("\x1b[J", "")
    assert "\x1b" not in re.sub(r"\x1b\[\d+F", "", rest)


def test_without_a_terminal_a_line_an_end(study):
    jobs = all_jobs(study, study.runs())
    out = io.StringIO()
    board = Board(study, jobs, 1, out)
    board.expect(jobs, [])
    board.started(jobs[0], 0)
    board.ended(jobs[0], Answer(job_result.DONE, "", 61.0))
    board.ended(jobs[1], Answer(job_result.DIVERGED, "the loss is nan", 5.0))
    board.ended(jobs[2], Answer(job_result.FAILED, "the disk is full", 5.0))
    assert out.getvalue().splitlines() == [
        "[1/18] cnn/fold0-trial0 done in 1:01; ~17:17 left",
        "[2/18] cnn/fold0-trial1 diverged: the loss is nan",
        "[2/18] cnn/fold0-seed0 failed: the disk is full",
    ]
