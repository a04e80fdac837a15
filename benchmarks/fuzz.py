"""Runs leukjax's commands on damaged inputs; each must succeed or fail with one line.

python benchmarks/fuzz.py --count=2000 --seed=0
python benchmarks/fuzz.py --count=200 --seed=3 --kind=run,hostile

Every case damages one kind of input at random and runs a command on it: images, tables, zips,
folders, config files, fields, the cache or weights before training; data sets in a table, an .npz
or Parquet (--kind=tables, which ends after the images are read); files of a finished run
(--kind=run: predict, explain, evaluate, robustness, compare); small files that need gigabytes or
minutes (hostile); names (names); environment variables, standard streams and permissions
(environment). Most cases run inside worker processes, which import once. Every --process_every-th,
and every case of the kind environment, is a process. Of the kinds that train, every
--train_every-th case is the whole command; the others end before the model is built.

A case fails if it raises, takes longer than --timeout (a process: twice that), ends with anything
but status 0 or 1 and one line of error, uses more than 2 GB, writes outside its output, its caches
and the temporary folder, opens a path that only the damaged run names, changes its input, sends
control characters to the terminal, leaves temporary files, or writes invalid probabilities.
Its input is copied to --keep; --only=NUMBER with the same --seed and --kind repeats it.
Exit status: 0 none failed, 1 some did.
"""

import collections
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from absl import app, flags

# The cases are imported by the workers only, so that --help is quick.

FLAGS = flags.FLAGS
flags.DEFINE_integer("count", 2000, "cases", lower_bound=1)
flags.DEFINE_integer("train_every", 8, "every N-th case trains; 0 = none", lower_bound=0)
flags.DEFINE_integer("process_every", 20, "every N-th case is a process; 0 = none", lower_bound=0)
flags.DEFINE_list("kind", [], "only cases of these kinds: image, table, run, hostile, …")
flags.DEFINE_integer("seed", 0, "of the random cases", lower_bound=0)
flags.DEFINE_integer("only", -1, "run this one case, and print its output")
flags.DEFINE_integer("workers", 2, "processes", lower_bound=1)
flags.DEFINE_integer("timeout", 60, "seconds after which a case counts as a hang", lower_bound=1)
flags.DEFINE_string("keep", "fuzz-failures", "folder that gets the inputs of failed cases")

_RENEWED_AFTER = 250  # cases per worker
_RENEWED_ABOVE = 1.2e9  # resident bytes of a worker


def main(_: list[str]) -> int:
    """Runs the cases, prints failures and a summary."""
    began, numbers = time.perf_counter(), range(FLAGS.count)
    if FLAGS.only >= 0:
        numbers = range(FLAGS.only, FLAGS.only + 1)
    outcomes: collections.Counter[str] = collections.Counter()
    failures = []
    longest = largest = 0.0
    base = Path(tempfile.gettempdir()).resolve() / f"leukjax-fuzz-{os.getuid()}"
    for done, result in enumerate(_results(numbers, base), start=1):
        outcomes[f"{result['kind']}: {result['end']}"] += 1
        longest, largest = max(longest, result["seconds"]), max(largest, result["peak"])
        if result["problem"]:
            failures.append(result)
            print(f"\ncase {result['number']} ({result['kind']}): {result['problem']}")
            print(f"  changed: {result['changes']}\n  input: {result['kept']}\n{result['output']}",
                  flush=True)  # fmt: skip
        if done % 20 == 0 or done == len(numbers):
            seconds = time.perf_counter() - began
            print(f"{done} of {len(numbers)} cases, {len(failures)} failed, {seconds:.0f} s",
                  file=sys.stderr)  # fmt: skip
    for name, count in sorted(outcomes.items()):
        print(f"{count:6,}  {name}")
    print(
        f"seed {FLAGS.seed}: {sum(outcomes.values()):,} cases, {len(failures)} failed, "
        f"{time.perf_counter() - began:.0f} s; longest {longest:.0f} s, most memory "
        f"{largest / 1e9:.1f} GB"
    )
    return 1 if failures else 0


class _Worker:
    """A process with its share of the cases, and its current case."""

    def __init__(self, share: list[int], base: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other_end = context.Pipe()
        self.share, self.problem = share, ""
        self.at: float | None = None
        self.folder: Path | None = None
        self.kind, self.changes = "?", ""
        settings = FLAGS.flag_values_dict()
        self.process = context.Process(target=_work, args=(other_end, list(share), settings, base))
        self.process.start()
        other_end.close()

    def watch(self) -> None:
        """Kills the process if its case uses too much memory or does not end."""
        import fuzz_watch

        if self.problem or self.at is None or self.process.pid is None:
            return
        seconds = time.monotonic() - self.at
        if size := fuzz_watch.over_memory(self.process.pid):
            self.problem = f"held {size / 1e9:.1f} GB"
        elif seconds > 4 * FLAGS.timeout + 30:
            self.problem = f"did not end within {seconds:.0f} s"
        if self.problem:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def died(self) -> dict:
        """Returns the result of a case whose process ended."""
        number = self.share.pop(0)
        kept = Path(FLAGS.keep).absolute() / f"seed{FLAGS.seed}-case{number}"
        if self.folder is not None:
            import fuzz_case

            fuzz_case.keep(self.folder, kept)
            shutil.rmtree(self.folder, ignore_errors=True)
        problem = self.problem or f"the process died with status {self.process.exitcode}"
        seconds = 0.0 if self.at is None else time.monotonic() - self.at
        return {"number": number, "kind": self.kind, "end": "FAILED", "problem": problem,
                "kept": str(kept), "output": f"--only={number}", "seconds": seconds, "peak": 0,
                "changes": self.changes}  # fmt: skip


def _results(numbers: range, base: Path) -> Iterator[dict]:
    """Yields results as they arrive; a worker that dies is replaced, and its case counts."""
    shares = [list(numbers[start :: FLAGS.workers]) for start in range(FLAGS.workers)]
    running = {worker.pipe: worker for worker in (_Worker(s, base) for s in shares if s)}
    while running:
        for pipe in wait(list(running), timeout=0.1):
            assert isinstance(pipe, Connection)
            worker = running[pipe]
            try:
                event, content = pipe.recv()
            except (EOFError, ConnectionResetError):
                del running[pipe]
                worker.process.join()
                if worker.share and (worker.process.exitcode != 0 or worker.at is not None):
                    yield worker.died()
                if worker.share:
                    successor = _Worker(worker.share, base)
                    running[successor.pipe] = successor
                continue
            if event == "started":
                worker.folder, worker.kind, worker.changes = content
                worker.at = time.monotonic()
            else:
                worker.share.remove(content["number"])
                worker.folder, worker.at = None, None
                yield content
        for worker in running.values():
            worker.watch()


def _work(pipe: Connection, numbers: list[int], settings: dict, base: Path) -> None:
    """Runs cases in a worker process until it has grown."""
    os.setsid()
    folders = {"TMPDIR": "tmp", "LEUKJAX_CACHE": "cache", "XDG_CACHE_HOME": "xdg",
              "JAX_COMPILATION_CACHE_DIR": "compiled", "MPLCONFIGDIR": "matplotlib"}  # fmt: skip
    for name, folder in folders.items():
        (base / folder).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(base / folder)
    os.environ |= {"MPLBACKEND": "Agg", "LEUKJAX_FUZZ_BASE": str(base),
                   "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    settings["keep"] = str(Path(settings["keep"]).absolute())
    sys.dont_write_bytecode = True
    tempfile.tempdir = None
    os.chdir(tempfile.mkdtemp(prefix="empty-"))  # files written to it count as outside
    import fuzz_case
    import fuzz_watch

    from leukjax import terminal

    terminal.prepare()  # as `command.run` does
    recorder = fuzz_watch.Recorder()
    for number in numbers[:_RENEWED_AFTER]:
        pipe.send((
            "done",
            fuzz_case.run_case(number, settings, recorder,
                               lambda *about: pipe.send(("started", about))),
        ))  # fmt: skip
        if fuzz_watch.held() > _RENEWED_ABOVE:
            break


if __name__ == "__main__":
    app.run(main)
