"""Give the training command broken inputs by the thousand; each must be answered in one line.

python benchmarks/fuzz.py --count=2000 --seed=0

Every case damages an image, a table, a zip, a folder, a config file, a field or the cache at random
and starts the command on it: config, preparation, split and batches. Every --train_every-th case is
the whole command, which trains for an epoch unless it refuses. With --kind=weights a file of
weights is damaged, and of what is read every tensor is compared with an independent reading. A case
fails if it raises, takes longer than --timeout, answers with anything but one line, or leaves
something half-written. Exit status: 0 none failed, 1 some did.
"""

import collections
import faulthandler
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

# Imported where they are used: only the workers need them, and --help answers at once.
if TYPE_CHECKING:
    import numpy as np
    from broken_case import Case
    from ml_collections import ConfigDict

FLAGS = flags.FLAGS
flags.DEFINE_integer("count", 2000, "cases", lower_bound=1)
flags.DEFINE_integer("train_every", 8, "every such case trains; 0 = none", lower_bound=0)
flags.DEFINE_string("kind", "", "only cases of this kind: image, hostile, table, labels, zip, …")
flags.DEFINE_integer("seed", 0, "of the drawing of the cases", lower_bound=0)
flags.DEFINE_integer("only", -1, "run this one case, and show what it says")
flags.DEFINE_integer("workers", 2, "processes", lower_bound=1)
flags.DEFINE_integer("timeout", 60, "seconds after which a case counts as a hang", lower_bound=1)
flags.DEFINE_string("keep", "fuzz-failures", "folder that gets the inputs of failed cases")


class Hang(BaseException):
    """Raised by the alarm."""


def main(_: list[str]) -> int:
    """Run the cases, print what failed and a summary."""
    began, numbers = time.perf_counter(), range(FLAGS.count)
    if FLAGS.only >= 0:
        numbers = range(FLAGS.only, FLAGS.only + 1)
    outcomes: collections.Counter[str] = collections.Counter()
    failures = []
    for done, result in enumerate(_results(numbers), start=1):
        outcomes[f"{result['kind']}: {result['end']}"] += 1
        if result["problem"]:
            failures.append(result)
            print(f"\ncase {result['number']} ({result['kind']}): {result['problem']}")
            print(f"  input: {result['kept']}\n{result['said']}")
        if done % 20 == 0 or done == len(numbers):
            seconds = time.perf_counter() - began
            print(f"{done} of {len(numbers)} cases, {len(failures)} failed, {seconds:.0f} s",
                  file=sys.stderr)  # fmt: skip
    for name, count in sorted(outcomes.items()):
        print(f"{count:6,}  {name}")
    print(
        f"seed {FLAGS.seed}: {sum(outcomes.values()):,} cases, {len(failures)} failed, "
        f"{time.perf_counter() - began:.0f} s"
    )
    return 1 if failures else 0


def _results(numbers: range) -> Iterator[dict]:
    """What the workers report, as it comes; one that dies is replaced, and its case counts."""
    context = multiprocessing.get_context("spawn")
    shares = [list(numbers[start :: FLAGS.workers]) for start in range(FLAGS.workers)]
    running: dict[Connection, tuple] = {}

    def start(share: list[int]) -> None:
        if share:
            here, there = context.Pipe()
            settings = FLAGS.flag_values_dict()
            process = context.Process(target=_work, args=(there, share, settings))
            process.start()
            there.close()
            running[here] = (process, share)

    for share in shares:
        start(share)
    while running:
        for here in wait(list(running)):
            assert isinstance(here, Connection)
            process, share = running[here]
            try:
                result = here.recv()
            except EOFError:
                del running[here]
                process.join()
                if share:
                    number = share.pop(0)
                    yield _died(number, process.exitcode)
                    start(share)
                continue
            share.remove(result["number"])
            yield result


def _died(number: int, status: int) -> dict:
    problem = f"the process died with status {status}"
    return {"number": number, "kind": "?", "end": "died", "problem": problem,
            "kept": f"--only={number}", "said": ""}  # fmt: skip


def _work(pipe: Connection, numbers: list[int], settings: dict) -> None:
    """A worker: imports once, runs its cases one after the other."""
    os.environ["MPLBACKEND"] = "Agg"
    compiled = Path(tempfile.gettempdir()) / "leukjax-fuzz-compiled"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
    for number in numbers:
        pipe.send(_case(number, settings))


def _case(number: int, settings: dict) -> dict:
    import numpy as np
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # of what is prepared to be damaged
    folder = Path(tempfile.mkdtemp(prefix="leukjax-fuzz-"))
    kept = Path(settings["keep"]) / f"seed{settings['seed']}-case{number}"
    try:
        random = np.random.default_rng([settings["seed"], number])
        case = _draw(folder, random, settings["kind"])
        trains = settings["train_every"] > 0 and number % settings["train_every"] == 0
        status, said = _run(case.argv(), trains, settings["timeout"])
        problem = _problem(status, said, folder, trains)
        if settings["only"] >= 0:
            print(" ".join(case.argv()), said, sep="\n")
        if problem:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=_no_pipes)
            (kept / "argv.json").write_text(json.dumps(case.argv(), indent=1))
        kind = f"{case.kind}{', trained' if trains else ''}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ends = {0: "went through", 1: "refused in one line"}
    return {
        "number": number,
        "kind": kind,
        "end": "FAILED" if problem else ends.get(status or 0, f"status {status}"),
        "problem": problem,
        "kept": str(kept),
        "said": said[-3000:],
    }


def _draw(folder: Path, random: "np.random.Generator", kind: str) -> "Case":
    """Make the input of a case in an empty folder; the same generator gives the same input.

    Args:
      folder: gets the input.
      random: all that decides.
      kind: what is damaged; "" = drawn as well.
    """
    import broken_configs
    import broken_files
    import broken_weights
    from broken_case import FIELDS, Case

    kinds = {  # with the share of the cases
        "image": (broken_files.images, 0.2),
        "hostile": (broken_files.hostile, 0.04),
        "table": (broken_files.table, 0.11),
        "labels": (broken_files.labels, 0.07),
        "zip": (broken_files.zip_file, 0.14),
        "folder": (broken_files.tree, 0.09),
        "field": (broken_configs.field, 0.12),
        "extreme": (broken_configs.extreme, 0.08),
        "config file": (broken_configs.config_file, 0.1),
        "cache": (broken_files.cache, 0.05),
        "weights": (broken_weights.weights, 0.0),  # by --kind=weights
    }
    shares = [share for _, share in kinds.values()]
    kind = kind or str(random.choice(list(kinds), p=shares))
    fields = FIELDS | {"data.cache_dir": folder / "cache"}
    case = Case(kind, folder, "cnn:image_folder", fields)
    case.fields["data.bad_images"] = str(random.choice(("error", "skip")))
    kinds[kind][0](case, random)
    return case


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


def _run(argv: list[str], trains: bool, timeout: int) -> tuple[int | None, str]:
    """The exit status (None: it raised) and what was printed on stderr."""
    from leukjax import command
    from leukjax import main as training

    def ring(*_: object) -> None:
        raise Hang(f"after {timeout} s")

    signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        # Where the alarm cannot be heard, inside a C library, the process is ended.
        faulthandler.dump_traceback_later(2 * timeout, exit=True, file=kept[1])
        signal.alarm(timeout)
        try:
            doing = training.main if trains else _prepare
            status = command.status(doing, training.FLAGS, argv, doc=None)
        except BaseException:
            status = None
            traceback.print_exc()
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        err.seek(0)
        return status, err.read().decode(errors="replace")


def _prepare(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """What `leukjax.main` does before the model is built."""
    import numpy as np

    from leukjax import command
    from leukjax.data import records, split
    from leukjax.train import run

    config = command.one_config(names, overrides, arguments)
    if config.init.weights:
        _find_weights(config)
        return
    found = records.prepare(config.data)
    chosen = split.make_split(found.manifest, config.split.protocol, config.split.seed,
                              config.split.folds, config.split.fold)  # fmt: skip
    run.make_batches(config, found, chosen.rows("train"), config.train.batch_size,
                     training=True)  # fmt: skip
    pixels = found.images(np.arange(len(found)))
    assert hashlib.sha256(pixels.data).hexdigest() == found.checksum, "read other pixels"


def _find_weights(config: "ConfigDict") -> None:
    """What `leukjax.main` does with weights, for a run that is not there yet."""
    import broken_weights

    from leukjax import models
    from leukjax.train import initial

    module = models.create(config.model.name, 2, **models.select(config.model.name, config.model))
    start = initial.find(config, module, ("blast", "healthy"), Path("none"))
    assert start.mapped is not None
    broken_weights.check(Path(config.init.weights), config.init.sha256, start.mapped)


def _problem(status: int | None, said: str, folder: Path, trains: bool) -> str:
    """What is wrong with how a case ended; "" if nothing."""
    lines = said.rstrip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if status is None:
        return f"raised: {lines[-1] if lines else ''}"
    if "Traceback" in said:
        return "printed a traceback"
    if status == 1 and (len(errors) != 1 or lines[-1] != errors[0]):
        return f"said {len(errors)} lines of error, or more after it"
    if status not in (0, 1):
        return f"ended with status {status}"
    if status == 0 and trains and not (folder / "run" / "summary.json").exists():
        return "ended well without a summary.json"
    if status == 1 and not trains and (folder / "run").exists():
        return "left a work directory"
    if (folder / "ran").exists():
        return "ran pickled code"
    half = [
        path
        for place in ("cache", "run")
        for path in (folder / place).rglob("*")
        # Names of files and folders that are being written: `files.write_atomic`, `data.cache`.
        if path.name.endswith(".tmp") or re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name)
    ]
    return f"left {half[0].relative_to(folder)}" if half else ""


if __name__ == "__main__":
    app.run(main)
