"""Images per second from storage to batch: leukjax's data caches beside PyTorch's DataLoader.

python benchmarks/input_pipeline.py                     about 2 minutes on two cores
python benchmarks/input_pipeline.py --image_size=224 --images=2000

Two stages. *fetched*: batches of uint8 on the device. *augmented*: also flips, any rotation, zoom,
brightness, contrast and normalisation; leukjax in one jitted function, PyTorch image by image in
its workers (torchvision's transforms v2), from PNG files and from an array in memory. Images per
second, and per second of processor time (a core). Without the peers' environment
(benchmarks/peers.sh) only leukjax is measured. Adds rows to benchmarks/results/input_pipeline.csv.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_integer("image_size", 96, "pixels per side")
flags.DEFINE_integer("images", 4000, "number of records")
flags.DEFINE_integer("batch", 32, "images per batch")
flags.DEFINE_integer("rounds", 3, "interleaved rounds of each")
flags.DEFINE_float("seconds", 2.0, "length of a round")
flags.DEFINE_integer("workers", 2, "worker processes of the DataLoader")
flags.DEFINE_float("step_rate", 8900.0, "images/s of a step that streaming has to feed")
flags.DEFINE_bool("save", True, "append to benchmarks/results/input_pipeline.csv")

AUGMENT = {"rotate": 180.0, "zoom": 0.1, "brightness": 0.1, "contrast": 0.1}


def main(_: list[str]) -> None:
    """Measures both stages."""
    with tempfile.TemporaryDirectory() as folder:
        for is_augmented in (False, True):
            compare(folder, is_augmented)


def compare(folder: str, is_augmented: bool) -> None:
    """Measures one stage, prints verdicts, appends the rows."""
    stage = "augmented" if is_augmented else "fetched"
    about = {"stage": stage, "batch": FLAGS.batch, "image_size": FLAGS.image_size}
    about |= {"images": FLAGS.images, "precision": "float32" if is_augmented else "uint8"}
    spec = about | {"folder": folder, "augmented": is_augmented, "augment": AUGMENT}
    spec |= {"seconds": FLAGS.seconds, "workers": FLAGS.workers, "task": "pipeline"}
    contenders = [
        harness.Contender(f"leukjax {mode}", __file__, spec | {"mode": mode})
        for mode in ("none", "host", "device")
    ]
    peers = harness.peers_python()
    if peers is None:
        print("left out: torch; benchmarks/peers.sh makes its environment", file=sys.stderr)
    else:
        contenders += [
            harness.Contender(
                f"torch {source}", "contender_torch.py", spec | {"source": source}, python=peers
            )
            for source in ("png", "memory")
        ]
    results = harness.measure(contenders, FLAGS.rounds)
    for ours in ("leukjax none", "leukjax host", "leukjax device"):
        print(harness.verdict(stage, "images_per_second", results, ours))
    if not is_augmented and "leukjax none" in results:
        rate = harness.spread([r["images_per_core_second"] for r in results["leukjax none"]])
        print(
            f"streaming reads {rate} images per core-second: {FLAGS.step_rate / rate.median:.1f} "
            f"cores feed a step of {FLAGS.step_rate:g} images/s at {FLAGS.image_size} px"
        )
    if FLAGS.save:
        for measure in ("images_per_second", "images_per_core_second"):
            table = harness.rows(results, measure, "leukjax none", about)
            harness.append("input_pipeline", table)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """One of leukjax's data caches, from stored image to batch."""
    import itertools

    import jax
    import numpy as np
    from synthetic import Synthetic

    from leukjax import config, sharding
    from leukjax.images.augment import augment
    from leukjax.images.normalize import standardize, to_float
    from leukjax.training.data_placement import lookup_images
    from leukjax.training.hyperparameters import augment_options

    settings = config.load("cnn", {"train.batch_size": spec["batch"], "mesh.data": 1})
    settings.augment.update(spec["augment"])
    options = augment_options(settings, "black")
    records = Synthetic(spec["folder"], spec["images"], spec["image_size"])
    rows = np.arange(len(records))
    mesh = sharding.make_mesh(settings.mesh, spec["batch"])
    prefetch, image_sharding = records.prefetch(mesh, rows, spec["batch"], spec["mode"])

    @jax.jit
    def transform(batch: Any, step: Any) -> Any:
        images = to_float(lookup_images(batch, mesh, image_sharding))
        positions = np.arange(spec["batch"], dtype=np.int32)
        key = jax.random.fold_in(jax.random.key(0), step)
        return standardize(augment(key, images, positions, options), np.full(3, 0.5), np.full(3, 1))

    batches = iter(prefetch)
    if spec["augmented"]:
        batches = map(transform, batches, itertools.count())
    versions = harness.versions("jax", "grain", "array_record")
    run = harness.paced(
        lambda: next(batches), spec["batch"], spec["seconds"], jax.block_until_ready
    )
    return {"device": harness.processor(), "versions": versions}, run


if __name__ == "__main__":
    harness.start(main, prepare)
