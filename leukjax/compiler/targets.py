"""The devices that a program can be compiled for on a machine that has none of them."""

import dataclasses
import importlib.util
import os
from importlib import resources
from typing import Any

from leukjax.errors import UserError

# TPU chips -> the layouts that libtpu knows for so many, in two dimensions and in three.
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
_GPUS_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of device; the numbers are the makers' own, of one device.

    Attributes:
      platform: ``cuda`` or ``tpu``.
      memory: bytes.
      bandwidth: of that memory, bytes a second.
      bfloat16: dense FLOP/s; the bound of all matrix products here.
      links: bytes a second that leave a device for its neighbours, all links and both directions
        counted once: NVLink, or the wires of a TPU slice.
    """

    name: str
    title: str
    platform: str
    memory: float
    bandwidth: float
    bfloat16: float
    links: float
    layouts: dict[int, str] | None = None

    @property
    def usable(self) -> float:
        """Bytes of memory that a program gets: of a GPU's JAX takes three quarters as it comes."""
        return self.memory * (0.75 if self.platform == "cuda" else 1.0)

    def devices(self, count: int) -> list[Any]:
        """So many of them, of JAX's make, that programs can be compiled for but not run on.

        A smaller number than a layout has is its first devices.

        Raises:
          UserError: more than any layout has.
        """
        from jax.experimental import topologies

        if self.layouts is None:
            hosts, own = (1, count) if count < _GPUS_A_HOST else (-(-count // _GPUS_A_HOST), 8)
            description = resources.files("leukjax.compiler").joinpath(f"{self.name}.txtpb")
            topology = topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                topology=f"1x{hosts}x{own}",
                target_config=description.read_text(encoding="utf-8"),
            )
        else:
            sizes = [size for size in self.layouts if size >= count]
            if not sizes:
                raise UserError(f"{self.name}:{count}: at most {max(self.layouts)} of them")
            layout = f"{self.name}:{self.layouts[min(sizes)]}"
            topology = topologies.get_topology_desc(platform="tpu", topology_name=layout)
        return list(topology.devices[:count])


TARGETS = {
    target.name: target
    for target in (
        Target("a100", "NVIDIA A100 80 GB", "cuda", 84.99e9, 2.039e12, 312e12, 300e9),
        Target("h100", "NVIDIA H100 80 GB", "cuda", 84.98e9, 3.352e12, 989e12, 450e9),
        Target("v5e", "TPU v5e", "tpu", 17.18e9, 0.819e12, 197e12, 200e9, _FLAT),
        Target("v5p", "TPU v5p", "tpu", 102.0e9, 2.765e12, 459e12, 600e9, _DEEP),
        Target("v6e", "TPU v6e", "tpu", 34.36e9, 1.64e12, 918e12, 448e9, _FLAT),
    )
}


def parse(text: str) -> tuple[Target, int]:
    """``h100:8`` -> the target and 8.

    Raises:
      UserError: no such device, or no number.
    """
    name, _, number = text.partition(":")
    if name not in TARGETS or not number.isdecimal() or int(number) < 1:
        raise UserError(
            f"--preflight={text}: must be DEVICE:COUNT, as h100:8; "
            f"devices: {', '.join(sorted(TARGETS))}"
        )
    return TARGETS[name], int(number)


def missing(target: Target) -> str:
    """What must be installed to compile for a target, in one line; empty where nothing."""
    module = "jax_plugins.xla_cuda13" if target.platform == "cuda" else "libtpu"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if found:
        return ""
    return f"no compiler for {target.title} here; pip install 'leukjax[preflight]'"


# What a process that compiles for absent devices must see before it first uses JAX: the CPU as the
# only device that is there, and no search for a TPU machine around it.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def environment() -> dict[str, str]:
    """This process's environment, changed for one that compiles."""
    return {**os.environ, **ENVIRONMENT}
