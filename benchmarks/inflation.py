"""Measures how much a split by image inflates scores over a split by subject.

python benchmarks/inflation.py                       a CNN, eight splits of each kind
python benchmarks/inflation.py --splits=3 --figure=  three splits, no figure

Trains `configs/literature.py` (Adam, batch 32, constant rate) once on each of --splits partitions
70/15/15 by image and by subject, all else equal, and reads the test scores. The splits differ only
by their seed; none is left out. Prints each score, the mean of each kind, and the difference with a
95 % interval over splits (Welch's t). The cells are synthetic: this is no clinical fact. Runs that
exist in --folder are not trained again.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from leukjax import config
from leukjax.metrics.predictions import read
from leukjax.report.style import BLUE, VERMILION, entitle, save, style
from leukjax.training import trainer

FLAGS = flags.FLAGS
flags.DEFINE_integer("splits", 8, "partitions of each kind", lower_bound=2)
flags.DEFINE_integer("subjects", 40, "synthetic subjects", lower_bound=12)
flags.DEFINE_integer("image_size", 32, "pixels per side", lower_bound=16)
flags.DEFINE_float("epochs", 30.0, "of each run")
flags.DEFINE_string("folder", "runs/inflation", "folder of the runs")
flags.DEFINE_string("figure", "docs/images/inflation.png", "file of the figure; empty: none")

KINDS = {"image": "split by image (leaky)", "subject": "split by subject"}


def main(_: list[str]) -> None:
    """Trains missing runs, prints, draws."""
    logging.set_verbosity(logging.ERROR)
    folder = Path(FLAGS.folder)
    scores = {kind: [train(folder, kind, s) for s in range(FLAGS.splits)] for kind in KINDS}
    for kind, values in scores.items():
        listed = " ".join(f"{value:.3f}" for value in values)
        print(f"{kind:8} {listed}  mean {np.mean(values):.3f}")
    test = stats.ttest_ind(scores["image"], scores["subject"], equal_var=False)
    low, high = test.confidence_interval()
    gap = float(np.mean(scores["image"]) - np.mean(scores["subject"]))
    print(f"inflation of balanced accuracy: {gap:+.3f} ({low:+.3f} to {high:+.3f}, over splits)")
    if FLAGS.figure:
        target = Path(FLAGS.figure)
        save(draw(scores, gap, (low, high)), target.parent, target.stem, kinds=("png",))


def train(folder: Path, kind: str, seed: int) -> float:
    """Returns the balanced accuracy by image on the test part of one split."""
    workdir = folder / f"{kind}-{seed}"
    table = workdir / "predictions" / "test.csv"
    if not table.exists():
        recipe = "smears,cnn" + (",subject" if kind == "subject" else "")
        changes = {
            "data.smears_subjects": FLAGS.subjects,
            "data.image_size": FLAGS.image_size,
            "model.width": 16,
            "train.epochs": FLAGS.epochs,
            "split.seed": seed,
        }
        trainer.train(config.load(f"literature:{recipe}", changes), workdir)
    predictions = read(table)
    right = predictions.probabilities.argmax(axis=1) == predictions.labels
    return float(np.mean([right[predictions.labels == c].mean() for c in range(2)]))


def draw(scores: dict[str, list[float]], gap: float, interval: tuple[float, float]) -> Figure:
    """Draws every score as a point, the means as lines."""
    with style():
        figure = Figure(figsize=(5.6, 2.6))
        axes = figure.add_subplot()
        for row, (kind, colour) in enumerate(zip(KINDS, (VERMILION, BLUE), strict=True)):
            values = np.array(scores[kind])
            height = row + np.linspace(-0.16, 0.16, len(values))
            axes.plot(values, height, "os"[row], color=colour, markersize=5, alpha=0.8)
            axes.vlines(values.mean(), row - 0.3, row + 0.3, color=colour, linewidth=2)
            axes.annotate(
                f"mean {values.mean():.3f}",
                (values.mean(), row - 0.34),
                ha="center",
                va="bottom",
                color=colour,
                fontsize=8,
            )
        axes.set_yticks(range(2), list(KINDS.values()))
        axes.set_ylim(1.5, -0.7)
        axes.set_xlabel("balanced accuracy on the test part (each point: one split)")
        low, high = interval
        entitle(
            figure,
            f"A split by image adds {gap:.3f} ({low:.3f} to {high:.3f})",
            ["synthetic cells"],
        )
    return figure


if __name__ == "__main__":
    app.run(main)
