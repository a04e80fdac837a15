"""Devices that a step can be compiled for on a machine without them."""

import dataclasses
import importlib.util
import os
from importlib import resources
from typing import Any

from leukjax.errors import UserError

# Number of TPU chips -> libtpu's layout of them, in two dimensions and in three.
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
_GPUS_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of device; the numbers are the maker's, for one device.

    Attributes:
      platform: ``cuda`` or ``tpu``.
      memory: bytes.
      bandwidth: of that memory, bytes per second.
      bfloat16: dense FLOP/s, the bound of all matrix products.
      links: bytes per second that leave a device for its neighbours, all links and both directions
        counted once: NVLink, or the interconnect of a TPU slice.
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
        """Bytes that a step can use: by default JAX takes three quarters of a GPU's memory."""
        return self.memory * (0.75 if self.platform == "cuda" else 1.0)

    def devices(self, count: int) -> list[Any]:
        """Returns `count` JAX devices that can be compiled for but not run on.

        If no layout has exactly `count`, these are the first devices of a larger one.

        Raises:
          UserError: no layout has that many.
        """
        from jax.experimental import topologies

        if self.layouts is None:
            hosts, per_host = (1, count) if count < _GPUS_A_HOST else (-(-count // _GPUS_A_HOST), 8)
            description = resources.files("leukjax.compiler").joinpath(f"{self.name}.txtpb")
            topology = topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                topology=f"1x{hosts}x{per_host}",
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
    """Parses ``h100:8`` into the target and 8.

    Raises:
      UserError: unknown device, or no count.
    """
    name, _, number = text.partition(":")
    if name not in TARGETS or not number.isdecimal() or int(number) < 1:
        raise UserError(
            f"--preflight={text}: must be DEVICE:COUNT, as h100:8; "
            f"devices: {', '.join(sorted(TARGETS))}"
        )
    return TARGETS[name], int(number)


def missing(target: Target) -> str:
    """Returns what to install to compile for a target, in one line, or ""."""
    module = "jax_plugins.xla_cuda13" if target.platform == "cuda" else "libtpu"
    try:
        if importlib.util.find_spec(module) is not None:
            return ""
    except ModuleNotFoundError:
        pass
    return f"no compiler for {target.title} here; install the extra: pip install -e '.[preflight]'"


# Variables that a process needs before it imports JAX to compile for absent devices: the CPU is the
# only local device, and libtpu does not query a TPU metadata server.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def environment() -> dict[str, str]:
    """Returns the environment for a process that compiles for absent devices."""
    return {**os.environ, **ENVIRONMENT}
