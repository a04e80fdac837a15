"""A run that was killed ends with the same bits as one that never was."""

import json
import shutil
import signal

import pytest
from runs import assert_same_bits, command, finish, metrics, start, with_patch

from leukjax import runtime

# Every kind of state that a step may carry: dropout, momentum, averages, micro-batches.
CHANGES = {
    "model.dropout": 0.3,
    "train.ema_decay": 0.9,
    "train.accumulate": 2,
    "augment.rotate": 180,
    "augment.brightness": 0.2,
    "optimizer.schedule": "cosine",
    "checkpoint.every": "2 steps",
}

MID_EPOCH = """
from leukjax.training import metric_writer as log
original = log.MetricWriter.step
def dying(self, step, loss):
    original(self, step, loss)
    if step == {step}: os.kill(os.getpid(), signal.SIGKILL)
log.MetricWriter.step = dying
"""
DURING_SAVE = """
from leukjax.checkpoints import writer as checkpoint
original = checkpoint.Checkpoints.save
def dying(self, step, *rest):
    original(self, step, *rest)
    if step == {step}: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.Checkpoints.save = dying
"""
BEFORE_CHECKSUMS = """
from leukjax.checkpoints import writer as checkpoint
original = checkpoint.Checkpoints._finish
def dying(self, step, *rest):
    if step == {step}:
        self._manager.wait_until_finished()
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, step, *rest)
checkpoint.Checkpoints._finish = dying
"""
DURING_TEST = """
from leukjax.metrics import predictions
original = predictions.Predictions.write
def dying(self, path):
    if path.name == "test.csv": os.kill(os.getpid(), signal.SIGKILL)
    original(self, path)
predictions.Predictions.write = dying
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(command("cnn", workdir, CHANGES), cache)
    return workdir


@pytest.mark.parametrize(
    ("name", "patch", "repeated"),
    [
        # The steps after the last verified checkpoint are done again; one every two steps.
        ("in the middle of an epoch", MID_EPOCH.format(step=9), (1, 3)),
        pytest.param(
            "before the first checkpoint", MID_EPOCH.format(step=1), (1,), marks=pytest.mark.slow
        ),
        pytest.param("during a save", DURING_SAVE.format(step=8), (2,), marks=pytest.mark.slow),
        pytest.param(
            "between commit and checksums",
            BEFORE_CHECKSUMS.format(step=12),
            (2, 3, 4),
            marks=pytest.mark.slow,
        ),
        pytest.param("while test is scored", DURING_TEST, (0,), marks=pytest.mark.slow),
    ],
)
def test_killed_and_started_again(tmp_path, cache, whole, name, patch, repeated):
    workdir = tmp_path / "run"
    arguments = command("cnn", workdir, CHANGES)
    finish(with_patch(patch, arguments), cache, expect=-signal.SIGKILL)
    said = finish(arguments, cache)
    trained = name == "while test is scored"
    assert ("are done; nothing is trained" if trained else "resuming from step") in said
    assert_same_bits(whole, workdir)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["starts"] == 2
    assert summary["processor"] == runtime.processor()
    assert summary["over_shortcuts"]["baseline"] in summary["intervals"]
    assert summary["resumed"] == 1
    assert summary["steps_repeated"] in repeated
    assert summary["lost"] == {"steps": 0, "evaluations": 0, "predictions": 0}
    assert summary["test_openings"] == (2 if name == "while test is scored" else 1)


def test_what_was_lost_is_counted(tmp_path, cache, whole):
    workdir = shutil.copytree(whole, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[2:]))  # the first evaluation
    table = workdir / "predictions" / "test.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    finish(command("cnn", workdir, CHANGES), cache)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["lost"] == {"steps": 0, "evaluations": 1, "predictions": 3}


def test_sigterm_saves_and_exits_75(tmp_path, cache, whole):
    workdir = tmp_path / "run"
    arguments = command("cnn", workdir, CHANGES)
    # The signal comes from inside, so that it meets the loop and not the imports before it.
    patch = MID_EPOCH.replace("SIGKILL", "SIGTERM").format(step=7)
    said = finish(with_patch(patch, arguments), cache, expect=75)
    assert "SIGTERM at step 8" in said
    assert "the same command resumes" in said
    assert "resuming from step 8" in finish(arguments, cache)
    assert_same_bits(whole, workdir)


@pytest.mark.smoke("main")
def test_a_finished_run_is_not_run_again(cache, whole):
    before = metrics(whole)
    said = finish(command("cnn", whole, CHANGES), cache)
    assert metrics(whole) == before
    assert "test" in said
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["test_openings"] == 1


def test_another_config_in_the_same_folder_is_refused(cache, whole):
    said = finish(command("cnn", whole, CHANGES | {"train.epochs": 4}), cache, expect=1)
    assert "train.epochs: 3.0 -> 4.0" in said
    assert "Traceback" not in said


def test_a_second_process_on_the_same_folder_is_refused(tmp_path, cache):
    arguments = command("cnn", tmp_path / "run", CHANGES)
    hold = "from leukjax.training import loop\nimport time\n"
    hold += "def train(*_): print('in', flush=True); time.sleep(600)\n"
    hold += "from leukjax.training import trainer\ntrainer.train_loop = train"
    first = start(with_patch(hold, arguments), cache)
    try:
        assert first.stdout.readline() == "in\n"
        assert "another process is working in it" in finish(arguments, cache, expect=1)
    finally:
        first.kill()
        first.communicate()
