"""One worker per device; a worker that dies costs only its job."""

import json
import os
import signal
import subprocess
import sys

import pytest

from leukjax.crossval import workers
from leukjax.crossval.workers import Workers, environments

# In place of leukjax.crossval.worker: does what the job says.
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
        assert command[1:] == ["-m", "leukjax.crossval.worker", "--import=my_net.py"]
        return real([sys.executable, fake], **options)

    monkeypatch.setattr(workers.subprocess, "Popen", start)
    with open(os.devnull) as keep:
        pool = Workers([{"DEVICE": "a"}, {"DEVICE": "b"}], tmp_path / "logs", keep.fileno(),
                       ["my_net.py"])  # fmt: skip
        yield pool
        pool.close()


def ended(pool):
    results = []
    while not results:
        results = pool.wait(10)
    return results


def test_each_device_keeps_its_process(pool):
    messages = []
    for _ in range(2):
        pool.give(0, "one", {"do": "work"})
        pool.give(1, "two", {"do": "work"})
        assert pool.free == []
        both = {}
        while len(both) < 2:
            both |= dict(ended(pool))
        messages.append((both["one"].message, both["two"].message))
        assert pool.free == [0, 1]
    assert messages[0] == messages[1]
    assert [text.split()[1] for text in messages[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("job", "status", "message"),
    [
        (
            {"do": "die", "signal": signal.SIGKILL},
            workers.FAILED,
            "killed by SIGKILL, perhaps because",
        ),
        ({"do": "die", "signal": signal.SIGSEGV}, workers.FAILED, "killed by SIGSEGV;"),
        ({"do": "die", "signal": signal.SIGTERM}, workers.STOPPED, "SIGTERM"),
        ({"do": "leave"}, workers.FAILED, "ended with status 3"),
    ],
)
def test_a_dead_worker_is_reported_and_replaced(pool, job, status, message):
    pool.give(0, "bad", job)
    [(name, result)] = ended(pool)
    assert (name, result.status) == ("bad", status)
    assert message in result.message
    pool.give(0, "good", {"do": "work"})
    [(name, result)] = ended(pool)
    assert (name, result.status) == ("good", workers.DONE)


def test_a_process_sees_one_device():
    assert environments("cpu", 2, {}) == [{"JAX_NUM_CPU_DEVICES": "1"}] * 2
    assert environments("gpu", 2, {}) == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1"},
    ]
    # Devices that the queue has hidden stay hidden.
    given = {"CUDA_VISIBLE_DEVICES": "3,GPU-ab12"}
    names = [env["CUDA_VISIBLE_DEVICES"] for env in environments("gpu", 2, given)]
    assert names == ["3", "GPU-ab12"]
    (tpu,) = environments("tpu", 1, {})
    assert tpu["TPU_VISIBLE_CHIPS"] == "0"
    assert tpu["TPU_PROCESS_BOUNDS"] == "1,1,1"


# A job that notes SIGTERM but does not look at it again, as after the last step of a training.
LAST_STEP = """
import signal, time
from leukjax.crossval import worker

def job(message):
    time.sleep(1)
    return worker.JobResult("done")

signal.signal(signal.SIGTERM, lambda *_: None)
worker.run_job = job
worker.main([], [], [])
"""


def test_a_worker_ends_with_its_study_even_if_a_job_does_not_notice_the_signal(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", LAST_STEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    job = json.dumps({"log": str(tmp_path / "log.txt")})
    process.communicate(job.encode() + b"\n", timeout=120)  # closes standard input
    assert process.returncode == 0
