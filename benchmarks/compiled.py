"""Compiles a training step for absent GPUs and TPUs: leukjax beside plain Flax.

python benchmarks/compiled.py                                 ResNet-50 on an H100: some minutes
python benchmarks/compiled.py --devices=a100:8,v6e:8 --config=hybrid_vit --batch=64
python benchmarks/compiled.py --devices=h100:1 --config=resnet50:cnmc --noalike --costliest
python benchmarks/compiled.py --grid                          all rows of the CSV: hours
python benchmarks/compiled.py --grid --only='^v5e:8,' --again

No such device is needed: the step is compiled ahead of time and its optimised program is read (see
`leukjax.compiler`). The bound on images per second is the sum over the operations of the longer of
moving and computing. These are compilers' estimates, not measurements. A GPU row takes a minute of
two cores, a TPU row several. Adds rows to benchmarks/results/compiled.csv and the costliest
operations of each to compiled_costliest.csv; a row whose program, compiler and reader are unchanged
is not compiled again. Needs the compilers: pip install 'leukjax[preflight]'
"""

import datetime
import json
import re
import subprocess
import sys
import time
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
flags.DEFINE_bool("costliest", False, "print the twelve costliest operations of each row")
flags.DEFINE_string("programs", "", "folder of optimised programs; empty = the user's cache folder")
flags.DEFINE_string("results", str(harness.RESULTS), "folder of the CSV files")
flags.DEFINE_bool("save", True, "append to the CSV files")

MEASURES = {
    "MB per image through device memory": ("megabytes_per_image", "{:,.1f}"),
    "GFLOP per image": ("gigaflops_per_image", "{:,.2f}"),
    "roofline, us per image": ("roofline_microseconds_per_image", "{:,.1f}"),
    "images/s at most": ("images_per_second_bound", "{:,.0f}"),
    "of that time bound by memory": ("bound_by_memory", "{:.0%}"),
    "peak memory, GB per device": ("peak_gigabytes", "{:,.2f}"),
    "all-reduces": ("all_reduces", "{:.0f}"),
    "  MB per step": ("all_reduce_megabytes", "{:,.1f}"),
    "  of them overlapped": ("all_reduces_overlapped", "{:.0f}"),
    "links, us per image": ("links_microseconds_per_image", "{:,.1f}"),
    "cycles per step (model marked invalid)": ("estimated_cycles", "{:,.0f}"),
    "seconds to compile": ("compile_seconds", "{:,.0f}"),
}


def main(_: list[str]) -> None:
    """Compiles the rows, prints them beside each other."""
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
    table = compiled_grid.read(Path(FLAGS.results) / "compiled.csv") if FLAGS.save else new
    for group in dict.fromkeys((row.device, row.count, row.config, row.batch) for row in rows):
        show(group, table)
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
    if FLAGS.costliest:
        print(costliest(result["costliest"]), flush=True)
    if FLAGS.save:
        harness.append("compiled", [made], results)
        ranks = [
            {"program": made["program"], **about, "rank": rank}
            | operation
            | {name: round(operation[name], 4 if name == "share" else None)
               for name in ("bytes", "flops", "share")}
            for rank, operation in enumerate(result["costliest"], 1)
        ]  # fmt: skip
        harness.append("compiled_costliest", ranks, results)
    return True


def programs() -> Path:
    """Returns the folder of optimised programs."""
    from leukjax import runtime

    folder = runtime.cache_folder("auto")
    assert folder is not None
    return Path(FLAGS.programs) if FLAGS.programs else folder.parent / "optimised"


def costliest(operations: list[dict[str, Any]]) -> str:
    """Returns the costliest operations as lines."""
    lines = ["  share       MB    MFLOP  per image, by the roofline"]
    for row in operations:
        kind = row["kind"].removeprefix("__cudnn$")
        lines.append(
            f"  {row['share']:5.1%} {row['bytes'] / 1e6:8.2f} {row['flops'] / 1e6:8.1f}  "
            f"{kind:20} {row['source'][-60:]}"
        )
    return "\n".join(lines)


def show(group: tuple[Any, ...], table: list[dict[str, Any]]) -> None:
    """Prints the newest rows of one device, count, config and batch, and a verdict."""
    newest: dict[str, dict[str, Any]] = {}
    for row in table:
        about = (row["device"], row["devices"], row["config"], row["batch"])
        if tuple(map(str, about)) == tuple(map(str, group)):
            title = ", ".join(filter(None, [row["contender"], row["lever"], row["fields"]]))
            newest[title] = row
    if not newest:
        return
    device, count, config, batch = group
    print(f"\n{config} on {count} x {device}, {batch} images on each")
    for first in range(0, len(newest), 5):
        titles = list(newest)[first : first + 5]
        print(f"{'':38}" + "".join(f" {title[-22:]:>22}" for title in titles))
        for title, (name, form) in MEASURES.items():
            values = [form.format(float(newest[column][name])) for column in titles]
            print(f"{title:38}" + "".join(f" {value:>22}" for value in values))
    if OURS in newest and PLAIN in newest:
        names = ("megabytes_per_image", "images_per_second_bound", "peak_gigabytes")
        size, bound, memory = (float(newest[OURS][n]) / float(newest[PLAIN][n]) for n in names)
        print(
            f"compiled, {config}, {count} x {device}: {size:.2f} of plain Flax's bytes, "
            f"{bound:.2f} of its bound on images/s, {memory:.2f} of its memory "
            "(compiler's estimate, not measured)"
        )


if __name__ == "__main__":
    app.run(main)
