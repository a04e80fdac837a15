"""Compares training recipes on real cells: mixing, losses for rare classes, averages, stains.

python benchmarks/recipes.py --data=../shared/data/bccd_cells
python benchmarks/recipes.py --planted --folder=runs/planted --epochs=10 --image_size=32

Trains `configs/cnn.py` with each recipe of `RECIPES` and each of --seeds seeds on one split by
field (BloodImage_NNNNN), or with --planted on synthetic cells whose test subjects are stained more
strongly, each by another factor. Writes a table of test scores: the mean over the seeds, with 95 %
intervals over fields or subjects (delete-one-group jackknife), and the difference to the plain
recipe, paired by group. Runs that exist in --folder are not trained again.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from leukjax import config
from leukjax.data.synthetic import specimens
from leukjax.metrics import clustered
from leukjax.metrics.intervals import Interval, statistic_interval
from leukjax.metrics.predictions import read
from leukjax.training import trainer

FLAGS = flags.FLAGS
flags.DEFINE_string("data", "../shared/data/bccd_cells", "folder with one sub-folder per class")
flags.DEFINE_bool("planted", False, "synthetic cells, stained otherwise in test; not --data")
flags.DEFINE_string("subject", r"(BloodImage_\d+)", "data.subject_pattern")
flags.DEFINE_integer("seeds", 3, "trainings of each recipe", lower_bound=1)
flags.DEFINE_integer("image_size", 24, "pixels per side", lower_bound=16)
flags.DEFINE_float("epochs", 4.0, "of each run")
flags.DEFINE_string("folder", "runs/recipes", "folder of the runs")
flags.DEFINE_string(
    "output", "", "table to write; default benchmarks/results/recipes.csv, recipes_planted.csv"
)

LATE = "late"  # stands for the last quarter of the epochs
RECIPES: dict[str, dict[str, object]] = {
    "plain": {},
    "mixup": {"augment.mixup": 0.2},
    "cutmix": {"augment.cutmix": 1.0},
    "logit_adjusted": {"loss.name": "logit_adjusted"},
    "ldam": {"loss.name": "ldam"},
    "ldam_deferred": {
        "loss.name": "ldam",
        "loss.class_weights": "balanced",
        "loss.deferred": LATE,
    },
    "swa": {"train.swa": LATE},
    "reinhard": {"data.stain": "reinhard"},
    "macenko": {"data.stain": "macenko"},
    "varied_stain": {"augment.stain": 1.0, "augment.brightness": 0.4, "augment.contrast": 0.3},
    "group_norm": {"model.norm": "group"},
}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
Score = Callable[[np.ndarray], np.ndarray]  # weights of the groups -> value


def main(_: list[str]) -> None:
    """Trains missing runs, prints the table, writes it."""
    logging.set_verbosity(logging.ERROR)
    tables = {name: [_train(name, seed) for seed in range(FLAGS.seeds)] for name in RECIPES}
    rows = [_row(name, tables[name], tables["plain"]) for name in RECIPES]
    name = "recipes_planted.csv" if FLAGS.planted else "recipes.csv"
    output = Path(FLAGS.output or f"benchmarks/results/{name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{value:>14}" for value in row.values()), flush=True)


def _train(name: str, seed: int) -> clustered.Grouped:
    """The test predictions of one run, trained if they are not there."""
    workdir = Path(FLAGS.folder) / f"{name}-{seed}"
    table = workdir / "predictions" / "test.csv"
    if not table.exists():
        fields = {
            **_data(),
            "data.image_size": FLAGS.image_size,
            "train.epochs": FLAGS.epochs,
            "optimizer.learning_rate": 1e-3,
            "checkpoint.metric": "macro_f1",
            "seed": seed,
        }
        late = f"{0.75 * FLAGS.epochs:g} epochs"
        recipe = {key: late if value == LATE else value for key, value in RECIPES[name].items()}
        trainer.train(config.load("cnn:image_folder", fields | recipe), workdir)
        print(f"{name}, seed {seed}: trained", flush=True)
    predictions = read(table)
    return clustered.group(predictions.labels, predictions.probabilities, predictions.group)


def _data() -> dict[str, object]:
    """The config fields of the images; planted ones are drawn if they are not there."""
    if not FLAGS.planted:
        return {"data.root": FLAGS.data, "data.subject_pattern": FLAGS.subject}
    root = Path(FLAGS.folder) / "cells"
    for seed, (part, subjects) in enumerate({"train": 60, "val": 20, "test": 40}.items()):
        if not (root / part).exists():
            _draw(root / part, seed, subjects, (1.2, 2.2) if part == "test" else (1.0, 1.0))
    return {
        "data.root": str(root),
        "data.subject_pattern": r"(subject_\d+)",
        "data.part_from": "folder",
        "split.protocol": "given",
    }


def _draw(folder: Path, seed: int, subjects: int, strength: tuple[float, float]) -> None:
    """Draws cells; the optical density of each subject is times a number between two."""
    cells = specimens.draw(seed=seed, subjects=subjects, cells=6, size=48)
    factors = np.random.default_rng(seed).uniform(*strength, subjects)
    of_subject = cells.parameters["subject_index"]
    for number, (pixels, label) in enumerate(zip(cells.images, cells.label, strict=True)):
        subject = int(of_subject[number])
        stained = 255 * (np.maximum(pixels, 1) / 255.0) ** factors[subject]
        stained = np.where(pixels == 0, 0, np.maximum(stained, 1)).astype(np.uint8)
        place = folder / ("blast", "mature")[label]
        place.mkdir(parents=True, exist_ok=True)
        name = f"subject_{100 * seed + subject:03d}_cell{number}.png"
        Image.fromarray(stained).save(place / name)


def _row(
    name: str, runs: list[clustered.Grouped], plain: list[clustered.Grouped]
) -> dict[str, object]:
    row: dict[str, object] = {"recipe": name, "seeds": len(runs), "groups": runs[0].groups}
    for score in SCORES:
        ours, theirs = _mean(score, runs), _mean(score, plain)
        row |= _columns(score, _interval(ours, runs[0], 0.0))
        if name != "plain":
            gain = _interval(lambda w, a=ours, b=theirs: a(w) - b(w), runs[0], -1.0)
            row |= _columns(f"{score}_gain", gain)
        else:
            row |= dict.fromkeys(_columns(f"{score}_gain", None), "")
    return row


def _mean(name: str, runs: list[clustered.Grouped]) -> Score:
    """The mean of a score over runs on the same images."""
    each = [clustered.statistic(name, data, 0) for data in runs]
    return lambda weights: np.mean([score(weights) for score in each], axis=0)


def _interval(score: Score, data: clustered.Grouped, least: float) -> Interval:
    return statistic_interval(score, data, (least, 1.0), ("mean", "score"))[0]


def _columns(name: str, found: Interval | None) -> dict[str, str]:
    values = (found.value, found.low, found.high) if found else (None, None, None)
    names = (name, f"{name}_low", f"{name}_high")
    return {
        key: "" if value is None else f"{value:.4f}"
        for key, value in zip(names, values, strict=True)
    }


if __name__ == "__main__":
    app.run(main)
