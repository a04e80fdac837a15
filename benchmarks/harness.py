"""Interleaved measurement of contenders, each a process of its own that lives through all rounds.

A contender compiles and warms up once, then runs one timed round whenever it is told to. Rounds
interleave (ours, peer, ours, peer …), so that a machine that slows down slows all alike; ratios are
taken within a round. Only the standard library is needed: contenders import this file in the
peers' environment too (``benchmarks/peers.sh`` makes it).

A benchmark:

    ours = Contender("leukjax", "contender_leukjax.py", spec)
    theirs = Contender("timm", "contender_torch.py", spec, python=peers_python())
    with running([ours, theirs]) as field:
        results = interleave(field, rounds=5)
    print(verdict("ResNet-50 training", "images_per_second", results, ours="leukjax"))
    append("train_step", rows(results, "images_per_second", ours="leukjax", about=spec))

A contender: ``serve(prepare)``, where ``prepare(spec)`` compiles and warms up and gives back what
is known now (``versions``, ``device``, …) and a function that runs one round and answers numbers.
"""

import contextlib
import csv
import datetime
import functools
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
# Where rows go; run_all.sh gives a folder of its own.
RESULTS = Path(os.environ.get("LEUKJAX_RESULTS") or REPOSITORY / "benchmarks" / "results")
FIRST_COLUMNS = ("date", "commit", "device", "versions", "contender", "precision", "batch")

Round = Callable[[], dict[str, float]]
Results = dict[str, list[dict[str, Any]]]  # contender -> an answer a round


class Failed(Exception):
    """A contender died, or said that it cannot run."""


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def spread(values: list[float]) -> Spread:
    """Median and quartiles (linear between the values, as NumPy's default)."""
    if len(values) == 1:
        return Spread(*values * 3)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Of ours to theirs, round by round: what slows a whole round cancels."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def peers_python() -> str | None:
    """The interpreter of the peers' environment: $LEUKJAX_PEERS, else .venv-peers here; or None."""
    folder = Path(os.environ.get("LEUKJAX_PEERS") or REPOSITORY / ".venv-peers")
    python = folder / "bin" / "python"
    return str(python) if python.exists() else None


def python_path() -> str:
    """$PYTHONPATH with the repository first."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


class Contender:
    """A process that measures one thing on demand.

    Args:
      name: in tables.
      script: a file of this folder that ends in ``serve``.
      spec: what to measure; given to the script as JSON.
      python: its interpreter; None = the one that runs this.
      environment: variables set for it alone.
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
        self.about: dict[str, Any] = {}  # what it said when it was ready
        file = Path(script) if os.path.isabs(script) else REPOSITORY / "benchmarks" / script
        self._command = [python or sys.executable, str(file), json.dumps(spec)]
        self._environment = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    def start(self, patience: float = 900.0) -> None:
        """Start it and wait until it has compiled and warmed up; at most `patience` seconds."""
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
        """One timed round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # dead already: the answer says why
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        return self._answer(patience)

    def stop(self) -> None:
        """End it."""
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
            words = self._log.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"{self.name}: ended; {words[-1] if words else 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def running(contenders: list[Contender]) -> Iterator[list[Contender]]:
    """Start them one after the other; who fails is left out with a line. All end with the block."""
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
    """So many rounds of each, in turn; every answer also holds what the contender is.

    Who fails on the way is left out of the results, with a line.
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


def serve(prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], Round]]) -> None:
    """Be a contender: read the spec, get ready, answer one JSON line a round until told no more.

    Whatever is printed goes to the error stream: the answers have the output to themselves.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begun = time.perf_counter()
    about, run = prepare(json.loads(sys.argv[1]))
    about = {"seconds_to_ready": time.perf_counter() - begun, **about}
    answers.write(json.dumps(about) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(run()) + "\n")


def repeated(
    step: Callable[[], Any],
    wait: Callable[[Any], Any],
    seconds: float,
    wait_each: bool = False,
) -> Round:
    """A round that repeats `step` for about so many seconds.

    It answers ``seconds`` a step, and ``core_seconds``: what all threads of the process computed
    (or spun) in them, which tells more than the clock where others use the machine too.

    Args:
      step: starts the work; may return before it is done.
      wait: returns once the result of the last `step`, given to it, is there.
      wait_each: wait for every result before the next step (latency), not for the last alone.
    """
    for _ in range(2):  # compilation, then the first run at full speed
        wait(step())
    begun = time.perf_counter()
    wait(step())
    repeats = max(1, round(seconds / (time.perf_counter() - begun)))

    def run() -> dict[str, float]:
        begun, computed = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            result = step()
            if wait_each:
                wait(result)
        wait(result)
        return {
            "seconds": (time.perf_counter() - begun) / repeats,
            "core_seconds": (time.process_time() - computed) / repeats,
            "steps": repeats,
        }

    return run


def host_memory() -> int:
    """Peak bytes of this process in host memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_memory(device: Any) -> int:
    """Peak bytes of a JAX device where it counts them, else of this process in host memory."""
    counted = device.memory_stats() or {}
    return int(counted.get("peak_bytes_in_use") or host_memory())


def with_memory(run: Round, memory: Callable[[], int]) -> Round:
    """The round, answering its ``peak_memory`` in bytes too."""
    return lambda: {**run(), "peak_memory": memory()}


@functools.cache
def commit() -> str:
    """Short hash of the checkout, with ``+`` where files were changed; empty outside git."""
    git = ["git", "-C", str(REPOSITORY)]
    hashed = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"],
        capture_output=True,
        text=True,
    )
    return hashed.stdout.strip() + ("+" if changed.stdout.strip() else "")


def rows(results: Results, measure: str, ours: str, about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a contender: the measure's median and quartiles, and the ratio of ours to it.

    Args:
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
    """Add rows to ``results/NAME.csv``; a column that is new is empty in the old rows."""
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
    """One line: ours, and its ratio to every other contender, each with its quartiles."""
    if ours not in results:
        return f"{title}: {ours} did not run"
    mine = [answer[measure] for answer in results[ours]]
    words = [f"{title}: {ours} {spread(mine)} {measure.replace('_', ' ')}"]
    for name, answers in results.items():
        if name != ours:
            words.append(f"{ratio(mine, [a[measure] for a in answers])} x {name}")
    if len(results) == 1:
        words.append("no peer beside it")
    return ", ".join(words)
