"""Images a second from storage to batch: leukjax from each place of the pixels, PyTorch beside it.

python benchmarks/input_pipeline.py                     about 2 minutes on two cores
python benchmarks/input_pipeline.py --image_size=224 --images=2000

Two stages. *fetched*: batches of uint8 on the device, nothing else. *augmented*: also flips, any
rotation, zoom, brightness, contrast, and normalisation; leukjax in one jitted function, PyTorch
image by image in its workers (torchvision's transforms v2), from PNG files (decode, then the same)
and from one array in memory. Images a second in all, and a second of processor time (a core).
The peers' environment: benchmarks/peers.sh; without it only leukjax is measured.
"""

import sys
import tempfile
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_integer("image_size", 96, "pixels a side")
flags.DEFINE_integer("images", 4000, "number of records")
flags.DEFINE_integer("batch", 32, "images a batch")
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_float("seconds", 2.0, "length of a round")
flags.DEFINE_integer("workers", 2, "worker processes of the DataLoader")
flags.DEFINE_float("step_rate", 8900.0, "images/s of a step that streaming has to feed")
flags.DEFINE_bool("save", True, "append to benchmarks/results/input_pipeline.csv")

AUGMENT = {"rotate": 180.0, "zoom": 0.1, "brightness": 0.1, "contrast": 0.1}


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for augmented in (False, True):
            measure(folder, augmented)


def measure(folder: str, augmented: bool) -> None:
    stage = "augmented" if augmented else "fetched"
    about = {"stage": stage, "batch": FLAGS.batch, "image_size": FLAGS.image_size}
    about |= {"images": FLAGS.images, "precision": "float32" if augmented else "uint8"}
    spec = about | {"folder": folder, "augmented": augmented, "augment": AUGMENT}
    spec |= {"seconds": FLAGS.seconds}
    field = [
        harness.Contender(f"leukjax {mode}", "contender_pipeline.py", spec | {"mode": mode})
        for mode in ("none", "host", "device")
    ]
    peers = harness.peers_python()
    if peers is None:
        print(
            "peers: no environment (benchmarks/peers.sh makes it); leukjax alone", file=sys.stderr
        )
    else:
        for source in ("png", "memory"):
            own = spec | {"source": source, "workers": FLAGS.workers}
            name, script = f"torch {source}", "contender_pipeline_torch.py"
            field.append(harness.Contender(name, script, own, python=peers))
    with harness.running(field) as alive:
        results = harness.interleave(alive, FLAGS.rounds)
    for ours in ("leukjax none", "leukjax host", "leukjax device"):
        print(harness.verdict(f"{stage}", "images_per_second", results, ours))
    if not augmented and "leukjax none" in results:
        rate = harness.spread([r["images_per_core_second"] for r in results["leukjax none"]])
        print(
            f"streaming reads {rate} images a core-second: {FLAGS.step_rate / rate.median:.1f} "
            f"cores keep a step of {FLAGS.step_rate:g} images/s fed at {FLAGS.image_size} px"
        )
    if FLAGS.save:
        for measured in ("images_per_second", "images_per_core_second"):
            table = harness.rows(results, measured, "leukjax none", about)
            harness.append("input_pipeline", table)


if __name__ == "__main__":
    app.run(main)
