"""A state is created sharded: no device ever holds more than its share."""

import jax
import jax.numpy as jnp
import pytest

from leukjax import config as configs
from leukjax.training.state import settings_form
from leukjax.training.trainer import Trainer


def _init(fsdp: bool):
    fields = {"model.width": 128, "mesh.data": 8, "mesh.fsdp": fsdp, "data.image_size": 32}
    config = configs.load("cnn", fields | {"train.ema_decay": 0.9})
    compiled = Trainer.from_config(config, num_classes=2).compiled()
    like = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), settings_form(2))
    return compiled.init, compiled.form, like


def _largest_and_total(state) -> tuple[int, int]:
    """Bytes on the fullest device, and bytes of the whole state."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values()), sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_no_device_holds_more_than_its_share():
    init, form, like = _init(fsdp=True)
    state = init(like)
    held, total = _largest_and_total(state)
    assert held == pytest.approx(total / 8, rel=0.01)
    assert jax.tree.all(
        jax.tree.map(lambda leaf, wanted: leaf.sharding == wanted.sharding, state, form)
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
