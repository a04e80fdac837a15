"""Where the pixels of a run lie: streamed from the records, in host memory, or on the devices."""

import dataclasses
import functools
import shutil
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from leukjax import distributed, runtime, sharding
from leukjax.data import image_store
from leukjax.data.loader import Images
from leukjax.data.records import READ_AT_ONCE, Records
from leukjax.errors import UserError

GB = 1e9
# What pixels may take where the config names no number; the rest is the model's, and the user's.
SHARE_OF_HOST = 0.5  # of the memory that is available
SHARE_OF_DEVICE = 0.25  # of the device's memory


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the choice is made from.

    Attributes:
      on_cpu: the devices are the host's own cores.
      devices: along the mesh's data axis.
      host: bytes that decoded pixels may take in host memory.
      device: bytes that they may take on each device; 0 = not known.
      disk: bytes free where the decoded file would lie, which is None where it lies already.
    """

    on_cpu: bool
    devices: int
    host: float
    device: float
    disk: float | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A mode (none, host, device), whether the devices share the pixels, and why."""

    mode: str
    sharded: bool
    why: str


@dataclasses.dataclass(frozen=True)
class Residence:
    """The pixels where they lie.

    Attributes:
      mode: none, host or device.
      images: what batches are read from (none, host).
      pixels: all records on the devices (device), padded with black to a multiple of them where
        they share; else None.
    """

    mode: str
    images: Images
    pixels: UInt8[Array, "n s s 3"] | None = None

    @property
    def sharding(self) -> NamedSharding | None:
        """How the pixels lie on the devices; None where they do not."""
        return None if self.pixels is None else self.pixels.sharding  # type: ignore[return-value]


def settle(config: ConfigDict, records: Records, mesh: Mesh) -> Residence:
    """Bring the pixels where `data.cache` wants them, and say where and why in one line.

    Raises:
      UserError: they do not fit there, or several steps a call are wanted elsewhere.
    """
    wanted, calls = config.data.cache, config.train.steps_per_call
    found = distributed.from_first(
        lambda: dataclasses.astuple(
            choose(wanted, image_store.size_of(records), measure(config.data, records, mesh))
        )
    )
    choice = Choice(*found)
    if calls > 1 and choice.mode != "device":
        raise UserError(
            f"--config.train.steps_per_call={calls}: needs the pixels on the device, and "
            f"data.cache={wanted} is {choice.mode} here ({choice.why}); set data.cache to device, "
            "or steps_per_call to 1"
        )
    logging.info("data.cache %s: %s, %s", wanted, choice.mode, choice.why)
    if choice.mode == "device":
        return Residence("device", records, put(records, mesh, sharded=choice.sharded))
    if choice.mode == "none":
        return Residence("none", records)
    try:
        return Residence("host", distributed.first(lambda: image_store.decode(records)))
    except UserError as error:
        if wanted == "host":
            raise
        logging.warning("data.cache auto: none after all: %s", error)
        return Residence("none", records)


def measure(data: ConfigDict, records: Records, mesh: Mesh) -> Machine:
    """What this machine has to offer."""
    folder = image_store.folder_of(records)
    limit = runtime.device_memory()
    return Machine(
        on_cpu=jax.default_backend() == "cpu",
        devices=mesh.shape["data"],
        host=data.host_gb * GB or SHARE_OF_HOST * runtime.available_memory(),
        device=data.device_gb * GB or SHARE_OF_DEVICE * limit,
        disk=None if not folder or folder.exists() else shutil.disk_usage(folder.parent).free,
    )


def choose(wanted: str, size: int, machine: Machine) -> Choice:
    """The mode for `data.cache` and so many bytes of pixels; numbers alone decide.

    auto takes the devices where the pixels fit, then host memory, then the records. On CPU it
    leaves the devices out: their memory is the host's, so that a second copy would win nothing.

    Raises:
      UserError: `wanted` is device and they do not fit there.
    """
    gb = f"{size / GB:.2f} GB of pixels"
    if wanted == "none":
        return Choice("none", False, "read from the records as asked")
    if wanted == "host":
        return Choice("host", False, f"{gb} as asked")
    if wanted == "device" or not machine.on_cpu:
        share = size / machine.devices
        budget = f"{machine.device / GB:.2f} GB a device (data.device_gb)"
        unknown = machine.device == 0  # CPU devices do not say
        if size <= machine.device or (unknown and wanted == "device"):
            within = "as asked" if unknown else f"within {budget}"
            return Choice("device", False, f"{gb} on each of {machine.devices} {within}")
        if share <= machine.device and machine.devices > 1:
            return Choice("device", True, f"{gb} over {machine.devices} within {budget}")
        if wanted == "device":
            raise UserError(
                f"--config.data.cache=device: {gb} over {machine.devices} devices are more than "
                f"{budget}; raise data.device_gb, or set data.cache to host"
            )
        above = f"above {budget}; "
    else:
        above = "the device's memory is the host's; "
    budget = f"{machine.host / GB:.2f} GB (data.host_gb)"
    if size > machine.host:
        return Choice("none", False, f"{above}{gb} above {budget}")
    if machine.disk is not None and size > machine.disk / 2:
        free = f"half of {machine.disk / GB:.2f} GB free in data.cache_dir"
        return Choice("none", False, f"{above}{gb} above {free}")
    return Choice("host", False, f"{above}{gb} within {budget}")


def put(records: Records, mesh: Mesh, *, sharded: bool) -> UInt8[Array, "n s s 3"]:
    """All pixels on the devices of the mesh, whole on each or shared along its data axis.

    Of several processes each reads what its own devices hold.
    """
    side, count = records.image_size, len(records)
    if sharded:
        count += -count % mesh.shape["data"]
    place = sharding.batch_sharding(mesh) if sharded else sharding.replicated(mesh)

    @functools.cache
    def read(start: int, stop: int) -> np.ndarray:
        pixels = np.zeros((stop - start, side, side, 3), np.uint8)
        for row in range(start, min(stop, len(records)), READ_AT_ONCE):
            rows = np.arange(row, min(row + READ_AT_ONCE, stop, len(records)))
            pixels[row - start :][: len(rows)] = records.images(rows)
        return pixels

    def of_device(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        return read(start, stop)

    return jax.make_array_from_callback((count, side, side, 3), place, of_device)
