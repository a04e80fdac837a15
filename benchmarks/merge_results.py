"""One CSV of all rows that benchmarks/run_all.sh made, with the machine they were made on.

python benchmarks/merge_results.py FOLDER OUT.csv [--only=NAME …] [--missed NAME=REASON …]

Every row gets ``benchmark``, ``status`` (measured, compiled ahead of time, or not measured: why)
and the machine: processor, cores, memory, accelerator, driver, system, Python and libraries. The
names of the host and of its user are not among them. A benchmark without rows gets one that says
"not measured"; so do those of accelerators where there is none.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measured import processor

BENCHMARKS = (
    "train_step",
    "predict",
    "input_pipeline",
    "end_to_end",
    "startup",
    "scaling",
    "compiled",
)
# What a GPU or a TPU would have shown; the programs that are compiled ahead need none.
ON_DEVICES = BENCHMARKS[:-1]
ON_CPU = ("convolutions",)
WITHOUT_ROWS = ("operations",)  # its log is all that it makes
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "leukjax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", action="append", default=[], help="a benchmark that was run")
    parser.add_argument("--missed", action="append", default=[], metavar="NAME=REASON")
    given = parser.parse_args()
    reasons = dict(text.partition("=")[::2] for text in given.missed)
    about = machine()
    names = given.only or (BENCHMARKS if about["accelerator"] else BENCHMARKS + ON_CPU)
    names = [name for name in names if name not in WITHOUT_ROWS]
    rows = merged(given.folder, names, reasons, about)
    write(given.out, rows)
    count = sum(row["status"] in ("measured", COMPILED) for row in rows)
    print(f"{given.out}: {count} rows, {len(rows) - count} not measured")


COMPILED = "compiled ahead of time"


def merged(
    folder: Path, names: list[str] | tuple[str, ...], reasons: dict[str, str], about: dict[str, str]
) -> list[dict[str, str]]:
    """The rows of the folder's CSV files, and those that say what is not there.

    Args:
      names: of benchmarks that should have rows.
      reasons: benchmark -> why it did not end well.
      about: columns of the machine; ``accelerator`` is empty where there is none.
    """
    rows = []
    for name in names:
        own = []
        file = folder / f"{name}.csv"
        if file.exists():
            with file.open(newline="") as lines:
                own = list(csv.DictReader(lines))
        status = COMPILED if name == "compiled" else "measured"
        rows += [{"benchmark": name, "status": status, **about, **row} for row in own]
        if name in reasons or not own:
            reason = reasons.get(name, "it made no rows")
            rows.append({"benchmark": name, "status": f"not measured: {reason}", **about})
        if not about["accelerator"] and name in ON_DEVICES:
            reason = "on GPU or TPU: JAX saw none"
            rows.append({"benchmark": name, "status": f"not measured: {reason}", **about})
    return rows


def machine() -> dict[str, str]:
    """What the rows were made on."""
    import jax

    devices = jax.devices()
    accelerator = ""
    if jax.default_backend() != "cpu":
        accelerator = f"{len(devices)} x {devices[0].device_kind}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "accelerator": accelerator,
        "driver": driver(),
        "processor": processor(),
        "memory_gib": f"{memory:.0f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": " ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def driver() -> str:
    """Of NVIDIA's cards; empty where there are none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.split("\n")[0].strip() if said.returncode == 0 else ""


def version(name: str) -> str:
    """Of a library, or a dash."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def write(file: Path, rows: list[dict[str, str]]) -> None:
    """All columns of all rows; a column that a row lacks is empty there."""
    columns = dict.fromkeys(key for row in rows for key in row)
    part = file.with_suffix(".part")
    with part.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(file)


if __name__ == "__main__":
    main()
