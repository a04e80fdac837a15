"""A process that does one job after another on one device.

Jobs come as lines of JSON on standard input, answers go as lines to standard output; all that a
job says goes to its own file. One process for many jobs, so that one compilation serves all folds
and seeds of a config; a process of its own, so that a job that dies takes nothing with it.
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
from leukjax.crossval import held_out, job_result, trials
from leukjax.crossval.job_result import Answer
from leukjax.errors import Diverged, Stopped, UserError
from leukjax.report import run_report
from leukjax.training.trainer import train

FLAGS = flags.FlagValues()


def do(job: dict[str, Any]) -> None:
    """Do one job: a run, a trial, or the opening of the held-out part.

    A run ends with its out-of-fold part scored, its summary and figures written; a trial is judged
    by validation alone.
    """
    if job["kind"] == "held_out":
        folders = [Path(folder) for folder in job["folders"]]
        held_out.score(Path(job["study"]), job["model"], folders, list(job["places"].items()))
        return
    config, folder = ConfigDict(job["config"]), Path(job["folder"])
    if job["kind"] == "run":
        run_report.write_and_print(train(config, folder))
        return
    try:
        outcome = train(config, folder, score=())
    except Diverged as error:
        trials.write_divergence(folder, str(error))
        raise
    trials.write_result(folder, config.checkpoint.metric, outcome.best_step)


def answer(job: dict[str, Any]) -> Answer:
    """Do one job; whatever goes wrong in it is part of the answer."""
    began = time.perf_counter()
    status, message = job_result.DONE, ""
    try:
        do(job)
    except Stopped as stop:
        status, message = job_result.STOPPED, str(stop)
    except Diverged as error:
        status, message = job_result.DIVERGED, str(error)
    except UserError as error:
        status, message = job_result.FAILED, str(error)
    except Exception as error:
        traceback.print_exc()
        line = storage.describe_failure(error) or f"{type(error).__name__}: {error}"
        status, message = job_result.FAILED, line
    message = " ".join(message.split())
    if message:
        print(f"{status}: {message}", file=sys.stderr)
    sys.stdout.flush()  # an idle worker ends without ceremony
    return Answer(status, message, round(time.perf_counter() - began, 3))


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Answer until standard input ends."""
    back = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study decides, and sends SIGTERM
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(jobs, busy), daemon=True).start()
    print(json.dumps(dataclasses.asdict(Answer(job_result.READY))), file=back)
    while True:
        job = jobs.get()
        _say_to(Path(job["log"]))
        given = answer(job)
        busy.clear()
        print(json.dumps(dataclasses.asdict(given)), file=back)
        if given.status == job_result.STOPPED:
            raise Stopped(given.message)


def _read(jobs: "queue.Queue[dict[str, Any]]", busy: threading.Event) -> None:
    """Take jobs as they come. The input ends with the study, however that ended: save and stop."""
    text = b""
    while chunk := os.read(0, 1 << 16):
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            busy.set()
            jobs.put(json.loads(line))
    if not busy.is_set():
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def _say_to(path: Path) -> None:
    """Standard output and error go to the end of this file from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    command.run(main, FLAGS, doc=__doc__)
