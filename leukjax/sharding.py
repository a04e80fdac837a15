"""The mesh of devices, and rules that shard parameters by their paths."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from leukjax.errors import UserError

# A rule is (regular expression over the parameter's path, mesh axes for its widest dimension).
# The first match counts; a parameter without one is whole on every device.
Rules = tuple[tuple[str, tuple[str, ...]], ...]


def make_mesh(
    options: ConfigDict, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes ``data`` and ``model`` over the devices of all processes.

    Args:
      options: the section ``mesh`` of a config.
      batch_size: global.
      devices: target devices, if not those of this machine.

    Raises:
      UserError: too few devices, or a batch that they do not divide.
    """
    available = jax.device_count() if devices is None else len(devices)
    data = options.data if options.data > 0 else max(1, available // options.model)
    if data * options.model > available:
        raise UserError(
            f"--config.mesh.data={options.data}, mesh.model={options.model}: "
            f"only {available} devices are here; give a product of at most that"
        )
    if jax.process_count() > 1 and data * options.model != available:
        raise UserError(
            f"--config.mesh.data={options.data}: {jax.process_count()} processes "
            f"use all of their {available} devices; leave it at -1"
        )
    local = jax.local_device_count()
    if jax.process_count() > 1 and local > 1 and jax.default_backend() == "cpu":
        raise UserError(  # steps dispatched ahead would hang
            f"JAX_NUM_CPU_DEVICES={local}: on CPU each of several processes takes one device; "
            "start more processes instead"
        )
    if jax.process_count() > 1 and local % options.model:
        raise UserError(
            f"--config.mesh.model={options.model}: must divide the {local} devices of a process, "
            "because each process reads its own part of a batch"
        )
    if batch_size % data:
        raise UserError(
            f"--config.train.batch_size={batch_size}: not divisible by the {data} devices "
            "of the mesh's data axis; change it or mesh.data"
        )
    names, types = ("data", "model"), (AxisType.Auto, AxisType.Auto)
    if devices is not None:
        chosen = np.array(devices[: data * options.model])
        return Mesh(chosen.reshape(data, options.model), names, axis_types=types)
    if jax.process_count() > 1:
        # In the order of the processes, each of which reads a contiguous part of the batch;
        # `make_mesh` may choose another order, by topology.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        return Mesh(np.array(devices).reshape(data, options.model), names, axis_types=types)
    return jax.make_mesh(
        (data, options.model),
        names,
        axis_types=types,
        devices=jax.devices()[: data * options.model],
    )


def check(mesh: Any) -> Mesh | None:
    """A mesh that was given in Python, with axes that XLA shards: those of `jax.make_mesh` may
    be explicit.

    Raises:
      ValueError: other axes than ``data`` and ``model``.
    """
    if mesh is None:
        return None
    if getattr(mesh, "axis_names", None) != ("data", "model"):
        raise ValueError("mesh: expected a jax.sharding.Mesh with the axes ('data', 'model')")
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto, AxisType.Auto))


def rules(options: ConfigDict) -> Rules:
    """No rule for plain data parallelism; one for fully sharded parameters or a model axis."""
    axes = (("data",) if options.fsdp else ()) + (("model",) if options.model > 1 else ())
    # A run's settings are a few numbers that every process reads: never sharded, even if the
    # devices divide them (two class weights on two devices).
    return (("^(?!settings/)", axes),) if axes else ()


def path_name(path: tuple[Any, ...]) -> str:
    """``params/stem/kernel`` of a JAX key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(tree: Any, mesh: Mesh, chosen: Rules) -> Any:
    """A NamedSharding for every array of a tree (of arrays or of their shapes).

    The widest dimension that the axes divide is sharded; an array without one stays whole.
    """

    def shard(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        for expression, axes in chosen:
            if re.search(expression, name):
                return NamedSharding(mesh, _split_widest(leaf.shape, axes, mesh))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(shard, tree)


def _split_widest(shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> PartitionSpec:
    parts = 1
    for axis in axes:
        parts *= mesh.shape[axis]
    widths = [width if width % parts == 0 else 0 for width in shape]
    if not any(widths):
        return PartitionSpec()
    spec: list[tuple[str, ...] | None] = [None] * len(shape)
    spec[widths.index(max(widths))] = axes
    return PartitionSpec(*spec)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples are sharded over the data axis, and the same along the model axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, shardings: Any) -> Any:
    """Puts arrays of the host on the devices; on CPU it waits for the transfer.

    A computation on CPU whose arguments are not ready is run by another thread than its caller, in
    memory that is not kept (`runtime.hold_memory`).
    """
    placed = jax.device_put(tree, shardings)
    return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed
