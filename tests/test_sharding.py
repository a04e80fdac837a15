"""Meshes and rules, on eight fake devices."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax import sharding
from leukjax.errors import UserError
from leukjax.models.registry import model_from_config
from leukjax.training import pretrained


def _mesh_options(**changes):
    return ConfigDict({"data": -1, "model": 1, "fsdp": False} | changes)


def test_a_mesh_takes_all_devices_unless_told_otherwise():
    assert dict(sharding.make_mesh(_mesh_options(), 32).shape) == {"data": 8, "model": 1}
    assert dict(sharding.make_mesh(_mesh_options(model=2), 32).shape) == {"data": 4, "model": 2}
    assert dict(sharding.make_mesh(_mesh_options(data=2), 32).shape) == {"data": 2, "model": 1}


@pytest.mark.parametrize(
    ("options", "batch", "says"),
    [
        ({"data": 16}, 32, "only 8 devices"),
        ({"data": 8, "model": 2}, 32, "only 8 devices"),
        ({}, 12, "not divisible by the 8 devices"),
    ],
)
def test_what_a_mesh_cannot_be(options, batch, says):
    with pytest.raises(UserError, match=says):
        sharding.make_mesh(_mesh_options(**options), batch)


TREE = {
    "params": {"kernel": jax.ShapeDtypeStruct((3, 3, 16, 64), jnp.float32)},
    "odd": jax.ShapeDtypeStruct((7, 3), jnp.float32),
    "scalar": jax.ShapeDtypeStruct((), jnp.float32),
}


def _specs(options):
    mesh = sharding.make_mesh(options, 32)
    tree = sharding.tree_shardings(TREE, mesh, sharding.rules(options))
    return jax.tree.map(lambda s: s.spec, tree)


def test_data_parallel_is_no_rule():
    options = _mesh_options()
    assert sharding.rules(options) == ()
    assert set(
        jax.tree.leaves(_specs(options), is_leaf=lambda x: isinstance(x, PartitionSpec))
    ) == {PartitionSpec()}


def test_fully_sharded_splits_the_widest_dimension_that_divides():
    specs = _specs(_mesh_options(fsdp=True))
    assert specs["params"]["kernel"] == PartitionSpec(None, None, None, ("data",))
    assert specs["odd"] == PartitionSpec()
    assert specs["scalar"] == PartitionSpec()
    both = _specs(_mesh_options(fsdp=True, model=2))
    assert both["params"]["kernel"] == PartitionSpec(None, None, None, ("data", "model"))


def test_rules_are_regular_expressions_and_the_first_wins():
    mesh = sharding.make_mesh(_mesh_options(), 32)
    rules = (("kernel$", ()), (".*", ("data",)))
    tree = sharding.tree_shardings({"a": {"kernel": TREE["params"]["kernel"]}}, mesh, rules)
    assert tree["a"]["kernel"].spec == PartitionSpec(None, None, None, None)


class _Device:
    """As much of a device as a mesh asks for."""

    def __init__(self, number, process):
        self.id, self.process_index = number, process


def test_several_processes_get_the_rows_of_the_mesh_in_their_order(monkeypatch):
    devices = [_Device(number, process) for number, process in ((5, 1), (0, 0), (4, 1), (1, 0))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="JAX_NUM_CPU_DEVICES=2: on CPU each of several"):
        sharding.make_mesh(_mesh_options(), 32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mesh = sharding.make_mesh(_mesh_options(model=2), 32)
    assert [[device.id for device in row] for row in mesh.devices] == [[0, 1], [4, 5]]
    with pytest.raises(UserError, match="must divide the 2 devices of a process"):
        sharding.make_mesh(_mesh_options(model=4), 32)
    with pytest.raises(UserError, match="use all of their 4 devices"):
        sharding.make_mesh(_mesh_options(data=2), 32)


def test_settings_are_whole_on_every_device_whatever_divides_them():
    """Each process reads them: a part on another machine could not be."""
    options = _mesh_options(data=2, fsdp=True)
    mesh = sharding.make_mesh(options, 32)
    two = jax.ShapeDtypeStruct((2,), jnp.float32)
    tree = {"settings": {"class_weights": two}, "params": {"bias": two}}
    found = sharding.tree_shardings(tree, mesh, sharding.rules(options))
    assert found["settings"]["class_weights"].spec == PartitionSpec()
    assert found["params"]["bias"].spec == PartitionSpec(("data",))


def test_a_giant_transformer_with_adam_is_split_over_all_devices():
    """13.6 GB of parameters and moments (18 with gradients): an eighth on each device."""
    config = configs.load("vit:cnmc,dinobloom_g", {"mesh.fsdp": True})
    mesh = sharding.make_mesh(config.mesh, config.train.batch_size)
    module = model_from_config(config, 2, "cpu")
    params = pretrained.shapes(module, config.data.image_size)["params"]
    state = {"params": params, "opt": jax.eval_shape(optax.adam(1e-3).init, params)}
    placed = sharding.tree_shardings(state, mesh, sharding.rules(config.mesh))
    leaves = jax.tree.leaves(jax.tree.map(lambda x, s: (x, s), state, placed), is_leaf=_is_pair)
    whole = sum(4 * x.size for x, _ in leaves)
    own = sum(4 * math.prod(s.shard_shape(x.shape)) for x, s in leaves)
    assert 13e9 < whole < 14e9
    assert own < 1.001 * whole / 8


def _is_pair(x):
    return isinstance(x, tuple) and len(x) == 2 and hasattr(x[0], "size")
