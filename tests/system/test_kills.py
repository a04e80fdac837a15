"""Killed at random moments and at chosen ones, a run ends with the bits of one that never was."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from runs import REPOSITORY, assert_same_bits, command, finish, parameters, with_patch

CHANGES = {"model.dropout": 0.3, "checkpoint.every": "2 steps"}

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
DURING_PREPARATION = f"""
from leukjax.data import preprocess
original, calls = preprocess.process, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == 60: {KILL}
    return original(*arguments)
preprocess.process = dying
"""
DURING_EVALUATION = f"""
from leukjax.training import loop
original = loop.predict
def dying(run, state, part):
    if int(state.step) == 10: {KILL}
    return original(run, state, part)
import jax
loop.predict = lambda *rest: [jax.config.update("jax_transfer_guard", "allow"), dying(*rest)][1]
"""
BETWEEN_TWO_LINES_OF_THE_LOG = f"""
from leukjax.training import metric_writer as log
original = log.MetricWriter.write
def dying(self, record):
    original(self, record)
    if record["step"] == 10 and record["part"] == "train": {KILL}
log.MetricWriter.write = dying
"""
WHILE_AN_OLD_CHECKPOINT_IS_REMOVED = f"""
import shutil
original = shutil.rmtree
def dying(path, *rest, **options):
    if "removed-" in str(path):
        next(p for p in sorted(path.rglob("*")) if p.is_file()).unlink()
        {KILL}
    return original(path, *rest, **options)
shutil.rmtree = dying
"""
DURING_THE_REPORT = f"""
from leukjax.training import run_report
def dying(*_): {KILL}
run_report.write_figures = dying
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "fresh"),
    [
        pytest.param(DURING_PREPARATION, True, id="preparation"),
        pytest.param(DURING_EVALUATION, False, id="evaluation"),
        pytest.param(BETWEEN_TWO_LINES_OF_THE_LOG, False, id="log"),
        pytest.param(WHILE_AN_OLD_CHECKPOINT_IS_REMOVED, False, id="removal"),
        pytest.param(DURING_THE_REPORT, False, id="report"),
    ],
)
def test_killed_at_a_chosen_moment(tmp_path, cache, whole, patch, fresh):
    own = tmp_path / "cache" if fresh else cache
    arguments = command("cnn", tmp_path / "run", CHANGES)
    finish(with_patch(patch, arguments), own, expect=-signal.SIGKILL)
    finish(arguments, own)
    assert_same_bits(whole, tmp_path / "run")
    if fresh:
        assert not list(own.rglob(".*.tmp"))


def _soak(tmp_path, *arguments: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "benchmarks" / "soak.py"),
            f"--folder={tmp_path / 'soak'}",
            f"--results={tmp_path / 'soak.csv'}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_ten_kills_at_random_moments_and_some_flipped_bytes(tmp_path):
    said = _soak(tmp_path, "--kills=10", "--flips=21", "--seed=1")
    assert "kills: 10 kills of " in said
    assert " 0 different, 0 failed" in said
    assert "flips: 21 bytes flipped: 21 detected" in said
    assert len((tmp_path / "soak.csv").read_text().splitlines()) == 3
    # The same command again finds its work done.
    assert "] run" not in _soak(tmp_path, "--kills=10", "--seed=1")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, cache):
    changes = CHANGES | {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1000,
        "optimizer.weight_decay": 1000,
        "optimizer.warmup": "6 steps",
        "checkpoint.every": "1 steps",
    }
    arguments = command("cnn", tmp_path / "run", changes)
    said = finish(arguments, cache, expect=1)
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: the gradient norm is ")  # a step before the loss shows it
    assert " at step " in last
    assert "learning rate " in last
    step = int(last.split(" at step ")[1].split(",")[0])
    kept = {int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()}
    assert kept
    assert max(kept) < step
    assert last.endswith(f"the last good checkpoint is {tmp_path / 'run/checkpoints'}/{max(kept)}")
    assert all(np.isfinite(value).all() for value in parameters(tmp_path / "run").values())
    # It would end there again, from the checkpoint before it.
    assert f"at step {step}, learning rate" in finish(arguments, cache, expect=1)


@pytest.mark.slow
@pytest.mark.long
def test_soak_of_stopped_processes(tmp_path):
    said = _soak(tmp_path, "--kills=0", "--stops=3", "--seed=1")
    assert "3 runs of two processes got SIGTERM" in said
    assert "3 ended with status 75 within 20 s" in said
