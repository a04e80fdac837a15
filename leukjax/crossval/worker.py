"""A worker process, which does one job after another on one device.

Reads jobs as lines of JSON from standard input and writes results as lines to standard output; the
output of a job goes to its own log file. One process does many jobs, so that one compilation serves
all folds and seeds of a config; a job that crashes ends only its own worker.
"""

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from leukjax import command, storage
from leukjax.crossval import results, trials, workers
from leukjax.crossval.workers import JobResult
from leukjax.errors import Diverged, Stopped, UserError
from leukjax.training.run_report import write_report
from leukjax.training.trainer import train

FLAGS = flags.FlagValues()


def run_job(job: dict[str, Any]) -> JobResult:
    """Does one job, and returns how it ended; catches every exception."""
    began = time.perf_counter()
    status, message = workers.DONE, ""
    try:
        _do(job)
    except Stopped as stop:
        status, message = workers.STOPPED, str(stop)
    except Diverged as error:
        status, message = workers.DIVERGED, str(error)
    except UserError as error:
        status, message = workers.FAILED, str(error)
    except Exception as error:
        traceback.print_exc()
        status = workers.FAILED
        message = storage.describe_failure(error) or f"{type(error).__name__}: {error}"
    message = " ".join(message.split())
    if message:
        print(f"{status}: {message}", file=sys.stderr)
    sys.stdout.flush()  # an idle worker ends by os._exit
    return JobResult(status, message, round(time.perf_counter() - began, 3))


def _do(job: dict[str, Any]) -> None:
    """Does one job: a run, a trial, or an access to the held-out split.

    A run ends with its out-of-fold split evaluated, its summary and its figures; a trial is
    evaluated on validation alone.
    """
    if job["kind"] == "held_out":
        folders = [Path(folder) for folder in job["folders"]]
        results.predict_held_out(
            Path(job["study"]), job["model"], folders, list(job["machine_fields"].items())
        )
        return
    config, folder = ConfigDict(job["config"]), Path(job["folder"])
    if job["kind"] == "run":
        print(write_report(train(config, folder)))
        return
    try:
        outcome = train(config, folder, score=())
    except Diverged as error:
        trials.write_divergence(folder, str(error))
        raise
    trials.write_result(folder, config.checkpoint.metric, outcome.best_step)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Does jobs until standard input ends."""
    reports = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # other output must not look like a result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study decides, and sends SIGTERM
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(jobs, busy), daemon=True).start()
    print(json.dumps(dataclasses.asdict(JobResult(workers.READY))), file=reports)
    while True:
        job = jobs.get()
        _redirect_output(Path(job["log"]))
        result = run_job(job)
        busy.clear()
        print(json.dumps(dataclasses.asdict(result)), file=reports)
        if result.status == workers.STOPPED:
            raise Stopped(result.message)


def _read(jobs: "queue.Queue[dict[str, Any]]", busy: threading.Event) -> None:
    """Queues jobs as they arrive. The input ends when the study does: then saves and stops."""
    text = b""
    while chunk := os.read(0, 1 << 16):
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            busy.set()
            jobs.put(json.loads(line))
    if not busy.is_set():
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def _redirect_output(path: Path) -> None:
    """Appends standard output and error to this file from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    command.run(main, FLAGS, doc=__doc__)
