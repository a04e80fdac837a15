"""Merges all rows of benchmarks/run_all.sh into one CSV, with the machine that made them.

python benchmarks/merge_results.py FOLDER OUT.csv [--only=NAME …] [--missed NAME=REASON …]

Every row gets ``benchmark``, ``status`` (measured, compiled ahead of time, or not measured: reason)
and the machine: processor, cores, memory, accelerator, driver, system, Python and libraries; no
names of host or user. A benchmark without rows gets one with the status "not measured"; so do
those of accelerators if there is none.
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
import harness

# Measured on accelerators if there are any.
ON_DEVICES = ("train_step", "predict", "input_pipeline", "end_to_end", "startup", "scaling")
BENCHMARKS = (*ON_DEVICES, "compiled")
ON_CPU = ("convolutions",)
WITHOUT_ROWS = ("operations",)  # writes only a log
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "leukjax")
COMPILED = "compiled ahead of time"


def main() -> None:
    """Merges, writes, prints the number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", action="append", default=[], help="a benchmark that was run")
    parser.add_argument("--missed", action="append", default=[], metavar="NAME=REASON")
    options = parser.parse_args()
    reasons = dict(text.partition("=")[::2] for text in options.missed)
    about = machine()
    names = options.only or (BENCHMARKS if about["accelerator"] else BENCHMARKS + ON_CPU)
    rows = merged(options.folder, [n for n in names if n not in WITHOUT_ROWS], reasons, about)
    options.out.unlink(missing_ok=True)
    harness.append(options.out.stem, rows, options.out.parent)
    count = sum(row["status"] in ("measured", COMPILED) for row in rows)
    print(f"{options.out}: {count} rows, {len(rows) - count} not measured")


def merged(
    folder: Path, names: list[str], reasons: dict[str, str], about: dict[str, str]
) -> list[dict[str, str]]:
    """Returns the rows of the folder's CSV files, and one for each benchmark without rows.

    Args:
      folder: of the CSV files.
      names: benchmarks that should have rows.
      reasons: benchmark -> why it failed.
      about: columns of the machine; ``accelerator`` is empty if there is none.
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
        missing = []
        if name in reasons or not own:
            missing.append(reasons.get(name, "it wrote no rows"))
        if not about["accelerator"] and name in ON_DEVICES:
            missing.append("on GPU or TPU: JAX saw none")
        rows += [
            {"benchmark": name, "status": f"not measured: {reason}", **about} for reason in missing
        ]
    return rows


def machine() -> dict[str, str]:
    """Returns the columns that describe the machine."""
    import jax

    devices = jax.devices()
    accelerator = ""
    if jax.default_backend() != "cpu":
        accelerator = f"{len(devices)} x {devices[0].device_kind}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "accelerator": accelerator,
        "driver": driver(),
        "processor": harness.processor(),
        "memory_gib": f"{memory:.0f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": " ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def driver() -> str:
    """Returns the version of NVIDIA's driver, or ""."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split("\n")[0].strip()


def version(name: str) -> str:
    """Returns the version of a library, or a dash."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


if __name__ == "__main__":
    main()
