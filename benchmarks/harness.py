"""Interleaved measurement of contenders, each in a process that stays alive for all rounds.

A contender compiles and warms up once, then runs one timed round per request. Rounds interleave
(ours, peer, ours, peer …), so that a machine that slows down slows all of them; ratios are taken
within a round. Only the standard library is needed: contenders also import this file in the peers'
environment (``benchmarks/peers.sh`` makes it).

    ours = Contender("leukjax", "contender_leukjax.py", spec)
    theirs = Contender("timm", "contender_torch.py", spec, python=peers_python())
    results = measure([ours, theirs], rounds=5)
    print(verdict("ResNet-50 training", "images_per_second", results, ours="leukjax"))
    append("train_step", rows(results, "images_per_second", ours="leukjax", about=spec))

A contender calls ``serve(prepare)``: ``prepare(spec)`` compiles, warms up, and returns facts
(``versions``, ``device``, …) and a function that runs one round and returns numbers.
"""

import contextlib
import csv
import datetime
import functools
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
# Folder of the CSV files; accelerator.sh sets its own.
RESULTS = Path(os.environ.get("LEUKJAX_RESULTS") or REPOSITORY / "benchmarks" / "results")
MOST_TOUCHED = 12 * 2**30  # bytes
FIRST_COLUMNS = ("date", "commit", "device", "versions", "contender", "precision", "batch")

Round = Callable[[], dict[str, float]]
Results = dict[str, list[dict[str, Any]]]  # contender -> one answer per round


class Failed(Exception):
    """A contender died, or cannot run."""


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def spread(values: list[float]) -> Spread:
    """Returns median and quartiles (linear interpolation, NumPy's default)."""
    if len(values) == 1:
        return Spread(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Returns the ratio of ours to theirs by round: what slows a whole round cancels."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def peers_python() -> str | None:
    """Returns the peers' interpreter: in $LEUKJAX_PEERS, else .venv-peers; None if missing."""
    folder = Path(os.environ.get("LEUKJAX_PEERS") or REPOSITORY / ".venv-peers")
    python = folder / "bin" / "python"
    return str(python) if python.exists() else None


def python_path() -> str:
    """Returns $PYTHONPATH with the repository first."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


class Contender:
    """A process that measures one thing on demand.

    Args:
      name: in tables.
      script: a file of this folder that calls ``serve``.
      spec: what to measure; given to the script as JSON.
      python: its interpreter; None = the one that runs this.
      environment: variables for its process.
    """

    def __init__(
        self,
        name: str,
        script: str,
        spec: dict[str, Any],
        python: str | None = None,
        environment: dict[str, str] | None = None,
    ):
        self.name = name
        self.about: dict[str, Any] = {}  # its first answer
        file = Path(script) if os.path.isabs(script) else REPOSITORY / "benchmarks" / script
        self._command = [python or sys.executable, str(file), json.dumps(spec)]
        self._environment = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    def start(self, patience: float = 900.0) -> None:
        """Starts it and waits until it has compiled and warmed up; at most `patience` seconds."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.about = self._answer(patience)

    def round(self, patience: float = 600.0) -> dict[str, Any]:
        """Runs one timed round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # dead: the answer holds the reason
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        return self._answer(patience)

    def stop(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _read(self) -> None:
        for line in self._process.stdout:  # type: ignore[union-attr]
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, patience: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise Failed(f"{self.name}: no answer in {patience:.0f} s") from None
        if not line:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"{self.name}: ended; {lines[-1] if lines else 'no message'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@functools.cache
def touch_memory() -> None:
    """Writes to most of the free memory, at most `MOST_TOUCHED`, and frees it; once per process.

    A virtual machine may get memory from its host only when it first writes to it, which takes
    long (30 s on one of ours), and in pages that are slower ever after. Without this the contender
    that starts first has such memory: it ran 3 to 8 % slower than the same one started second.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return  # not Linux
    size = min(free * 1024 * 4 // 5, MOST_TOUCHED)
    # In a process of its own: contenders inherit the peak memory of this one. It may fail, for
    # instance where a container has less memory than the machine.
    subprocess.run([sys.executable, "-c", f"b'1' * {size}"], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def running(contenders: list[Contender]) -> Iterator[list[Contender]]:
    """Starts contenders one by one; one that fails is left out with a line. The block ends all."""
    started: list[Contender] = []
    alive: list[Contender] = []
    try:
        for contender in contenders:
            started.append(contender)
            try:
                contender.start()
                alive.append(contender)
            except Failed as error:
                print(f"left out: {error}", file=sys.stderr)
        yield alive
    finally:
        for contender in started:
            contender.stop()


def interleave(field: list[Contender], rounds: int) -> Results:
    """Runs `rounds` of each, in turn; every answer also holds the contender's first answer.

    A contender that fails is left out of the results, with a line.
    """
    results: Results = {contender.name: [] for contender in field}
    for _ in range(rounds):
        for contender in field:
            if contender.name not in results:
                continue
            try:
                results[contender.name].append({**contender.about, **contender.round()})
            except Failed as error:
                print(f"left out: {error}", file=sys.stderr)
                del results[contender.name]
    return results


def measure(contenders: list[Contender], rounds: int, touch: bool = True) -> Results:
    """Starts contenders, runs interleaved rounds, ends them.

    Args:
      contenders: what is compared.
      rounds: of each.
      touch: call `touch_memory` before; a short run, or one on an accelerator, goes without.
    """
    if touch:
        touch_memory()
    with running(contenders) as alive:
        return interleave(alive, rounds)


def start(main: Callable[[list[str]], Any], prepare: Callable[[dict[str, Any]], Any]) -> None:
    """Runs a benchmark that is its own contender: with a JSON spec it serves, else `main` runs."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        serve(prepare)
    else:
        from absl import app

        app.run(main)


def serve(prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], Round]]) -> None:
    """Serves as a contender: reads the spec, warms up, writes one line of JSON per round.

    Prints of libraries go to standard error: standard output holds the answers only.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    began = time.perf_counter()
    about, run = prepare(json.loads(sys.argv[1]))
    about = {"seconds_to_ready": time.perf_counter() - began, **about}
    answers.write(json.dumps(about) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(run()) + "\n")


def repeated(
    step: Callable[[], Any],
    wait: Callable[[Any], Any],
    seconds: float,
    wait_each: bool = False,
) -> Round:
    """Returns a round that repeats `step` for about `seconds`.

    It answers ``seconds`` per step, and ``core_seconds``: processor time of all threads per step,
    which varies less than the clock on a shared machine.

    Args:
      step: starts the work; may return before it is done.
      wait: blocks until the result of `step` is complete.
      wait_each: wait for every result before the next step (latency), not only for the last.
    """
    for _ in range(2):  # compilation, then the first run at full speed
        wait(step())
    began = time.perf_counter()
    wait(step())
    repeats = max(1, round(seconds / (time.perf_counter() - began)))

    def run() -> dict[str, float]:
        began, computed = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            result = step()
            if wait_each:
                wait(result)
        wait(result)
        return {
            "seconds": (time.perf_counter() - began) / repeats,
            "core_seconds": (time.process_time() - computed) / repeats,
            "steps": repeats,
        }

    return run


def paced(
    fetch: Callable[[], Any],
    batch: int,
    seconds: float,
    wait: Callable[[Any], Any] = lambda result: None,
) -> Round:
    """Returns a round that fetches batches for `seconds`, after one of a second to warm up.

    It answers images per second and per second of processor time.

    Args:
      fetch: returns the next batch; its work may still be running.
      batch: images per batch.
      seconds: length of a round.
      wait: blocks until a batch is complete; every eighth is waited for, and the last.
    """

    def run(length: float = seconds) -> dict[str, float]:
        began, computed, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() - began < length:
            result = fetch()
            count += 1
            if count % 8 == 0:
                wait(result)
        wait(result)
        return {
            "images_per_second": count * batch / (time.perf_counter() - began),
            "images_per_core_second": count * batch / max(1e-3, cpu_seconds() - computed),
        }

    run(1.0)
    return run


def host_memory() -> int:
    """Returns the peak bytes of this process in host memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_memory(device: Any) -> int:
    """Returns the peak bytes of a JAX device if it counts them, else of this process."""
    counted = device.memory_stats() or {}
    return int(counted.get("peak_bytes_in_use") or host_memory())


def with_memory(run: Round, memory: Callable[[], int]) -> Round:
    """Returns the round with ``peak_memory`` in bytes in its answers."""
    return lambda: {**run(), "peak_memory": memory()}


def cpu_seconds() -> float:
    """Returns the processor time of this process and of its living children, all threads."""
    pid, ticks = str(os.getpid()), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if pid in (folder.name, fields[1]):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def anonymous_memory() -> int:
    """Returns the resident bytes of this process, without those of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def versions(*names: str) -> str:
    """Returns ``jax 0.10.2 numpy 2.4.6``."""
    return " ".join(f"{name} {metadata.version(name)}" for name in names)


def processor() -> str:
    """Returns the processor's name and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]} ({os.cpu_count()} cores)"


@functools.cache
def commit() -> str:
    """Returns the short hash of the checkout, with ``+`` if files differ; "" outside git."""
    git = ["git", "-C", str(REPOSITORY)]
    hashed = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"],
        capture_output=True,
        text=True,
    )
    return hashed.stdout.strip() + ("+" if changed.stdout.strip() else "")


def rows(results: Results, measure: str, ours: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per contender: median and quartiles of the measure, and our ratio to it.

    Args:
      results: of `interleave`.
      measure: a key of the answers.
      ours: the contender whose ratio to the others is taken.
      about: columns that all rows share, as model, precision, batch, image_size.
    """
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    table = []
    for name, answers in results.items():
        values = [answer[measure] for answer in answers]
        row = {"date": date, "commit": commit(), "contender": name, **about, "measure": measure}
        row |= {key: answers[-1][key] for key in answers[-1] if key != measure}
        row |= {"rounds": len(values), **_rounded(spread(values))}
        if ours in results and name != ours:
            mine = [answer[measure] for answer in results[ours]]
            row |= {f"ours_ratio_{k}": v for k, v in _rounded(ratio(mine, values)).items()}
        table.append(row)
    return table


def _rounded(values: Spread) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values._asdict().items()}


def append(name: str, new: list[dict[str, Any]], folder: Path = RESULTS) -> Path:
    """Adds rows to ``results/NAME.csv``; a new column is empty in the old rows."""
    file = folder / f"{name}.csv"
    old: list[dict[str, Any]] = []
    if file.exists():
        with file.open(newline="") as lines:
            old = list(csv.DictReader(lines))
    table = old + new
    columns = dict.fromkeys(key for row in table for key in row)
    if not old:
        first = [key for key in FIRST_COLUMNS if key in columns]
        columns = dict.fromkeys([*first, *columns])
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    part.replace(file)
    return file


def verdict(title: str, measure: str, results: Results, ours: str) -> str:
    """Returns one line: ours, and its ratio to every other contender, with quartiles."""
    if ours not in results:
        return f"{title}: {ours} did not run"
    mine = [answer[measure] for answer in results[ours]]
    parts = [f"{title}: {ours} {spread(mine)} {measure.replace('_', ' ')}"]
    for name, answers in results.items():
        if name != ours:
            parts.append(f"{ratio(mine, [a[measure] for a in answers])} x {name}")
    if len(results) == 1:
        parts.append("no peer")
    return ", ".join(parts)
