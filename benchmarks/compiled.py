"""What the compilers for GPU and TPU make of a training step: leukjax beside plain Flax.

python benchmarks/compiled.py                                 ResNet-50 on an H100: some minutes
python benchmarks/compiled.py --devices=a100:8,v6e:8 --config=hybrid_vit --batch=64
python benchmarks/compiled.py --devices=h100:1 --config=resnet50:cnmc --noalike --costliest
python benchmarks/compiled.py --grid                          all rows of the CSV: hours
python benchmarks/compiled.py --grid --only='^v5e:8,' --again

No such device is needed: the step is compiled ahead of time and its optimised program read. Bytes
are operands and results of every operation that is run by itself; the bound on images/s is the sum
over the operations of the longer of moving and computing. All of it is the compilers' evidence, not
a measurement. A GPU row takes a minute of two cores, a TPU row several. Adds rows to
benchmarks/results/compiled.csv and each row's costliest operations to compiled_costliest.csv; a row
whose program, compiler and reader are the same is not compiled again. Needs the compilers:
pip install 'leukjax[preflight]'
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
from compiled_grid import OURS, PLAIN, Row

FLAGS = flags.FLAGS
flags.DEFINE_list("devices", ["h100:1"], "DEVICE:COUNT, of a100, h100, v5e, v5p, v6e")
flags.DEFINE_string("config", "resnet50", "a shipped config, or PATH.py[:ARGUMENT]")
flags.DEFINE_integer("batch", 128, "images on each device", lower_bound=1)
flags.DEFINE_multi_string("field", [], "FIELD=VALUE of the config; may be repeated")
flags.DEFINE_enum("lever", "", list(compiled_grid.LEVERS), "a change to ours, by its name")
flags.DEFINE_bool(
    "alike", True, "224 px, bfloat16, no augmentation or dropout, as plain Flax has it; "
    "--noalike: as the config says",
)  # fmt: skip
flags.DEFINE_list("contenders", [OURS, PLAIN], f"of {OURS}, {PLAIN}")
flags.DEFINE_bool("grid", False, "all rows that are not there yet, those that matter most first")
flags.DEFINE_string("only", "", "--grid: rows whose label matches this regular expression")
flags.DEFINE_float("minutes", 0.0, "--grid: begin no row after so many; 0 = go on to the end")
flags.DEFINE_bool("list", False, "--grid: print the labels and end")
flags.DEFINE_bool("again", False, "add rows that are there already once more")
flags.DEFINE_bool("costliest", False, "print the twelve costliest operations of each")
flags.DEFINE_string("programs", "", "folder of optimised programs; empty = the user's cache folder")
flags.DEFINE_string("results", str(harness.RESULTS), "folder of the CSV files")
flags.DEFINE_bool("save", True, "append to the CSV files")

MEASURES = {
    "MB an image through device memory": ("megabytes_per_image", "{:,.1f}"),
    "GFLOP an image": ("gigaflops_per_image", "{:,.2f}"),
    "roofline, us an image": ("roofline_microseconds_per_image", "{:,.1f}"),
    "images/s at most": ("images_per_second_bound", "{:,.0f}"),
    "of that time bound by memory": ("bound_by_memory", "{:.0%}"),
    "peak memory, GB a device": ("peak_gigabytes", "{:,.2f}"),
    "all-reduces": ("all_reduces", "{:.0f}"),
    "  MB a step": ("all_reduce_megabytes", "{:,.1f}"),
    "  of them overlapped": ("all_reduces_overlapped", "{:.0f}"),
    "links, us an image": ("links_microseconds_per_image", "{:,.1f}"),
    "cycles a step (model marked invalid)": ("estimated_cycles", "{:,.0f}"),
    "seconds to compile": ("compile_seconds", "{:,.0f}"),
}


def main(_: list[str]) -> None:
    rows = chosen()
    if FLAGS.list:
        print("\n".join(row.label for row in rows))
        return
    begun, failed = time.monotonic(), 0
    for place, row in enumerate(rows):
        if FLAGS.minutes and time.monotonic() - begun > 60 * FLAGS.minutes:
            print(f"{len(rows) - place} rows not looked at: {FLAGS.minutes:g} minutes are over")
            break
        failed += not make(row)
    table = compiled_grid.read(Path(FLAGS.results) / "compiled.csv")
    for group in dict.fromkeys((row.device, row.count, row.config, row.batch) for row in rows):
        show(group, table if FLAGS.save else MADE)
    if failed:
        sys.exit(f"error: {failed} of {len(rows)} rows failed; each has its line above")


MADE: list[dict[str, Any]] = []  # by this process


def chosen() -> list[Row]:
    """The rows that the flags ask for."""
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
        for contender in FLAGS.contenders:
            if contender == PLAIN and FLAGS.lever:
                continue  # levers are ours
            row = Row(
                name, int(count or 1), contender, FLAGS.config, FLAGS.batch, FLAGS.lever,
                tuple(fields), FLAGS.alike,
            )  # fmt: skip
            rows.append(row)
    return rows


def make(row: Row) -> bool:
    """Compile a row in a process of its own and add it; whether that worked, or it is there."""
    from leukjax.compiler import targets

    target, _ = targets.parse(f"{row.device}:{row.count}")
    if lacking := targets.missing(target):
        sys.exit(f"error: {row.device}: {lacking}")
    results = Path(FLAGS.results)
    known = (
        []
        if FLAGS.again
        else compiled_grid.known(row, compiled_grid.read(results / "compiled.csv"))
    )
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compiled_row.py"))],
        input=json.dumps(row.request(programs(), known)),
        env=targets.environment() | {"PYTHONPATH": str(harness.REPOSITORY)},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        said = {"error": f"the compiler gave up: {words[-1]}"}
    else:
        said = json.loads(lines[-1])
    if "known" in said:
        print(f"{row.label}: there already (program {said['known']})", flush=True)
        return True
    if "error" in said:
        print(f"{row.label}: {said['error']}", file=sys.stderr, flush=True)
        return False
    about = compiled_grid.columns(row)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    new = {"date": now, "commit": harness.commit(), **about, **said["row"]}
    MADE.append(new)
    print(
        f"{row.label}: {new['megabytes_per_image']:.1f} MB and "
        f"{new['gigaflops_per_image']:.2f} GFLOP an image, at most "
        f"{new['images_per_second_bound']:,.0f} images/s a device, "
        f"{new['peak_gigabytes']:.1f} GB; compiled in {new['compile_seconds']:.0f} s",
        flush=True,
    )
    if FLAGS.costliest:
        print(costliest(said["costliest"]), flush=True)
    if FLAGS.save:
        harness.append("compiled", [new], results)
        own = {"program": new["program"], **about}
        ranks = [own | {"rank": rank} | one for rank, one in enumerate(said["costliest"], 1)]
        harness.append("compiled_costliest", [_rounded(one) for one in ranks], results)
    return True


def programs() -> Path:
    """Where optimised programs are kept."""
    from leukjax import runtime

    folder = runtime.cache_folder("auto")
    assert folder is not None
    return Path(FLAGS.programs) if FLAGS.programs else folder.parent / "optimised"


def costliest(found: list[dict[str, Any]]) -> str:
    """The costliest operations in lines."""
    lines = ["  share       MB    MFLOP  an image, by the roofline"]
    for one in found:
        kind = one["kind"].removeprefix("__cudnn$")
        lines.append(
            f"  {one['share']:5.1%} {one['bytes'] / 1e6:8.2f} {one['flops'] / 1e6:8.1f}  "
            f"{kind:20} {one['source'][-60:]}"
        )
    return "\n".join(lines)


def _rounded(one: dict[str, Any]) -> dict[str, Any]:
    return one | {
        "bytes": round(one["bytes"]),
        "flops": round(one["flops"]),
        "share": round(one["share"], 4),
    }


def show(group: tuple[Any, ...], table: list[dict[str, Any]]) -> None:
    """The newest rows of one device, count, config and batch side by side, and a verdict."""
    newest: dict[str, dict[str, Any]] = {}
    for row in table:
        own = (row["device"], row["devices"], row["config"], row["batch"])
        if tuple(map(str, own)) == tuple(map(str, group)):
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
        ratio = {
            name: float(newest[OURS][name]) / float(newest[PLAIN][name])
            for name in ("megabytes_per_image", "images_per_second_bound", "peak_gigabytes")
        }
        print(
            f"compiled, {config}, {count} x {device}: {ratio['megabytes_per_image']:.2f} of plain "
            f"Flax's bytes, {ratio['images_per_second_bound']:.2f} of its bound on images/s, "
            f"{ratio['peak_gigabytes']:.2f} of its memory (compiler's evidence, not measured)"
        )


if __name__ == "__main__":
    app.run(main)
