"""Prints docs/development/performance_devices.md's tables in Markdown, from results/compiled.csv.

python benchmarks/compiled_tables.py

The newest row of each kind counts. A dash: no such row yet.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compiled_grid
import harness
from compiled_grid import BOTH, LEVERS, OURS, Row

from leukjax.compiler.targets import TARGETS

TITLES = {"resnet50": "ResNet-50", "hybrid_vit": "hybrid R26+ViT-S/32", "cnn": "simple CNN"}
LARGE = "BiT-R152x4"  # the rows of the grid with fields of their own
DEVICES = ("a100", "h100", "v5e", "v5p", "v6e")
# Training of ResNet-50 at 224 px, images/s per device; docs/development/performance_devices.md has
# the sources.
PUBLISHED = {
    ("resnet50", "a100"): "2,470 (PyTorch), 3,411 (MXNet)",
    ("resnet50", "h100"): "about 6,900 (MLPerf 3.0, derived)",
}
MB, GFLOP, US = "megabytes_per_image", "gigaflops_per_image", "roofline_microseconds_per_image"
RATE, GB = "images_per_second_bound", "peak_gigabytes"
Lookup = Callable[[Row], dict[str, Any]]

# Assumptions of the model of scaling: 400 Gb/s per GPU between hosts of eight; seconds of a small
# all-reduce in a host and between hosts; the share of its bound that a step reaches.
HOST, NETWORK = 8, 50e9
LATENCY, LATENCY_FAR = 20e-6, 50e-6
SHARE = 0.6
STATISTICS = 106  # all-reduces of BatchNorm per step: 53 layers, forward and backward
IMAGES, EPOCHS = 10_000, 50  # of C-NMC, of the literature


def main() -> None:
    """Prints all tables."""
    table = compiled_grid.read(harness.RESULTS / "compiled.csv")
    newest = {compiled_grid.key(row): row for row in table}

    def lookup(row: Row) -> dict[str, Any]:
        return newest.get(compiled_grid.key(compiled_grid.columns(row)), {})

    tables = (side_by_side, rooflines, batches, levers, devices, scaling)
    print(*(table(lookup) for table in tables), sep="\n\n")


def number(row: dict[str, Any], name: str, form: str = "{:,.1f}") -> str:
    """Formats a cell."""
    return form.format(float(row[name])) if row else "–"


def pair(rows: list[dict[str, Any]], name: str, form: str) -> str:
    """Formats two numbers as one cell."""
    return " / ".join(number(row, name, form) for row in rows)


def ratio(rows: list[dict[str, Any]]) -> str:
    """Formats our bytes relative to plain Flax's."""
    ours, plain = rows
    return f"{float(ours[MB]) / float(plain[MB]):.2f}" if ours and plain else "–"


def markdown(header: str, rows: Iterable[Iterable[str]]) -> str:
    """Formats a table; the titles are separated by bars."""
    titles = header.split("|")
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def side_by_side(lookup: Lookup) -> str:
    """Models and devices, 128 images on one device."""
    rows, absent = [], []
    for config, title in TITLES.items():
        for device in DEVICES:
            both = [lookup(Row(device, 1, name, config)) for name in BOTH]
            if not any(both):
                absent.append(f"{title} on {device}")
                continue
            cells = (pair(both, GFLOP, "{:.1f}"), pair(both, MB, "{:.0f}"), ratio(both))
            more = (pair(both, US, "{:.0f}"), pair(both, RATE, "{:,.0f}"), pair(both, GB, "{:.1f}"))
            rows.append((title, device, *cells, *more))
    missing = f"\n\nNot compiled yet: {'; '.join(absent)}." if absent else ""
    return markdown("model|device|GFLOP|MB|ratio|us|images/s at most|peak GB", rows) + missing


def rooflines(lookup: Lookup) -> str:
    """Ours against the devices' best and published records, 128 images on one device."""
    rows = []
    for config, title in TITLES.items():
        for device in DEVICES:
            row, target = lookup(Row(device, 1, OURS, config)), TARGETS[device]
            if row:
                computing = 1e15 * float(row[GFLOP]) / target.bfloat16
                moving = 1e12 * float(row[MB]) / target.bandwidth
                cells = (number(row, US, "{:.0f}"), number(row, "bound_by_memory", "{:.0%}"))
                published = PUBLISHED.get((config, device), "none found")
                more = (number(row, RATE, "{:,.0f}"), published, "not measured")
                rows.append(
                    (title, target.title, f"{computing:.0f}", f"{moving:.0f}", *cells, *more)
                )
    return markdown(
        "model|device|computing, us|moving, us|by operation, us|of it memory|images/s at most|"
        "published|leukjax",
        rows,
    )


def batches(lookup: Lookup) -> str:
    """ResNet-50 on an H100 by images per device."""
    rows = []
    for batch in (32, 128, 256):
        both = [lookup(Row("h100", 1, name, "resnet50", batch)) for name in BOTH]
        if any(both):
            cells = (pair(both, RATE, "{:,.0f}"), pair(both, GB, "{:.1f}"))
            rows.append((str(batch), pair(both, MB, "{:.0f}"), ratio(both), *cells))
    return markdown("images|MB per image|ratio|images/s at most|peak GB", rows)


def levers(lookup: Lookup) -> str:
    """Effect of each lever on one H100, 128 images."""
    rows = []
    for config, title in TITLES.items():
        base = lookup(Row("h100", 1, OURS, config))
        for lever in LEVERS:
            row = lookup(Row("h100", 1, OURS, config, lever=lever))
            if row and base:
                change = f"{float(row[MB]) - float(base[MB]):+.1f}" if lever else ""
                cells = (number(row, MB), change, number(row, GFLOP, "{:.1f}"))
                more = (number(row, RATE, "{:,.0f}"), number(row, GB, "{:.2f}"))
                rows.append((title, lever or "fused on", *cells, *more))
    return markdown("model|lever|MB per image|change|GFLOP|images/s at most|peak GB", rows)


def devices(lookup: Lookup) -> str:
    """Collectives on several devices."""
    rows = []
    for row in (row for row in compiled_grid.grid() if row.count > 1):
        if found := lookup(row):
            model = LARGE if row.fields else TITLES[row.config]
            title = ", ".join(filter(None, [row.contender, row.lever]))
            reduced = f"{found['all_reduces']}, {found['all_reduces_overlapped']} overlapped"
            cells = (number(found, MB), number(found, GB, "{:.2f}"), reduced)
            more = (number(found, "all_reduce_megabytes"), found["other_exchanges"] or "none")
            rows.append(
                (f"{row.count} x {row.device}", f"{model}, {row.batch} each", title, *cells, *more)
            )
    return markdown("devices|model|program|MB per image|peak GB|all-reduces|MB|others", rows)


def exchange_seconds(gradients: float, count: int, links: float) -> float:
    """Returns the time of a ring over the devices of each host and one over the hosts.

    Args:
      gradients: bytes.
      count: devices, in hosts of `HOST`.
      links: bytes per second between the devices of a host.
    """
    local, hosts = min(count, HOST), -(-count // HOST)
    inside = 2 * (local - 1) / local * gradients / links
    return inside + 2 * (hosts - 1) / hosts * gradients / HOST / NETWORK


def scaling(lookup: Lookup) -> str:
    """A model of data-parallel training on H100s: ResNet-50, 128 images each, C-NMC's size."""
    base = lookup(Row("h100", 1, OURS, "resnet50"))
    if not base:
        return ""
    parts = lookup(Row("h100", 1, OURS, "resnet50", lever="norm_batch 32")) or base
    step, longer = (128e-6 * float(row[US]) for row in (base, parts))
    gradients, target = 4 * float(base["parameters"]), TARGETS["h100"]
    rows = []
    for count in (1, 8, 64, 256):
        exchange, hosts = exchange_seconds(gradients, count, target.links), -(-count // HOST)
        waiting = STATISTICS * (0 if count == 1 else LATENCY if hosts == 1 else LATENCY_FAR)
        epoch = IMAGES / (128 * count)
        kept = (step / (longer + exchange), step / (step + exchange + waiting))
        rows.append(
            (
                *(str(count), f"{1e3 * step:.1f}", f"{1e3 * exchange:.2f}", f"{1e3 * waiting:.1f}"),
                *(f"{share:.0%}" for share in kept),
                *(f"{epoch:.1f}", f"{EPOCHS * epoch:,.0f}"),
                f"{EPOCHS * epoch * (step / SHARE + exchange):.1f}",
            )
        )
    return markdown(
        "H100s|step at its bound, ms|gradients, ms|statistics, ms|kept, `norm_batch` 32|kept, 0|"
        f"steps per epoch|updates in {EPOCHS} epochs|seconds of them",
        rows,
    )


if __name__ == "__main__":
    main()
