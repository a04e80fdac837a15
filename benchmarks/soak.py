"""Kills runs at random moments, flips bytes of checkpoints, sends SIGTERM to runs.

python benchmarks/soak.py --kills=200
python benchmarks/soak.py --kills=0 --flips=200  404 s on two busy cores
python benchmarks/soak.py --kills=0 --stops=20

A short run is killed (SIGKILL) at seeded random moments, up to four times, and started again until
it ends; then every score, prediction and parameter must be bitwise equal to those of an undisturbed
run. A flipped byte must be detected, and the run must resume from the checkpoint before. Progress
is kept in --folder, so that the same command resumes. With --stops, runs of two processes get
SIGTERM (see stops.py). With --data_cache and --steps_per_call the killed runs train in those modes,
and are still compared with a run that streams its records and does one step per dispatch.
Prints a verdict in one line and adds a row to --results.
"""

import csv
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from absl import app, flags, logging

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "system")]

import runs  # noqa: E402  (the small runs of the tests, and the comparison of two of them)
import stops  # noqa: E402  (beside this file)

FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 200, "how many kills", lower_bound=0)
flags.DEFINE_integer("flips", 0, "how many flipped bytes", lower_bound=0)
flags.DEFINE_integer("stops", 0, "how many runs of two processes get SIGTERM", lower_bound=0)
flags.DEFINE_integer("seed", 0, "of moments and bytes")
flags.DEFINE_enum("data_cache", "none", ["none", "host", "device"], "of the killed runs")
flags.DEFINE_integer("steps_per_call", 1, "of the killed runs; checkpoints come every 2 steps")
flags.DEFINE_string("folder", str(REPOSITORY / "runs" / "soak"), "folder of the runs")
flags.DEFINE_string(
    "results", str(REPOSITORY / "benchmarks" / "results" / "soak.csv"), "table that gets a row"
)

# Every kind of state that a step may carry: dropout, momentum, averages, micro-batches.
CHANGES = {
    "model.dropout": 0.3,
    "train.ema_decay": 0.9,
    "train.accumulate": 2,
    "augment.rotate": 180,
    "augment.brightness": 0.2,
    "optimizer.schedule": "cosine",
    "checkpoint.every": "2 steps",
}
MOMENTS = (
    "start", "preparation", "building", "training", "save", "scoring", "report", "at the end"
)  # fmt: skip
KILLS_A_RUN = 4
OPENED = "test_openings.jsonl"  # written after training, before test is scored
ENDING = 2.5  # seconds from then to the end, about
LIFE = 4.0  # seconds from the first output of a start to its end, until one was measured
FRESH_CACHE = 4  # every N-th run prepares its records again
COMMAND_FLIPS = 20  # every N-th flip uses the whole command


def main(_: list[str]) -> None:
    folder = Path(FLAGS.folder)
    began = time.perf_counter()
    logging.set_verbosity(logging.ERROR)
    reference = make_reference(folder) if FLAGS.kills or FLAGS.flips else folder
    outcomes: dict[str, Counter] = {}
    if FLAGS.kills:
        outcomes["kills"] = kill_runs(folder, reference, FLAGS.kills, FLAGS.seed)
    if FLAGS.flips:
        outcomes["flips"] = flip_bytes(folder, reference, FLAGS.flips, FLAGS.seed)
    if FLAGS.stops:
        outcomes["stops"] = stops.stop_runs(folder, FLAGS.stops, FLAGS.seed, changes())
    bad = 0
    for what, counts in outcomes.items():
        print(f"{what}: {verdict(what, counts)}")
        bad += counts["different"] + counts["unnoticed"] + counts["failed"]
        add_row(Path(FLAGS.results), what, counts, time.perf_counter() - began)
    sys.exit(bool(bad))


def make_reference(folder: Path) -> Path:
    """Returns the undisturbed run, trained once."""
    reference = folder / "reference"
    if not (reference / "summary.json").exists():
        streamed = CHANGES | {"data.cache": "none"}
        runs.finish(runs.command("cnn", reference, streamed), folder / "cache")
    return reference


def changes() -> dict:
    """Returns the config fields of the killed runs."""
    return CHANGES | {
        "data.cache": FLAGS.data_cache,
        "train.steps_per_call": FLAGS.steps_per_call,
    }


def mode() -> str:
    """Returns the mode of the killed runs; "" for streaming with one step per dispatch."""
    plain = FLAGS.data_cache == "none" and FLAGS.steps_per_call == 1
    return "" if plain else f"{FLAGS.data_cache}-{FLAGS.steps_per_call}"


def kill_runs(folder: Path, reference: Path, kills: int, seed: int) -> Counter:
    """Kills runs until there were `kills`; returns counts of moments and outcomes."""
    ledger = folder / f"kills-{'-'.join(filter(None, [str(seed), mode()]))}.jsonl"
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    while sum(len(line["moments"]) for line in done) < kills:
        left = kills - sum(len(line["moments"]) for line in done)
        life = done[-1].get("life", LIFE) if done else LIFE
        line = one_killed_run(folder, reference, len(done), min(left, KILLS_A_RUN), seed, life)
        done.append(line)
        with ledger.open("a") as file:
            file.write(json.dumps(line) + "\n")
        total = sum(len(line["moments"]) for line in done)
        print(f"[{total}/{kills}] run {len(done) - 1}: {line['outcome']}; {line['moments']}")
    counts = Counter(moment for line in done for moment in line["moments"])
    counts += Counter(line["outcome"].split(":")[0] for line in done)
    counts["tried"], counts["runs"] = sum(len(line["moments"]) for line in done), len(done)
    return counts


def one_killed_run(
    folder: Path, reference: Path, number: int, kills: int, seed: int, life: float
) -> dict:
    """Starts and kills a run, lets its last start end, compares.

    `life`: seconds of a start from its first output to its end, as measured last.
    """
    draw = random.Random(f"{seed} {number}")
    workdir = folder / f"killed-{seed}-{mode()}{number}"
    shutil.rmtree(workdir, ignore_errors=True)
    fresh = number % FRESH_CACHE == FRESH_CACHE - 1
    cache = folder / ("fresh-cache" if fresh else "cache")
    shutil.rmtree(folder / "fresh-cache", ignore_errors=True)
    arguments = runs.command("cnn", workdir, changes())
    moments = []
    for _ in range(kills):
        process = runs.start(arguments, cache)
        aim = draw.random()
        if aim < 0.15:
            kill_after(process, draw.uniform(0.0, 2.5))
        elif aim < 0.85:
            process.stderr.readline()
            kill_after(process, draw.uniform(0.0, life + (1.5 if fresh else 0.0)))
        else:  # the end is short, and its files matter as much
            kill_after(process, draw.uniform(0.0, ENDING), await_file=workdir / OPENED)
        if process.returncode != -signal.SIGKILL:
            break  # it ended before the kill
        moments.append(moment(workdir, cache))
    try:
        process = runs.start(arguments, cache)
        output = process.stderr.readline()
        began = time.monotonic()
        output += process.communicate()[1]
        life = 0.3 * life + 0.7 * max(2.0, time.monotonic() - began)
        assert process.returncode == 0, f"exit {process.returncode}: {output}"
        runs.assert_same_bits(reference, workdir)
        outcome = "same"
    except AssertionError as error:
        kind = "failed" if str(error).startswith("exit") else "different"
        return {"moments": moments, "outcome": f"{kind}: {str(error)[-500:]}", "kept": str(workdir)}
    shutil.rmtree(workdir)
    return {"moments": moments, "outcome": outcome, "life": round(life, 1)}


def kill_after(
    process: subprocess.Popen, seconds: float, *, await_file: Path | None = None
) -> None:
    """Kills a process after a time, from now or from the creation of a file, unless it ends.

    Its output is read meanwhile, so that it never blocks.
    """

    def kill() -> None:
        while await_file is not None and not await_file.exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(seconds)
        process.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    process.communicate()


def moment(workdir: Path, cache: Path) -> str:
    """Returns the phase in which a run was killed, from its files."""
    checkpoints = workdir / "checkpoints"
    if (workdir / "summary.json").exists():
        return "at the end"
    if (workdir / "predictions" / "test.csv").exists():
        return "report"
    if (workdir / OPENED).exists():
        return "scoring"
    if checkpoints.exists():
        unsealed = [
            path
            for path in checkpoints.iterdir()
            if path.name.isdigit() and not (path / "checksums.json").exists()
        ]
        if unsealed or list(checkpoints.glob("*.orbax-checkpoint-tmp")):
            return "save"
        return "training"
    if (workdir / "config.json").exists():
        return "building"
    if list(cache.rglob(".*.tmp")):
        return "preparation"
    return "start"


def flip_bytes(folder: Path, reference: Path, flips: int, seed: int) -> Counter:
    """Flips a byte of the newest checkpoint; checks that the checkpoint before is used."""
    import jax
    import numpy as np

    from leukjax.checkpoints.writer import Checkpoints

    steps = sorted(int(p.name) for p in (reference / "checkpoints").iterdir() if p.name.isdigit())
    before, newest = steps[-2:]
    counts: Counter = Counter()
    expected = None
    work = folder / "flipped"
    for number in range(flips):
        draw = random.Random(f"{seed} {number}")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(reference, work)
        where = flip_one(work / "checkpoints" / str(newest), draw)
        counts["tried"] += 1
        if number % COMMAND_FLIPS == COMMAND_FLIPS - 1:
            try:
                output = resume(work, folder / "cache")
                noticed = f"checkpoint {newest} is not used" in output
                runs.assert_same_bits(reference, work)
            except AssertionError as error:
                noticed = False
                print(error)
            counts["by the command"] += 1
        else:
            made = Checkpoints(work / "checkpoints", keep_latest=2, lower_is_better=False)
            noticed = made.latest() == before
            if noticed:
                like = runs.saved_tree(work / "checkpoints" / str(before))
                restored = jax.tree.map(np.asarray, made.restore(before, like))
                expected = restored if expected is None else expected
                noticed = all(
                    a.tobytes() == b.tobytes()
                    for a, b in zip(
                        jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True
                    )
                )
            made.close()
        counts["noticed" if noticed else "unnoticed"] += 1
        print(f"[{number + 1}/{flips}] {where}: {'detected' if noticed else 'NOT DETECTED'}")
    return counts


def flip_one(checkpoint: Path, draw: random.Random) -> str:
    """Changes one byte, uniform over bytes or, in half of the cases, over files."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.stat().st_size)
    weights = [p.stat().st_size for p in files] if draw.random() < 0.5 else None
    file = draw.choices(files, weights)[0]
    content = bytearray(file.read_bytes())
    offset = draw.randrange(len(content))
    content[offset] ^= draw.randrange(1, 256)
    file.write_bytes(content)
    return f"{file.relative_to(checkpoint)} byte {offset} of {len(content)}"


def resume(workdir: Path, cache: Path) -> str:
    """Runs a finished run again whose newest checkpoint is damaged: it must retrain that part."""
    for name in ("predictions", "summary.json", OPENED):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return runs.finish(runs.command("cnn", workdir, changes()), cache)


def verdict(what: str, counts: Counter) -> str:
    """Returns one line."""
    if what == "kills":
        moments = ", ".join(f"{counts[name]} {name}" for name in MOMENTS if counts[name])
        return (
            f"{counts['tried']} kills of {counts['runs']} runs ({moments}): "
            f"{counts['same']} runs ended bitwise equal, {counts['different']} different, "
            f"{counts['failed']} failed"
        )
    if what == "stops":
        return stops.verdict(counts)
    return (
        f"{counts['tried']} bytes flipped: {counts['noticed']} detected and the checkpoint before "
        f"used ({counts['by the command']} by the whole command), "
        f"{counts['unnoticed']} not detected"
    )


def add_row(path: Path, what: str, counts: Counter, seconds: float) -> None:
    """Adds a row to the table of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(
                ("date", "what", "seed", "tried", "verdict", "seconds_of_last_start", "machine")
            )
        writer.writerow(
            (
                time.strftime("%Y-%m-%d"),
                f"{what} ({mode()})" if mode() else what,
                FLAGS.seed,
                counts["tried"],
                verdict(what, counts),
                round(seconds),
                f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            )
        )


if __name__ == "__main__":
    app.run(main)
