"""Contender: plain Flax, fed with float images from the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Round, device_memory, repeated, serve, with_memory
from plain_flax import make_predict, make_step


def prepare(spec: dict[str, Any]) -> tuple[dict[str, Any], Round]:
    """Compile the training step or the prediction, warm up."""
    rng = np.random.default_rng(0)
    shape = (spec["batch"], spec["image_size"], spec["image_size"], 3)
    images = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(0, 2, spec["batch"]).astype(np.int32)
    dtype = jnp.dtype(spec["precision"])
    device = jax.devices()[0]
    if spec["task"] == "train":
        init, step = make_step(spec["model"], dtype, optax.adam(1e-3))
        jitted = jax.jit(step, donate_argnums=0)
        held = [jax.jit(init)(images)]

        def once() -> jax.Array:
            held[0], loss = jitted(held[0], images, labels)
            return loss
    else:
        init, predict = make_predict(spec["model"], dtype)
        forward = jax.jit(predict)
        variables = jax.jit(init)(images)

        def once() -> jax.Array:
            return forward(variables, images)

    about = {"device": device.device_kind, "versions": f"jax {jax.__version__}"}
    run = repeated(once, jax.block_until_ready, spec["seconds"], spec.get("wait_each", False))
    return about, with_memory(run, lambda: device_memory(device))


if __name__ == "__main__":
    serve(prepare)
