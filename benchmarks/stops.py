"""Sends SIGTERM to runs of two processes at random moments (`soak.py --stops=20`).

In every other trial one process gets the signal, in the rest both. Both must end with status 75 at
the same step, with its checkpoint complete, within 20 s of the signal. In every fifth trial the
signal comes before the first step: the 20 s then begin with the end of that step, because its
compilation cannot be interrupted.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import runs  # the small runs of the tests

SECONDS = 20.0  # limit from the signal to the end
MOMENT = 10.0  # the signal comes within this time of the start or the first step
PATIENCE = 300.0  # for a start
NOT_STARTED = "not started"
STARTS = 5  # attempts of a trial whose run does not start


def stop_runs(folder: Path, stops: int, seed: int, changes: dict) -> Counter:
    """Runs trials; returns counts of outcomes, and the time of the slowest in ms."""
    counts: Counter = Counter()
    for number in range(stops):
        draw = random.Random(f"stop {seed} {number}")
        targets = [draw.randrange(2)] if number % 2 else [0, 1]
        in_start = number % 5 == 4
        after = draw.uniform(0, MOMENT)
        for _ in range(STARTS):
            problem, step, seconds = _trial(folder, changes, targets, after, in_start)
            if problem != NOT_STARTED:
                break
            counts[NOT_STARTED] += 1
        counts["tried"] += 1
        counts["failed" if problem else "stopped"] += 1
        counts["in the start" if in_start else "in training"] += 1
        counts["slowest"] = max(counts["slowest"], round(1000 * seconds))
        print(
            f"[{number + 1}/{stops}] SIGTERM to {targets} {after:.1f} s after "
            f"{'the start' if in_start else 'the first steps'}: stopped at step {step} after "
            f"{seconds:.1f} s{f'; FAILED: {problem}' if problem else ''}",
            flush=True,
        )
    return counts


def verdict(counts: Counter) -> str:
    """Returns one line."""
    again = counts[NOT_STARTED]
    repeated = f"; {again} starts ended before the signal and were repeated" if again else ""
    return (
        f"{counts['tried']} runs of two processes got SIGTERM, {counts['in training']} of them in "
        f"training: {counts['stopped']} ended with status 75 within "
        f"{SECONDS:g} s (slowest {counts['slowest'] / 1000:.1f} s), {counts['failed']} failed"
        f"{repeated}"
    )


def _trial(
    folder: Path, changes: dict, targets: list[int], after: float, in_start: bool
) -> tuple[str, int, float]:
    """Returns the problem or "", the step of the stop, and the seconds to the end."""
    workdir = folder / "stopped"
    shutil.rmtree(workdir, ignore_errors=True)
    endless = changes | {"train.epochs": 100_000, "train.eval_every": "20 steps"}
    processes = start_two(runs.command("cnn", workdir, endless), folder / "cache")
    output: list[list[str]] = [[], []]
    threads = [
        threading.Thread(target=lines.extend, args=(process.stderr,))
        for process, lines in zip(processes, output, strict=True)
    ]
    for thread in threads:
        thread.start()

    def met() -> bool:
        return any(line.startswith("device:") for line in output[0])

    def trained() -> bool:
        return _size(workdir / "metrics.jsonl") > 0

    def stepped() -> bool:
        return _size(workdir / ".reached") > 0

    def ended() -> bool:
        return all(process.poll() is not None for process in processes)

    try:
        _await(lambda: (met() if in_start else trained()) or ended(), PATIENCE)
        time.sleep(after)
        if ended():
            print(*output[0][-1:], end="")
            return NOT_STARTED, 0, 0.0
        for index in targets:
            processes[index].send_signal(signal.SIGTERM)
        _await(lambda: stepped() or ended(), PATIENCE)
        began = time.monotonic()
        _await(ended, 3 * SECONDS)
        seconds = time.monotonic() - began
    finally:
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
    return *_check(workdir, processes, output, seconds), seconds


def _check(
    workdir: Path, processes: list[subprocess.Popen], output: list[list[str]], seconds: float
) -> tuple[str, int]:
    statuses = [process.wait() for process in processes]
    # Not the last lines: JAX may log later that it caught the signal.
    ends = [
        [x.strip() for x in lines if x.startswith(("stopped:", "error:"))][-1:] for lines in output
    ]
    if "Gloo context initialization failed" in str(ends):
        return NOT_STARTED, 0  # XLA gives the processes 30 s to meet, too little on a busy machine
    match = re.search(r"stopped: SIGTERM at step ([0-9]+)", str(ends[0]))
    if statuses != [75, 75] or not match or ends[0] != ends[1]:
        return f"statuses {statuses}, {ends}", 0
    step = int(match[1])
    if step and not (workdir / "checkpoints" / str(step) / "checksums.json").exists():
        return f"no complete checkpoint of step {step}", step
    return "too late" if seconds > SECONDS else "", step


def start_two(arguments: list[str], cache: Path) -> list[subprocess.Popen]:
    """Starts a command as two processes of one run on this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = []
    for index in range(2):
        os.environ.update(variables, JAX_PROCESS_ID=str(index))
        processes.append(runs.start(arguments, cache))
    for name in (*variables, "JAX_PROCESS_ID"):
        del os.environ[name]
    return processes


def _await(event: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not event() and time.monotonic() < deadline:
        time.sleep(0.05)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
