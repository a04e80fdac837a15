"""Images a second over whole epochs as a share of the bare step, by where the pixels lie.

python benchmarks/end_to_end.py                                  about 5 minutes on two cores
python benchmarks/end_to_end.py --config=resnet50 --image_size=64 --epochs=2

The bare step has its batch on the device already; half an epoch of it is timed before and after
each epoch, in the same process, and a round's share is the median over its epochs: a neighbour who
takes the cores for some seconds slows both. Time lost to evaluation, checkpoints and logging is
listed apart, and `share_all_included` counts it. Checkpoints are written in the background and on
CPU take cores from the step: that is in the share, and not in that of the contender which saves
nothing.
"""

import sys
import tempfile
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_string("config", "cnn", "a shipped config")
flags.DEFINE_integer("image_size", 48, "pixels a side")
flags.DEFINE_integer("batch", 32, "images a batch")
flags.DEFINE_integer("epochs", 6, "epochs of a round", lower_bound=1)
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_integer("steps_per_call", 13, "of the contender with several steps a call")
flags.DEFINE_bool("save", True, "append to benchmarks/results/end_to_end.csv")

TARGETS = {"device": 0.97, "device, several steps a call": 0.97, "host": 0.95}
UNSAVED = "device, nothing saved"


def main(_: list[str]) -> None:
    about = {"config": FLAGS.config, "batch": FLAGS.batch, "image_size": FLAGS.image_size}
    changes = {
        "train.batch_size": FLAGS.batch,
        "data.image_size": FLAGS.image_size,
        "train.epochs": float(FLAGS.epochs),
    }
    several = {"data.cache": "device", "train.steps_per_call": FLAGS.steps_per_call}
    modes = {mode: {"data.cache": mode} for mode in ("none", "host", "device")}
    modes["device, several steps a call"] = several
    modes[UNSAVED] = {"data.cache": "device"}
    with tempfile.TemporaryDirectory() as folder:
        field = [
            harness.Contender(
                name,
                "contender_end_to_end.py",
                {
                    "config": FLAGS.config,
                    "folder": folder,
                    "changes": changes | own,
                    "save": name != UNSAVED,
                },
            )
            for name, own in modes.items()
        ]
        with harness.running(field) as alive:
            results = harness.interleave(alive, FLAGS.rounds)
    for name, answers in results.items():
        share = harness.spread([answer["share_of_pure"] for answer in answers])
        last = answers[-1]
        target = TARGETS.get(name)
        met = "" if target is None else f" (target {target}: {_met(share.median, target)})"
        lost = ", ".join(
            f"{key.removeprefix('seconds_')} {value:.2f} s"
            for key, value in last.items()
            if key.startswith("seconds_") and key != "seconds_to_ready"
        )
        evaluation = harness.spread([answer["evaluation_to_training"] for answer in answers])
        print(
            f"{name}: {share} of the bare step{met}; evaluation at {evaluation} x the training "
            f"rate; of {last['seconds']:.1f} s: {lost}"
        )
    if FLAGS.save:
        for measure in ("share_of_pure", "share_all_included", "evaluation_to_training"):
            harness.append("end_to_end", harness.rows(results, measure, "none", about))


def _met(value: float, target: float) -> str:
    return "met" if value >= target else "missed"


if __name__ == "__main__":
    app.run(main)
