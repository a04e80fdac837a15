"""A state is made where it will lie: no device holds more than its share, not for a moment."""

import jax
import jax.numpy as jnp
import pytest

from leukjax import config as configs
from leukjax import sharding
from leukjax.models.registry import create_model, select_options
from leukjax.training import optimizers
from leukjax.training import state as states


def _init(fsdp: bool):
    config = configs.load("cnn", {"model.width": 128, "mesh.data": 8, "mesh.fsdp": fsdp})
    mesh = sharding.make_mesh(config.mesh, config.train.batch_size)
    like = states.Settings(
        seed=jnp.uint32(0),
        mean=jnp.zeros(3),
        std=jnp.ones(3),
        class_weights=jnp.ones(2),
        **{
            name: jnp.float32(1)
            for name in ("learning_rate", "total_steps", "warmup_steps", "step_every")
        },
    )
    init, shardings = states.make_init(
        create_model("cnn", 2, **select_options("cnn", config.model)),
        optimizers.make_transform(config.optimizer),
        like,
        image_size=32,
        ema=True,
        mesh=mesh,
        rules=sharding.rules(config.mesh),
    )
    return init, shardings, like


def _largest_and_total(state) -> tuple[int, int]:
    """Bytes on the fullest device, and bytes of the whole state."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values()), sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_no_device_holds_more_than_its_share():
    init, shardings, like = _init(fsdp=True)
    state = init(like)
    held, total = _largest_and_total(state)
    assert held == pytest.approx(total / 8, rel=0.01)
    assert jax.tree.all(
        jax.tree.map(lambda leaf, wanted: leaf.sharding == wanted, state, shardings)
    )
    # While it is made, too: arguments, results and everything between them, on one device.
    memory = init.lower(like).compile().memory_analysis()
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.output_size_in_bytes == pytest.approx(total / 8, rel=0.05)
    assert memory.temp_size_in_bytes < total / 8 + largest


def test_without_it_every_device_holds_everything():
    init, _, like = _init(fsdp=False)
    held, total = _largest_and_total(init(like))
    assert held == total
