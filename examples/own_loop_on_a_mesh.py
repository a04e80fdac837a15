"""A training loop of your own on eight devices, with leukjax's compiled training step.

JAX_NUM_CPU_DEVICES=8 python examples/own_loop_on_a_mesh.py

JAX_NUM_CPU_DEVICES=8 splits a CPU into eight devices; leave it out on a machine with accelerators.
"""

import sys

import jax
import numpy as np
import optax
from jax.sharding import AxisType

import leukjax as lj

if len(jax.devices()) == 1:
    raise SystemExit("start it with JAX_NUM_CPU_DEVICES=8, or on a machine with several devices")


def batches(steps: int, size: int = 16):
    """Random images whose brightness is the label. A stand-in for your own input pipeline."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        labels = rng.integers(0, 2, size).astype(np.int32)
        noise = rng.integers(0, 128, (size, 32, 32, 3))
        yield {
            "image": (noise + 100 * labels[:, None, None, None]).astype(np.uint8),
            "label": labels,
        }


def main(steps: str = "30") -> float:
    """Trains, and returns the accuracy on a last batch."""
    mesh = jax.make_mesh((8, 1), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    trainer = lj.Trainer(
        lj.create_model("cnn", num_classes=2, width=8),
        optimizer=optax.adam(1e-3),
        image_size=32,
        batch_size=16,
        mean=(0.4, 0.4, 0.4),
        std=(0.25, 0.25, 0.25),
        mesh=mesh,
    )
    state = trainer.init_state()
    for step, batch in enumerate(batches(int(steps))):
        state, metrics = trainer.train_step(state, batch)  # the old state's memory is reused
        if step % 10 == 0:
            print(f"step {step}: loss {float(metrics['loss']):.3f}")
    last = next(batches(1))
    logits = trainer.eval_step(state, last)
    accuracy = float(np.mean(np.argmax(logits, -1) == last["label"]))
    print(f"accuracy {accuracy:.2f} on {len(jax.tree.leaves(state.params))} arrays of parameters")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:])
