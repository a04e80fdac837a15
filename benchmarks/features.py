"""Features of images, as `leukjax.probe` computes them, beside timm: images per second.

python benchmarks/features.py                                     ViT-S/16 at 224 px
python benchmarks/features.py --models=hybrid --rounds=7

A batch of 32 images goes from host memory to the device and through the network, and its features
come back before the next batch starts. leukjax gets uint8 images, normalises them and returns the
features and the last feature map; timm gets normalised float images and has a head of two classes
more. Weights are random. Rounds interleave; medians with quartiles; ratios within a round. Without
the peers' environment (benchmarks/peers.sh) only leukjax is measured. Adds rows to
benchmarks/results/features.csv.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["vit_s16"], "of vit_s16 (ViT-S/16), hybrid (R26+ViT-S/32)")
flags.DEFINE_list("peers", ["timm", "timm compiled"], "of timm, timm compiled")
flags.DEFINE_integer("image_size", 224, "pixels per side", lower_bound=33)
flags.DEFINE_integer("rounds", 5, "rounds of each contender", lower_bound=1)
flags.DEFINE_float("seconds", 5.0, "approximate length of a round", lower_bound=0.0)
flags.DEFINE_bool("save", True, "append to benchmarks/results/features.csv")

BATCH = 32
FIELDS: dict[str, dict[str, Any]] = {
    "vit_s16": {"model.name": "vit", "model.variant": "s16", "model.gelu_tanh": False},
    "hybrid": {"model.name": "hybrid_vit", "model.variant": "r26_s32", "model.norm": "group"},
}


def main(_: list[str]) -> None:
    """Measures every model."""
    for model in FLAGS.models:
        compare(model)


def compare(model: str) -> None:
    """Measures one model, prints a verdict, appends the rows."""
    about = {"model": model, "precision": "float32", "batch": BATCH}
    about |= {"image_size": FLAGS.image_size}
    spec = about | {"task": "predict", "seconds": FLAGS.seconds, "wait_each": True}
    contenders = [harness.Contender("leukjax", __file__, spec)]
    peers = harness.peers_python()
    if peers is None:
        print("left out: timm; benchmarks/peers.sh makes its environment", file=sys.stderr)
    else:
        contenders += [
            harness.Contender(
                name, "contender_torch.py", spec | {"compiled": name != "timm"}, python=peers
            )
            for name in FLAGS.peers
        ]
    results = harness.measure(contenders, FLAGS.rounds)
    for answers in results.values():
        for answer in answers:
            answer["images_per_second"] = BATCH / answer["seconds"]
    title = f"features of {model}, {FLAGS.image_size} px"
    print(harness.verdict(title, "images_per_second", results, "leukjax"))
    if FLAGS.save:
        table = harness.rows(results, "images_per_second", "leukjax", about)
        harness.append("features", table)


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], harness.Round]:
    """The network of a probe on this machine's devices."""
    import numpy as np

    from leukjax import config, runtime, sharding
    from leukjax.models.registry import model_from_config
    from leukjax.probe import backbone

    fields = {**FIELDS[spec["model"]], "data.image_size": spec["image_size"]}
    settings = config.load("default", fields | {"mesh.data": 1})
    runtime.start(settings)
    module = model_from_config(settings, 2, "cpu")
    network = backbone.make(settings, module, ("a", "b"), sharding.make_mesh(settings.mesh, 0))
    shape = (spec["batch"], spec["image_size"], spec["image_size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    about = {"device": harness.processor(), "versions": harness.versions("jax")}

    def once() -> Any:
        return {name: np.asarray(x) for name, x in network(images).items()}

    return about, harness.repeated(once, lambda _: None, spec["seconds"])


if __name__ == "__main__":
    harness.start(main, prepare)
