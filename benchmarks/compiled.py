"""Compiles a training step for absent GPUs and TPUs: leukjax beside plain Flax.

python benchmarks/compiled.py                                 ResNet-50 on an H100: some minutes
python benchmarks/compiled.py --devices=a100:8,v6e:8 --config=hybrid_vit --batch=64
python benchmarks/compiled.py --devices=h100:1 --config=resnet50:cnmc --noalike
python benchmarks/compiled.py --grid                          all rows of the CSV: hours
python benchmarks/compiled.py --grid --only='^v5e:8,' --again

No such device is needed: the step is compiled ahead of time and its optimised program is read (see
`leukjax.compiler`). The bound on images per second is the sum over the operations of the longer of
moving and computing. These are compilers' estimates, not measurements. A GPU row takes a minute of
two cores, a TPU row several. Adds rows to benchmarks/results/compiled.csv; a row whose program,
compiler and reader are unchanged is not compiled again. compiled_tables.py prints them as tables;
`leukjax.main --preflight` lists the costliest operations of a config.
Needs the compilers: pip install 'leukjax[preflight]'
"""

import datetime
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compiled_grid
import harness
from compiled_grid import BOTH, OURS, PLAIN, Row

FLAGS = flags.FLAGS
flags.DEFINE_list("devices", ["h100:1"], "DEVICE:COUNT, of a100, h100, v5e, v5p, v6e")
flags.DEFINE_string("config", "resnet50", "a shipped config, or PATH.py[:ARGUMENT]")
flags.DEFINE_integer("batch", 128, "images on each device", lower_bound=1)
flags.DEFINE_multi_string("field", [], "FIELD=VALUE of the config; may be repeated")
flags.DEFINE_enum("lever", "", list(compiled_grid.LEVERS), "a change to leukjax, by its name")
flags.DEFINE_bool(
    "alike", True, "224 px, bfloat16, no augmentation or dropout, as plain Flax has it; "
    "--noalike: as the config is",
)  # fmt: skip
flags.DEFINE_list("contenders", list(BOTH), f"of {OURS}, {PLAIN}")
flags.DEFINE_bool("grid", False, "all rows that do not exist yet, the most important first")
flags.DEFINE_string("only", "", "--grid: rows whose label matches this regular expression")
flags.DEFINE_float("minutes", 0.0, "--grid: start no row after this time; 0 = no limit")
flags.DEFINE_bool("list", False, "--grid: print the labels and exit")
flags.DEFINE_bool("again", False, "compile rows that exist already once more")
flags.DEFINE_string("programs", "", "folder of optimised programs; empty = the user's cache folder")
flags.DEFINE_string("results", str(harness.RESULTS), "folder of the CSV files")
flags.DEFINE_bool("save", True, "append to the CSV files")


def main(_: list[str]) -> None:
    """Compiles the rows, prints each, and verdicts."""
    rows = chosen()
    if FLAGS.list:
        print("\n".join(row.label for row in rows))
        return
    began, new = time.monotonic(), list[dict[str, Any]]()
    failed = 0
    for index, row in enumerate(rows):
        if FLAGS.minutes and time.monotonic() - began > 60 * FLAGS.minutes:
            print(f"{len(rows) - index} rows left after {FLAGS.minutes:g} minutes")
            break
        failed += not make(row, new)
    for ours, plain in pairs(new):
        names = ("megabytes_per_image", "images_per_second_bound", "peak_gigabytes")
        size, bound, memory = (ours[name] / plain[name] for name in names)
        print(
            f"compiled, {ours['config']}, {ours['devices']} x {ours['device']}: {size:.2f} of "
            f"plain Flax's bytes, {bound:.2f} of its bound on images/s, {memory:.2f} of its memory "
            "(compiler's estimate, not measured)"
        )
    if failed:
        sys.exit(f"error: {failed} of {len(rows)} rows failed; each has its line above")


def chosen() -> list[Row]:
    """Returns the rows that the flags select."""
    if FLAGS.grid or FLAGS.list:
        return [row for row in compiled_grid.grid() if re.search(FLAGS.only, row.label)]
    fields = []
    for text in FLAGS.field:
        name, equals, value = text.partition("=")
        if not equals:
            sys.exit(f"error: --field={text}: must be FIELD=VALUE")
        fields.append((name, value))
    rows = []
    for device in FLAGS.devices:
        name, _, count = device.partition(":")
        about = (FLAGS.config, FLAGS.batch, FLAGS.lever, tuple(fields), FLAGS.alike)
        contenders = [c for c in FLAGS.contenders if c == OURS or not FLAGS.lever]
        rows += [Row(name, int(count or 1), contender, *about) for contender in contenders]
    return rows


def pairs(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields the rows of leukjax that have one of plain Flax beside them."""
    for ours, plain in itertools.permutations(rows, 2):
        is_pair = (ours["contender"], plain["contender"]) == BOTH and not ours["lever"]
        if is_pair and all(ours[k] == plain[k] for k in ("device", "devices", "config", "batch")):
            yield ours, plain


def make(row: Row, new: list[dict[str, Any]]) -> bool:
    """Compiles a row in a process of its own and adds it to `new`; False if that failed."""
    from leukjax.compiler import targets

    target, _ = targets.parse(f"{row.device}:{row.count}")
    if lacking := targets.missing(target):
        sys.exit(f"error: {row.device}: {lacking}")
    results = Path(FLAGS.results)
    table = [] if FLAGS.again else compiled_grid.read(results / "compiled.csv")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled_row.py"))],
        input=json.dumps(row.request(programs(), compiled_grid.known(row, table))),
        env=targets.environment() | {"PYTHONPATH": harness.python_path()},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        errors = done.stderr.strip().splitlines() or ["no message"]
        result = {"error": f"the compiler failed: {errors[-1]}"}
    else:
        result = json.loads(lines[-1])
    if "known" in result:
        print(f"{row.label}: exists already (program {result['known']})", flush=True)
        return True
    if "error" in result:
        print(f"{row.label}: {result['error']}", file=sys.stderr, flush=True)
        return False
    about = compiled_grid.columns(row)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    made = {"date": now, "commit": harness.commit(), **about, **result["row"]}
    new.append(made)
    print(
        f"{row.label}: {made['megabytes_per_image']:.1f} MB and "
        f"{made['gigaflops_per_image']:.2f} GFLOP per image, at most "
        f"{made['images_per_second_bound']:,.0f} images/s per device, "
        f"{made['peak_gigabytes']:.1f} GB; compiled in {made['compile_seconds']:.0f} s",
        flush=True,
    )
    if FLAGS.save:
        harness.append("compiled", [made], results)
    return True


def programs() -> Path:
    """Returns the folder of optimised programs."""
    from leukjax import runtime

    folder = runtime.cache_folder("auto")
    assert folder is not None
    return Path(FLAGS.programs) if FLAGS.programs else folder.parent / "optimised"


if __name__ == "__main__":
    app.run(main)
