"""LoRA beside full fine-tuning and a frozen backbone: step time, state and checkpoint.

python benchmarks/lora.py                              ViT-S/14 at 112 px, batch 16, in minutes
python benchmarks/lora.py --variant=tiny --image_size=48

The three train from the same seeded weights, in one process and in turn; a round is `--steps` steps
of each. Adds rows to benchmarks/results/lora.csv.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

FLAGS = flags.FLAGS
flags.DEFINE_string("variant", "s14", "of the vision transformer")
flags.DEFINE_integer("image_size", 112, "pixels per side")
flags.DEFINE_integer("batch", 16, "images per step")
flags.DEFINE_integer("rank", 8, "of the updates")
flags.DEFINE_integer("rounds", 5, "of each")
flags.DEFINE_integer("steps", 3, "per round")

FULL = "full"


def main(_: list[str]) -> None:
    """Measures, prints, appends the rows."""
    import jax

    from leukjax import runtime

    runtime.hold_memory()  # before JAX looks for devices
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(Path(folder) / "weights.safetensors")
        methods = {FULL: {}, f"lora {FLAGS.rank}": {"optimizer.lora_rank": FLAGS.rank},
                   "head alone": {"optimizer.freeze_stages": -1}}  # fmt: skip
        runs = {name: start(weights, fields) for name, fields in methods.items()}
    results: harness.Results = {name: [] for name in runs}
    for _ in range(FLAGS.rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            for _ in range(FLAGS.steps):
                run["state"], metrics = run["step"](run["state"], run["batch"])
            jax.block_until_ready(metrics)
            rate = FLAGS.steps * FLAGS.batch / (time.perf_counter() - began)
            state = run["state"]
            results[name].append(
                {
                    "images_per_second": rate,
                    "state_megabytes": megabytes(state),
                    "checkpoint_megabytes": megabytes(state.saved),
                    "device": harness.processor(),
                    "versions": harness.versions("jax", "flax", "optax"),
                }
            )
    about = {"variant": FLAGS.variant, "image_size": FLAGS.image_size, "batch": FLAGS.batch}
    rows = harness.rows(results, "images_per_second", FULL, about)
    for row in rows:
        print({key: row[key] for key in ("contender", "median", "state_megabytes",
                                         "checkpoint_megabytes")})  # fmt: skip
    print(harness.verdict("training", "images_per_second", results, f"lora {FLAGS.rank}"))
    harness.append("lora", rows)


def write_weights(path: Path) -> Path:
    """Writes seeded weights in timm's layout, without a head."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import traverse_util
    from safetensors.numpy import save_file

    from leukjax.models.registry import create_model
    from leukjax.weights import layouts

    model = create_model("vit", 2, variant=FLAGS.variant)
    images = jnp.zeros((1, FLAGS.image_size, FLAGS.image_size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    random = np.random.default_rng(0)
    variables = {
        name: (0.02 * random.normal(size=leaf.shape)).astype(np.float32)
        for name, leaf in traverse_util.flatten_dict(shapes).items()
    }
    tensors = layouts.timm_tensors("vit", variables, 0)
    save_file({name: value for name, value in tensors.items() if "head" not in name}, path)
    return path


def start(weights: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a compiled step, its state and a batch."""
    import contender_leukjax
    import jax

    from leukjax import config, sharding
    from leukjax.training.trainer import Trainer

    fields = {"model.variant": FLAGS.variant, "data.image_size": FLAGS.image_size,
              "train.batch_size": FLAGS.batch, "init.weights": str(weights),
              "optimizer.name": "adamw", **changes}  # fmt: skip
    trainer = Trainer.from_config(config.load("vit", fields), num_classes=2)
    batch = contender_leukjax.make_batch(FLAGS.batch, FLAGS.image_size)
    batch = sharding.put(batch, sharding.batch_sharding(trainer.mesh))
    state = trainer.init_state(steps_per_epoch=100)
    step = trainer.compiled().train_steps[1]
    state, metrics = step(state, batch)  # compiles
    jax.block_until_ready(metrics)
    return {"state": state, "step": step, "batch": batch}


def megabytes(tree: Any) -> float:
    """Returns the size of all arrays."""
    import jax

    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 1e6


if __name__ == "__main__":
    app.run(main)
