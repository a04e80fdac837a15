"""Where decoded images are kept: in records, in host memory, or on the devices."""

import dataclasses
import functools
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8
from ml_collections import ConfigDict

from leukjax import distributed, runtime, sharding
from leukjax.data import image_store
from leukjax.data.loader import Images
from leukjax.data.records import READ_AT_ONCE, Records
from leukjax.errors import UserError

DEVICE_IMAGES = "device_images"  # the field of a batch that holds all records on the devices
GB = 1e9
# Shares of memory that images may take where the config names no size; the rest is for the model.
SHARE_OF_HOST = 0.5  # of the memory that is available
SHARE_OF_DEVICE = 0.25  # of the device's memory


@dataclasses.dataclass(frozen=True)
class MemoryBudget:
    """What the placement is chosen from.

    Attributes:
      on_cpu: the devices are the host's own cores.
      devices: along the mesh's data axis.
      host: bytes that decoded images may take in host memory.
      device: bytes that they may take on each device; 0 if unknown.
      disk: bytes free in the folder of the decoded file; None if the file exists.
    """

    on_cpu: bool
    devices: int
    host: float
    device: float
    disk: float | None


@dataclasses.dataclass(frozen=True)
class PlacementPlan:
    """A mode (none, host, device), whether the devices share the images, and the reason."""

    mode: str
    sharded: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class DataPlacement:
    """The images where they are kept.

    Attributes:
      mode: none, host or device.
      images: what batches are read from (none, host).
      device_images: all records on the devices (device), padded with black to a multiple of the
        devices that share them; else None.
    """

    mode: str
    images: Images
    device_images: UInt8[Array, "n s s 3"] | None = None

    @property
    def sharding(self) -> NamedSharding | None:
        """The sharding of `device_images`, if there are any."""
        images = self.device_images
        return None if images is None else images.sharding  # type: ignore[return-value]


def place_dataset(config: ConfigDict, records: Records, mesh: Mesh) -> DataPlacement:
    """Brings the images where ``data.cache`` wants them, and logs where and why in one line.

    Raises:
      UserError: they do not fit, or several steps per call are wanted without device images.
    """
    wanted, per_call = config.data.cache, config.train.steps_per_call
    plan = PlacementPlan(
        *distributed.from_first(
            lambda: dataclasses.astuple(
                plan_placement(
                    wanted, image_store.size_of(records), memory_budget(config.data, records, mesh)
                )
            )
        )
    )
    if per_call > 1 and plan.mode != "device":
        raise UserError(
            f"--config.train.steps_per_call={per_call}: needs the images on the devices, and "
            f"data.cache={wanted} is {plan.mode} here ({plan.reason}); set data.cache to device, "
            "or steps_per_call to 1"
        )
    logging.info("data.cache %s: %s, %s", wanted, plan.mode, plan.reason)
    if plan.mode == "device":
        images = put_on_devices(records, mesh, sharded=plan.sharded)
        return DataPlacement("device", records, images)
    if plan.mode == "none":
        return DataPlacement("none", records)
    try:
        return DataPlacement("host", distributed.first(lambda: image_store.decode(records)))
    except UserError as error:
        if wanted == "host":
            raise
        logging.warning("data.cache auto: none after all: %s", error)
        return DataPlacement("none", records)


def memory_budget(data: ConfigDict, records: Records, mesh: Mesh) -> MemoryBudget:
    """What this machine has to offer, within the limits of the section ``data``."""
    folder = image_store.folder_of(records)
    limit = runtime.device_memory()
    return MemoryBudget(
        on_cpu=jax.default_backend() == "cpu",
        devices=mesh.shape["data"],
        host=data.host_gb * GB or SHARE_OF_HOST * runtime.available_memory(),
        device=data.device_gb * GB or SHARE_OF_DEVICE * limit,
        disk=None if not folder or folder.exists() else shutil.disk_usage(folder.parent).free,
    )


def plan_placement(wanted: str, size: int, budget: MemoryBudget) -> PlacementPlan:
    """The placement for ``data.cache`` and `size` bytes of images.

    auto takes the devices if the images fit, then host memory, then the records. On CPU it skips
    the devices: their memory is the host's, so that a second copy would gain nothing.

    Raises:
      UserError: `wanted` is device and the images do not fit.
    """
    gb = f"{size / GB:.2f} GB of images"
    if wanted == "none":
        return PlacementPlan("none", False, "read from the records as asked")
    if wanted == "host":
        return PlacementPlan("host", False, f"{gb} as asked")
    if wanted == "device" or not budget.on_cpu:
        share = size / budget.devices
        limit = f"{budget.device / GB:.2f} GB per device (data.device_gb)"
        unknown = budget.device == 0  # CPU devices do not report it
        if size <= budget.device or (unknown and wanted == "device"):
            within = "as asked" if unknown else f"within {limit}"
            return PlacementPlan("device", False, f"{gb} on each of {budget.devices} {within}")
        if share <= budget.device and budget.devices > 1:
            return PlacementPlan("device", True, f"{gb} over {budget.devices} within {limit}")
        if wanted == "device":
            raise UserError(
                f"--config.data.cache=device: {gb} over {budget.devices} devices are more than "
                f"{limit}; raise data.device_gb, or set data.cache to host"
            )
        above = f"above {limit}; "
    else:
        above = "the device's memory is the host's; "
    limit = f"{budget.host / GB:.2f} GB (data.host_gb)"
    if size > budget.host:
        return PlacementPlan("none", False, f"{above}{gb} above {limit}")
    if budget.disk is not None and size > budget.disk / 2:
        free = f"half of {budget.disk / GB:.2f} GB free in data.cache_dir"
        return PlacementPlan("none", False, f"{above}{gb} above {free}")
    return PlacementPlan("host", False, f"{above}{gb} within {limit}")


def put_on_devices(records: Records, mesh: Mesh, *, sharded: bool) -> UInt8[Array, "n s s 3"]:
    """All images on the devices of the mesh: whole on each, or shared along its data axis.

    Of several processes each reads what its own devices hold.
    """
    side, count = records.image_size, len(records)
    if sharded:
        count += -count % mesh.shape["data"]
    spec = sharding.batch_sharding(mesh) if sharded else sharding.replicated(mesh)

    @functools.cache
    def read(start: int, stop: int) -> np.ndarray:
        images = np.zeros((stop - start, side, side, 3), np.uint8)
        for row in range(start, min(stop, len(records)), READ_AT_ONCE):
            rows = np.arange(row, min(row + READ_AT_ONCE, stop, len(records)))
            images[row - start :][: len(rows)] = records.images(rows)
        return images

    def read_shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        return read(start, stop)

    return jax.make_array_from_callback((count, side, side, 3), spec, read_shard)


# Inside the compiled steps:


def lookup_images(
    batch: dict[str, Any], mesh: Mesh, image_sharding: NamedSharding | None
) -> UInt8[Array, "b s s 3"]:
    """``batch["image"]``, or the rows ``batch["index"]`` of ``batch["device_images"]``.

    Args:
      batch: of a step.
      mesh: the devices.
      image_sharding: of the device images; None if the batch brings its images.
    """
    if image_sharding is None:
        return batch["image"]
    is_shared = image_sharding.spec != PartitionSpec()
    take = _take_shared(mesh) if is_shared else _take
    # After the barrier the computation is that of a batch that brings its images, so that the bits
    # are the same: XLA may round differently where it fuses differently.
    return lax.optimization_barrier(take(batch[DEVICE_IMAGES], batch["index"]))


def _take(images: UInt8[Array, "n s s 3"], index: Int[Array, " b"]) -> UInt8[Array, "b s s 3"]:
    return images.at[index].get(mode="promise_in_bounds")


def _take_shared(mesh: Mesh) -> Any:
    """Each device looks up its own images of the whole batch; a sum distributes them.

    A batch crosses the interconnect once, as uint8; nothing is rounded, since all addends but one
    are 0.
    """
    data = PartitionSpec("data")

    def take(images: Array, index: Array) -> Array:
        index = lax.all_gather(index, "data", tiled=True) - lax.axis_index("data") * len(images)
        is_here = (index >= 0) & (index < len(images))
        taken = _take(images, jnp.where(is_here, index, 0))
        taken = jnp.where(is_here[:, None, None, None], taken, 0)
        return lax.psum_scatter(taken, "data", tiled=True)

    return jax.shard_map(take, mesh=mesh, in_specs=(data, data), out_specs=data)


def batch_shardings(mesh: Mesh, image_sharding: NamedSharding | None, steps: int = 1) -> Any:
    """The shardings of a batch's fields; with several steps the examples are the second axis."""
    examples = sharding.batch_sharding(mesh)
    if image_sharding is None:
        return examples
    if steps > 1:
        examples = NamedSharding(mesh, PartitionSpec(None, "data"))
    fields = dict.fromkeys(("label", "mask", "index"), examples)
    return {DEVICE_IMAGES: image_sharding} | fields
