"""The mesh of devices, and rules from parameter paths to PartitionSpecs."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from leukjax.errors import UserError

# A rule is (regular expression over the parameter's path, mesh axes for its widest dimension).
# The first that matches is taken; a parameter that none matches is on every device whole.
Rules = tuple[tuple[str, tuple[str, ...]], ...]


def make_mesh(
    options: ConfigDict, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes ``data`` and ``model`` over the devices of all processes.

    Args:
      options: the section ``mesh`` of a config.
      batch_size: global.
      devices: to compile for, where they are not those that are here.

    Raises:
      UserError: more devices asked for than there are, or a batch that they do not divide.
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
    own = jax.local_device_count()
    if jax.process_count() > 1 and own > 1 and jax.default_backend() == "cpu":
        raise UserError(  # steps that are dispatched ahead hang then
            f"JAX_NUM_CPU_DEVICES={own}: on CPU each of several processes takes one device; "
            "start more processes instead"
        )
    if jax.process_count() > 1 and own % options.model:
        raise UserError(
            f"--config.mesh.model={options.model}: must divide the {own} devices of a process, "
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
        # `make_mesh` may choose another order, by the wiring.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        return Mesh(np.array(devices).reshape(data, options.model), names, axis_types=types)
    return jax.make_mesh(
        (data, options.model),
        names,
        axis_types=types,
        devices=jax.devices()[: data * options.model],
    )


def rules(options: ConfigDict) -> Rules:
    """Data parallel: no rule. Fully sharded parameters, or a model axis: one."""
    axes = (("data",) if options.fsdp else ()) + (("model",) if options.model > 1 else ())
    # A run's settings are a few numbers that every process reads: never in parts, also where the
    # devices divide them (two classes' weights on two devices).
    return (("^(?!settings/)", axes),) if axes else ()


def path_name(path: tuple[Any, ...]) -> str:
    """``params/stem/kernel`` of a JAX key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def tree_shardings(tree: Any, mesh: Mesh, chosen: Rules) -> Any:
    """A NamedSharding for every array of a tree (of arrays or of their shapes).

    The widest dimension that the axes divide is split; an array without one stays whole.
    """

    def of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = path_name(path)
        for expression, axes in chosen:
            if re.search(expression, name):
                return NamedSharding(mesh, _split_widest(leaf.shape, axes, mesh))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, tree)


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
    """Examples are spread over the data axis; every model device of a row sees the same ones."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, places: Any) -> Any:
    """Arrays of the host on the devices; on CPU it returns when they are there.

    There a program whose arguments are still on their way is run by another thread than the one
    that calls it, in memory that is not held (`runtime.hold_memory`).
    """
    placed = jax.device_put(tree, places)
    return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed
