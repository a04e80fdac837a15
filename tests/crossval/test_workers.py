"""A device each; a worker that dies costs its job and nothing else."""

import os
import signal
import sys

import pytest

from leukjax.crossval import job_result, workers
from leukjax.crossval.workers import Workers, environments

# Stands for leukjax.crossval.worker: does what the job says.
FAKE = """
import json, os, signal, sys, time
print(json.dumps({"status": "ready"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["do"] == "die": os.kill(os.getpid(), job["signal"])
    if job["do"] == "leave": sys.exit(3)
    who = f"{os.getpid()} {os.environ['DEVICE']}"
    print(json.dumps({"status": "done", "message": who}), flush=True)
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    real = workers.subprocess.Popen

    def start(command, **options):
        assert command[1:] == ["-m", "leukjax.crossval.worker"]
        return real([sys.executable, fake], **options)

    monkeypatch.setattr(workers.subprocess, "Popen", start)
    with open(os.devnull) as keep:
        pool = Workers([{"DEVICE": "a"}, {"DEVICE": "b"}], tmp_path / "logs", keep.fileno())
        yield pool
        pool.close()


def ended(pool):
    found = []
    while not found:
        found = pool.wait(10)
    return found


def test_each_device_has_a_process_that_stays(pool):
    said = []
    for _ in range(2):
        pool.give(0, "one", {"do": "work"})
        pool.give(1, "two", {"do": "work"})
        assert pool.free == []
        both = {}
        while len(both) < 2:
            both |= dict(ended(pool))
        said.append((both["one"].message, both["two"].message))
        assert pool.free == [0, 1]
    assert said[0] == said[1]
    assert [text.split()[1] for text in said[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("job", "status", "message"),
    [
        (
            {"do": "die", "signal": signal.SIGKILL},
            job_result.FAILED,
            "killed by SIGKILL, perhaps for",
        ),
        ({"do": "die", "signal": signal.SIGSEGV}, job_result.FAILED, "killed by SIGSEGV;"),
        ({"do": "die", "signal": signal.SIGTERM}, job_result.STOPPED, "SIGTERM"),
        ({"do": "leave"}, job_result.FAILED, "ended with status 3"),
    ],
)
def test_a_dead_worker_is_an_answer_and_is_replaced(pool, job, status, message):
    pool.give(0, "bad", job)
    [(name, answer)] = ended(pool)
    assert (name, answer.status) == ("bad", status)
    assert message in answer.message
    pool.give(0, "good", {"do": "work"})
    [(name, answer)] = ended(pool)
    assert (name, answer.status) == ("good", job_result.DONE)


def test_a_process_sees_one_device():
    assert environments("cpu", 2, {}) == [{"JAX_NUM_CPU_DEVICES": "1"}] * 2
    assert environments("gpu", 2, {}) == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    # What a queue gave is what there is.
    given = {"CUDA_VISIBLE_DEVICES": "3,GPU-ab12"}
    names = [env["CUDA_VISIBLE_DEVICES"] for env in environments("gpu", 2, given)]
    assert names == ["3", "GPU-ab12"]
    (tpu,) = environments("tpu", 1, {})
    assert tpu["TPU_VISIBLE_CHIPS"] == "0"
    assert tpu["TPU_PROCESS_BOUNDS"] == "1,1,1"
