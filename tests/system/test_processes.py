"""Two real processes over Gloo: the run of one, stopped together, ended together."""

import json
import signal
import socket
import time

import numpy as np
import pytest
from runs import assert_same_bits, command, finish, metrics, parameters, start, with_patch

from leukjax.metrics import predictions

CHANGES = {
    "model.dropout": 0.3,
    "augment.rotate": 180,
    "optimizer.name": "sgd",  # Adam turns the last bit of a tiny gradient into a whole step
    "optimizer.learning_rate": 0.05,
    "checkpoint.every": "2 steps",
}
AT_STEP = """
from leukjax.training import metric_writer as log
original = log.MetricWriter.step
def at_step(self, step, loss):
    original(self, step, loss)
    if step == {step}: os.kill(os.getpid(), signal.{signal})
log.MetricWriter.step = at_step
"""
# JAX asks every second whether a signal came, and on a busy machine later: so small a run would be
# over by then.
AND_SLOWLY = """
import time
at_step_ = log.MetricWriter.step
def slowly(self, step, loss):
    at_step_(self, step, loss)
    time.sleep(1.5 if step >= 4 else 0)
log.MetricWriter.step = slowly
"""
COUNT_ROWS = """
from leukjax.data import records
original = records.StoredRecords.images
rows = []
def counting(self, wanted):
    rows.append(len(wanted))
    return original(self, wanted)
records.StoredRecords.images = counting
import atexit
atexit.register(lambda: open({path!r}, "w").write(str(sum(rows))))
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def together(
    commands: list[list[str]], cache, monkeypatch, *, indices=None, timeout=150
) -> list[tuple[int, str]]:
    """Start one process for each command; their exit statuses, and what each said on stderr."""
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    processes = []
    for index, arguments in zip(indices or (0, 1), commands, strict=True):
        monkeypatch.setenv("JAX_PROCESS_ID", str(index))
        processes.append(start(arguments, cache))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name)
    try:
        ended = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, err) for p, (_, err) in zip(processes, ended, strict=True)]


def assert_close(ours: list[dict], theirs: list[dict], **tolerance) -> None:
    """Two logs with the same lines and fields, their numbers alike."""
    assert [line["part"] for line in ours] == [line["part"] for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert value == pytest.approx(two[name], **tolerance), name
            else:
                assert value == two[name]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, cache):
    """A run of two processes that nothing disturbed, and how many images each of them read."""
    folder = tmp_path_factory.mktemp("pair")
    commands = [
        with_patch(
            COUNT_ROWS.format(path=str(folder / str(index))),
            command("cnn", folder / "run", CHANGES | {"data.cache": "none"}),
        )
        for index in (0, 1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        ended = together(commands, cache, patch)
    assert [status for status, _ in ended] == [0, 0], ended
    return folder / "run", [int((folder / str(index)).read_text()) for index in (0, 1)]


def test_two_processes_end_with_the_predictions_of_one(tmp_path, cache, pair):
    workdir, read = pair
    finish(command("cnn", tmp_path / "one", CHANGES), cache)
    for part in ("val", "test"):
        ours = predictions.read(workdir / f"predictions/{part}.csv")
        theirs = predictions.read(tmp_path / f"one/predictions/{part}.csv")
        assert ours.id.tolist() == theirs.id.tolist()
        assert ours.probabilities.argmax(1).tolist() == theirs.probabilities.argmax(1).tolist()
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, rtol=1e-3, atol=1e-5)
    assert_close(metrics(tmp_path / "one"), metrics(workdir), rel=1e-3, abs=1e-5)
    data = json.loads((workdir / "data.json").read_text())
    assert data == json.loads((tmp_path / "one" / "data.json").read_text())

    # Every batch is shared in halves; process 0 alone read the training part for its mean, and all
    # images for the baseline of the shortcuts.
    lines = (workdir / "split.csv").read_text().splitlines()[1:]
    count = {part: sum(line.endswith(part) for line in lines) for part in ("train", "val", "test")}
    steps, batches = metrics(workdir)[-1]["step"], {p: -(-count[p] // 16) for p in ("val", "test")}
    evaluations = sum(line["part"] == "val" for line in metrics(workdir)) + 1
    own = 8 * (steps + evaluations * batches["val"] + batches["test"])
    assert read == [own + count["train"] + sum(count.values()), own]


def test_sigterm_on_one_stops_both_at_the_same_step(tmp_path, cache, monkeypatch):
    _stop_both(tmp_path, cache, monkeypatch)


@pytest.mark.slow
def test_stopped_by_sigterm_both_resume_to_the_same_bits(tmp_path, cache, pair, monkeypatch):
    plain = _stop_both(tmp_path, cache, monkeypatch)
    ended = together([plain, plain], cache, monkeypatch)
    assert [status for status, _ in ended] == [0, 0], ended
    assert "resuming from step" in ended[0][1]
    assert_same_bits(pair[0], tmp_path / "run")


def _stop_both(tmp_path, cache, monkeypatch) -> list[str]:
    """A run of two processes of which one gets SIGTERM; returns the command of each."""
    plain = command("cnn", tmp_path / "run", CHANGES)
    stopped = with_patch(AT_STEP.format(step=4, signal="SIGTERM") + AND_SLOWLY, plain)
    ended = together([plain, stopped], cache, monkeypatch)
    assert [status for status, _ in ended] == [75, 75], ended
    # Not the last lines: JAX may say later that it caught the signal.
    assert all("stopped:" in err for _, err in ended)
    said = {x for _, err in ended for x in err.splitlines() if x.startswith("stopped:")}
    assert len(said) == 1
    assert "stopped: SIGTERM at step" in said.pop()
    return plain


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_one_is_killed_the_other_ends_and_both_can_go_on(
    tmp_path, cache, victim, monkeypatch, request
):
    plain = command("cnn", tmp_path / "run", CHANGES)
    commands = [plain, plain]
    commands[victim] = with_patch(AT_STEP.format(step=7, signal="SIGKILL"), plain)
    began = time.monotonic()
    ended = together(commands, cache, monkeypatch, timeout=90)
    assert time.monotonic() - began < 60 + 30  # the start takes its time too
    assert ended[victim][0] == -signal.SIGKILL
    status, said = ended[1 - victim]
    assert status == 75, said
    assert f"stopped: process {victim} of 2 was lost" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "stack trace" not in said
    if victim:
        ended = together([plain, plain], cache, monkeypatch)
        assert [status for status, _ in ended] == [0, 0], ended
        assert_same_bits(request.getfixturevalue("pair")[0], tmp_path / "run")


def test_an_error_of_one_ends_both_with_its_message(tmp_path, cache, monkeypatch):
    (tmp_path / "file").write_text("")
    refused = command("cnn", tmp_path / "file" / "run", CHANGES)
    ended = together([refused, refused], cache, monkeypatch)
    assert [status for status, _ in ended] == [1, 1]
    folder = tmp_path / "file" / "run"
    assert f"error: {folder}: cannot be written" in ended[0][1]
    assert f"error: process 0 of 2: {folder}: cannot be written" in ended[1][1]

    ours = command("cnn", tmp_path / "run", CHANGES)
    theirs = command("cnn", tmp_path / "run", CHANGES | {"train.epochs": 4})
    ended = together([ours, theirs], cache, monkeypatch)
    assert [status for status, _ in ended] == [1, 1]
    for _, said in ended:
        assert "train.epochs: 3.0 -> 4.0" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_peers_that_never_come(tmp_path, cache, index, monkeypatch):
    alone = command("cnn", tmp_path / "run", {"runtime.timeout": 4})
    began = time.monotonic()
    [(status, said)] = together([alone], cache, monkeypatch, indices=[index])
    assert time.monotonic() - began < 40
    assert status == 1, said
    last = said.splitlines()[-1]
    assert last.startswith("error: JAX_COORDINATOR_ADDRESS=127.0.0.1:")
    assert "runtime.timeout=4 s" in last
    assert "Traceback" not in said


def test_an_incomplete_environment(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    said = finish(command("cnn", tmp_path / "run"), cache, expect=1)
    assert "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES missing" in said


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_on_one_and_the_reverse(tmp_path, cache):
    # Ten steps differ by 4e-6 of the largest number. In the eleventh a sum that differs in its
    # last bit falls on the other side of a ReLU, and a gradient changes by a thousandth.
    changes = CHANGES | {"train.epochs": 2}
    finish(command("cnn", tmp_path / "whole", changes), cache)
    stop = AT_STEP.format(step=5, signal="SIGTERM")
    for name, devices, sharded in (("down", (8, 1), True), ("up", (1, 8), True)):
        arguments = command("cnn", tmp_path / name, changes | {"mesh.fsdp": sharded})
        finish(with_patch(stop, arguments), cache, devices=devices[0], expect=75)
        said = finish(arguments, cache, devices=devices[1])
        assert "resuming from step 6" in said
        ours, theirs = parameters(tmp_path / name), parameters(tmp_path / "whole")
        for key in theirs:
            largest = np.max(np.abs(theirs[key]), initial=0)
            np.testing.assert_allclose(
                ours[key], theirs[key], rtol=0, atol=1e-4 * largest, err_msg=key
            )
        assert_close(metrics(tmp_path / name), metrics(tmp_path / "whole"), rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_pixels_on_the_devices_of_two_processes(tmp_path, cache, pair, shared, monkeypatch):
    """Whole on each or half on each, two steps a call: the bits of batches that were streamed."""
    half = 24 * 24 * 3 * 100 / 1e9  # more than half of the records, less than all
    device = {"data.cache": "device", "train.steps_per_call": 2}
    device |= {"data.device_gb": half} if shared else {}
    own = command("cnn", tmp_path / "run", CHANGES | device)
    ended = together([own, own], cache, monkeypatch, timeout=400)
    assert [status for status, _ in ended] == [0, 0], ended
    assert ("GB of images over 2" in ended[0][1]) == shared
    assert_same_bits(pair[0], tmp_path / "run")
