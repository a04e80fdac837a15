"""What a study costs: device-hours of models x folds x seeds, and its length on many devices.

python benchmarks/cost.py                              C-NMC: three models, five folds, three seeds
python benchmarks/cost.py --images=1430 --epochs=20    another study, at 224 px all the same

Throughput at 224 px, batch 32 (CPU) or 128 (accelerators), of three kinds:
- measured: the newest row of results/train_step.csv, or of an accelerator (results/b_resnet50.csv,
  results/c_models.csv);
- scaled: measured at another size, by the number of pixels;
- estimated: 0.6 of the most that the compiled step allows (results/compiled.csv), an assumption.
One fold tests, one validates once per epoch (forward passes only, a third of a step), the others
train. Start, compilation and preparation are left out: minutes per run at most.
"""

import csv
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compiled_grid
import harness
from compiled_grid import OURS, Row
from compiled_tables import SHARE, TITLES, exchange_seconds, markdown

from leukjax.compiler.targets import TARGETS

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 10_661, "labelled images (C-NMC's training set)", lower_bound=1)
flags.DEFINE_integer("epochs", 50, "of each run", lower_bound=1)
flags.DEFINE_integer("folds", 5, "of the cross-validation", lower_bound=3)
flags.DEFINE_integer("seeds", 3, "of each fold", lower_bound=1)

SIZE = 224
DEVICES = {"h100": "H100", "a100": "A100", "v5e": "TPU v5e", "cpu": "two CPU cores"}
NAMES = {"resnet50": "resnet50", "hybrid_vit": "hybrid", "cnn": "cnn"}  # in train_step.csv
COUNTS = (1, 8, 64, 256, 1000)
BATCH = 128  # images per device and step, on accelerators


class Rate(NamedTuple):
    """Images per second that one device trains."""

    value: float
    source: str


def main(_: list[str]) -> None:
    """Prints both tables in Markdown."""
    print(device_hours(), "", study_length(), sep="\n")


def passes() -> float:
    """Returns the images that a run trains on, with a validation image as a third of one."""
    fold = FLAGS.images / FLAGS.folds
    return FLAGS.epochs * (FLAGS.images - 2 * fold + fold / 3)


def device_hours() -> str:
    """Returns hours of one run and of all runs, by model and device."""
    runs, rows = FLAGS.folds * FLAGS.seeds, []
    totals = dict.fromkeys(DEVICES, 0.0)
    for model, title in TITLES.items():
        for device, name in DEVICES.items():
            found = rate(model, device)
            if found is None:
                rows.append((title, name, "–", "no row", "–", "–"))
                totals[device] = float("nan")
                continue
            hours = passes() / found.value / 3600
            totals[device] += runs * hours
            cells = f"{found.value:,.0f}" if found.value >= 100 else f"{found.value:.1f}"
            rows.append((title, name, cells, found.source, f"{hours:.2g}", f"{runs * hours:,.2f}"))
    rows += [("**all**", name, "", "", "", f"{totals[d]:,.2f}") for d, name in DEVICES.items()]
    return markdown(f"model|device|images/s|source|hours per run|hours of {runs} runs", rows)


def study_length() -> str:
    """Returns the length of the whole study on H100s: runs side by side, then each over several."""
    runs = len(TITLES) * FLAGS.folds * FLAGS.seeds
    slowest = min(filter(None, (rate(model, "h100") for model in TITLES)), default=None)
    row = newest(Row("h100", 1, OURS, "resnet50", BATCH))
    if slowest is None or row is None:
        return "No row of an H100: compile one with benchmarks/compiled.py."
    rows = []
    for count in COUNTS:
        each = max(1, count // runs)  # devices of a run
        exchange = exchange_seconds(4 * float(row["parameters"]), each, TARGETS["h100"].links)
        step = BATCH / slowest.value
        kept = step / (step + exchange)
        rounds = -(-runs // min(count, runs))
        minutes = rounds * passes() / (slowest.value * each * kept) / 60
        batch = f"{each * BATCH:,}"
        rows.append((f"{count:,}", f"{min(count, runs)}", f"{each}", batch, f"{minutes:.2g}"))
    header = "H100s|runs at once|devices of a run|images per step|minutes, at most, estimated"
    return markdown(header, rows)


def rate(model: str, device: str) -> Rate | None:
    """Returns the best known throughput of a model on a device; None if there is no row."""
    if device == "cpu":
        return cpu_rate(NAMES[model])
    measured = [
        row
        for file in ("b_resnet50", "c_models")
        for row in read(file)
        if row["contender"].startswith(OURS)
        and row["model"] == NAMES[model]
        and device in row.get("device", "").lower()
        and row.get("median")
    ]
    if measured:
        return Rate(max(float(row["median"]) for row in measured), "measured")
    row = newest(Row(device, 1, OURS, model, BATCH))
    return Rate(SHARE * float(row["images_per_second_bound"]), "estimated") if row else None


def cpu_rate(model: str) -> Rate | None:
    """Returns the newest float32 row of the largest image size, scaled to 224 px by pixels."""
    rows = [
        row
        for row in read("train_step")
        if (row["contender"], row["model"], row["precision"]) == (OURS, model, "float32")
    ]
    if not rows:
        return None
    row = max(rows, key=lambda row: (int(row["image_size"]), row["date"]))
    size = int(row["image_size"])
    source = "measured" if size == SIZE else f"scaled from {size} px"
    return Rate(float(row["median"]) * (size / SIZE) ** 2, source)


def newest(row: Row) -> dict[str, Any] | None:
    """Returns the newest compiled row of a kind."""
    table = compiled_grid.read(harness.RESULTS / "compiled.csv")
    return {compiled_grid.key(r): r for r in table}.get(
        compiled_grid.key(compiled_grid.columns(row))
    )


def read(name: str) -> list[dict[str, str]]:
    """Returns the rows of a result file; none if it is missing."""
    path = harness.RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    app.run(main)
