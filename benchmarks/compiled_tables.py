"""The tables of docs/performance_devices.md, in Markdown, from benchmarks/results/compiled.csv.

python benchmarks/compiled_tables.py

The newest row of each kind counts. A dash: no such row yet.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compiled_grid
import harness
from compiled_grid import OURS, PLAIN, Row

from leukjax.compiler.targets import TARGETS

TITLES = {"resnet50": "ResNet-50", "hybrid_vit": "hybrid R26+ViT-S/32", "cnn": "simple CNN"}
LARGE = "BiT-R152x4"  # the rows of the grid with fields of their own
DEVICES = ("a100", "h100", "v5e", "v5p", "v6e")
# Training of ResNet-50 at 224 px, images/s a device; whose: docs/performance_devices.md.
PUBLISHED = {
    ("resnet50", "a100"): "2,470 (PyTorch), 3,411 (MXNet)",
    ("resnet50", "h100"): "about 6,900 (MLPerf 3.0, derived)",
}
Found = Callable[[Row], dict[str, Any]]


def main() -> None:
    table = compiled_grid.read(harness.RESULTS / "compiled.csv")
    newest = {compiled_grid.key(row): row for row in table}

    def found(row: Row) -> dict[str, Any]:
        return newest.get(compiled_grid.key(compiled_grid.columns(row)), {})

    tables = (side_by_side, rooflines, batches, levers, growth, scaling)
    print(*(table(found) for table in tables), sep="\n\n")


def number(row: dict[str, Any], name: str, form: str = "{:,.1f}") -> str:
    """A cell."""
    return form.format(float(row[name])) if row else "–"


def pair(ours: dict[str, Any], plain: dict[str, Any], name: str, form: str) -> str:
    """Two numbers in a cell."""
    return f"{number(ours, name, form)} / {number(plain, name, form)}"


def ratio(ours: dict[str, Any], plain: dict[str, Any], name: str) -> str:
    """Of ours to plain Flax's."""
    return f"{float(ours[name]) / float(plain[name]):.2f}" if ours and plain else "–"


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def side_by_side(found: Found) -> str:
    """Models and devices, 128 images on one device; what is not there stands below."""
    rows, absent = [], []
    for config, title in TITLES.items():
        for device in DEVICES:
            ours, plain = (found(Row(device, 1, name, config)) for name in (OURS, PLAIN))
            if not (ours or plain):
                absent.append(f"{title} on {device}")
                continue
            rows.append(
                (
                    title,
                    device,
                    pair(ours, plain, "gigaflops_per_image", "{:.1f}"),
                    pair(ours, plain, "megabytes_per_image", "{:.0f}"),
                    ratio(ours, plain, "megabytes_per_image"),
                    pair(ours, plain, "roofline_microseconds_per_image", "{:.0f}"),
                    pair(ours, plain, "images_per_second_bound", "{:,.0f}"),
                    pair(ours, plain, "peak_gigabytes", "{:.1f}"),
                )
            )
    header = ("model", "device", "GFLOP", "MB", "ratio", "us", "images/s at most", "peak GB")
    missing = f"\n\nNot compiled yet: {'; '.join(absent)}." if absent else ""
    return markdown(header, rows) + missing


def rooflines(found: Found) -> str:
    """Ours against the devices' best and the published records, 128 images on one device."""
    rows = []
    for config, title in TITLES.items():
        for device in DEVICES:
            row, target = found(Row(device, 1, OURS, config)), TARGETS[device]
            if not row:
                continue
            computing = 1e15 * float(row["gigaflops_per_image"]) / target.bfloat16
            moving = 1e12 * float(row["megabytes_per_image"]) / target.bandwidth
            rows.append(
                (
                    title,
                    target.title,
                    f"{computing:.0f}",
                    f"{moving:.0f}",
                    number(row, "roofline_microseconds_per_image", "{:.0f}"),
                    number(row, "bound_by_memory", "{:.0%}"),
                    number(row, "images_per_second_bound", "{:,.0f}"),
                    PUBLISHED.get((config, device), "none found"),
                    "not measured",
                )
            )
    header = (
        "model",
        "device",
        "computing, us",
        "moving, us",
        "by operation, us",
        "of it memory",
        "images/s at most",
        "published",
        "leukjax",
    )
    return markdown(header, rows)


def batches(found: Found) -> str:
    """ResNet-50 on an H100 by images on the device."""
    rows = []
    for batch in (32, 128, 256):
        ours, plain = (found(Row("h100", 1, name, "resnet50", batch)) for name in (OURS, PLAIN))
        if not (ours or plain):
            continue
        rows.append(
            (
                str(batch),
                pair(ours, plain, "megabytes_per_image", "{:.0f}"),
                ratio(ours, plain, "megabytes_per_image"),
                pair(ours, plain, "images_per_second_bound", "{:,.0f}"),
                pair(ours, plain, "peak_gigabytes", "{:.1f}"),
            )
        )
    return markdown(("images", "MB an image", "ratio", "images/s at most", "peak GB"), rows)


def levers(found: Found) -> str:
    """What each lever gives on one H100, 128 images."""
    rows = []
    for config, title in TITLES.items():
        base = found(Row("h100", 1, OURS, config))
        for lever in compiled_grid.LEVERS:
            row = found(Row("h100", 1, OURS, config, lever=lever))
            if row and base:
                change = float(row["megabytes_per_image"]) - float(base["megabytes_per_image"])
                rows.append(
                    (
                        title,
                        lever or "as it is",
                        number(row, "megabytes_per_image"),
                        f"{change:+.1f}" if lever else "",
                        number(row, "gigaflops_per_image", "{:.1f}"),
                        number(row, "images_per_second_bound", "{:,.0f}"),
                        number(row, "peak_gigabytes", "{:.2f}"),
                    )
                )
    header = ("model", "lever", "MB an image", "change", "GFLOP", "images/s at most", "peak GB")
    return markdown(header, rows)


def growth(found: Found) -> str:
    """Several devices: what they send each other."""
    rows = []
    for row in dict.fromkeys(one for one in compiled_grid.grid() if one.count > 1):
        one = found(row)
        if one:
            rows.append(
                (
                    f"{row.count} x {row.device}",
                    f"{LARGE if row.fields else TITLES[row.config]}, {row.batch} each",
                    ", ".join(filter(None, [row.contender, row.lever])),
                    number(one, "megabytes_per_image"),
                    number(one, "peak_gigabytes", "{:.2f}"),
                    f"{one['all_reduces']}, {one['all_reduces_overlapped']} overlapped",
                    number(one, "all_reduce_megabytes"),
                    one["other_exchanges"] or "none",
                )
            )
    header = (
        "devices",
        "model",
        "program",
        "MB an image",
        "peak GB",
        "all-reduces",
        "MB",
        "others",
    )
    return markdown(header, rows)


def scaling(found: Found) -> str:
    """A model of data parallel training on H100s: ResNet-50, 128 images each, C-NMC's size."""
    one = found(Row("h100", 1, OURS, "resnet50"))
    if not one:
        return ""
    target = TARGETS["h100"]
    gradients = 4 * float(one["parameters"])
    step = 128e-6 * float(one["roofline_microseconds_per_image"])
    parted = found(Row("h100", 1, OURS, "resnet50", lever="norm_batch 32")) or one
    longer = 128e-6 * float(parted["roofline_microseconds_per_image"])
    rows = []
    for count in (1, 8, 64, 256):
        own, hosts = min(count, HOST), max(count // HOST, 1)
        exchange = 2 * (own - 1) / own * gradients / target.links
        exchange += 2 * (hosts - 1) / hosts * gradients / HOST / NETWORK
        waiting = STATISTICS * (0 if count == 1 else LATENCY if hosts == 1 else LATENCY_FAR)
        epoch = IMAGES / (128 * count)
        rows.append(
            (
                str(count),
                f"{1e3 * step:.1f}",
                f"{1e3 * exchange:.2f}",
                f"{1e3 * waiting:.1f}",
                f"{step / (longer + exchange):.0%}",
                f"{step / (step + exchange + waiting):.0%}",
                f"{epoch:.1f}",
                f"{EPOCHS * epoch:,.0f}",
                f"{EPOCHS * epoch * (step / SHARE + exchange):.1f}",
            )
        )
    header = (
        "H100s",
        "step at its bound, ms",
        "gradients, ms",
        "statistics, ms",
        "kept, `norm_batch` 32",
        "kept, 0",
        "steps an epoch",
        f"updates in {EPOCHS} epochs",
        "seconds of them",
    )
    return markdown(header, rows)


# Of the model of scaling. Assumed: 400 Gb/s a card between hosts of eight; so many seconds until a
# small all-reduce is through, in a host and between hosts; a program at so much of its bound.
HOST, NETWORK = 8, 50e9
LATENCY, LATENCY_FAR = 20e-6, 50e-6
SHARE = 0.6
STATISTICS = 106  # all-reduces of BatchNorm a step: 53 layers, forward and backward
IMAGES, EPOCHS = 10_000, 50  # of C-NMC, of the literature


if __name__ == "__main__":
    main()
