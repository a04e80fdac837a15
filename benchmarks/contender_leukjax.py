"""Contender: leukjax's training step or prediction, fed with uint8 images from the host."""

from typing import Any

import jax
import numpy as np
from harness import Round, device_memory, repeated, serve, with_memory
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import runtime, sharding
from leukjax.compiler.compiled import summarize
from leukjax.compiler.targets import TARGETS
from leukjax.models import summary
from leukjax.training.trainer import Trainer

# No augmentation, no dropout, as in the peers.
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"model.name": "cnn", "model.width": 32},
    "resnet50": {"model.name": "resnet", "model.depth": 50},
    "hybrid": {"model.name": "hybrid_vit", "model.variant": "r26_s32", "model.norm": "group"},
    "vit_s16": {"model.name": "vit", "model.variant": "s16", "model.gelu_tanh": False},
    "vit_b16": {"model.name": "vit", "model.variant": "b16", "model.gelu_tanh": False},
}
BARE = {
    "augment.flip": False,
    "augment.quarter_turns": False,
    "optimizer.name": "adam",
    "data.mean": "0.5,0.5,0.5",
    "data.std": "0.25,0.25,0.25",
}


def make_config(spec: dict[str, Any]) -> ConfigDict:
    """Returns the config of a spec: model, image_size, batch, precision, and maybe fused."""
    changes = {
        **BARE,
        **MODELS[spec["model"]],
        "data.image_size": spec["image_size"],
        "train.batch_size": spec["batch"],
        "compute_dtype": spec["precision"],
        "model.fused": spec.get("fused", "auto"),
    }
    return configs.load("default", changes)


def make_trainer(spec: dict[str, Any]) -> Trainer:
    """Returns the trainer of a spec; sets up this process as the commands do."""
    config = make_config(spec)
    runtime.start(config)  # before the trainer, which looks for devices
    return Trainer.from_config(config, num_classes=2)


def make_batch(count: int, size: int) -> dict[str, np.ndarray]:
    """Returns a batch of noise."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, 2, count).astype(np.int32),
        "mask": np.ones(count, bool),
        "index": np.arange(count, dtype=np.int32),
    }


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Compiles the training step or the prediction, warms up."""
    trainer = make_trainer(spec)
    batch = make_batch(spec["batch"], spec["image_size"])
    spread = sharding.batch_sharding(trainer.mesh)
    held = [trainer.init_state()]
    if spec["task"] == "train":

        def once() -> jax.Array:
            held[0], metrics = trainer.train_step(held[0], sharding.put(batch, spread))
            return metrics["loss"]
    else:

        def once() -> jax.Array:
            return trainer.eval_step(held[0], sharding.put(batch, spread))

    device = jax.devices()[0]
    about = {
        "device": runtime.describe(),
        "versions": f"jax {jax.__version__}",
        "flops_per_image": summary.table(trainer.model, spec["image_size"]).flops,
        "peak_flops": runtime.peak_flops(device),
    }
    if spec.get("estimate"):
        about |= estimate(trainer, held[0], sharding.put(batch, spread), spec)
    run = repeated(once, jax.block_until_ready, spec["seconds"], spec.get("wait_each", False))
    return about, with_memory(run, lambda: device_memory(device))


def estimate(trainer: Trainer, state: Any, batch: Any, spec: dict[str, Any]) -> dict[str, float]:
    """Returns the bytes per image in the compiled program, and its bound by the roofline."""
    steps = trainer.compiled()
    function: Any = steps.train_steps[1] if spec["task"] == "train" else steps.eval_step
    target = TARGETS["a100" if "A100" in jax.devices()[0].device_kind else "h100"]
    text = function.lower(state, batch).compile().as_text()
    summary = summarize(text, target, spec["batch"])
    return {
        "estimated_megabytes_per_image": summary.bytes_per_image / 1e6,
        f"estimated_bound_{target.name}": summary.images_per_second,
    }


if __name__ == "__main__":
    serve(prepare)
