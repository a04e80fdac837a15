"""The machine: processes, devices, compilation cache, memory."""

import ctypes
import os
import platform
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

# Dense bfloat16 FLOP/s of one device, from the makers' data sheets; a device that is not listed
# has no "share of peak" in the log rather than a guessed one.
_PEAK_BFLOAT16 = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v3": 61.5e12,  # a core, which JAX counts as a device
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def start(config: ConfigDict) -> None:
    """Switch on the compilation cache; hold on to memory. Before JAX looks for devices."""
    hold_memory()
    folder = cache_folder(config.runtime.compilation_cache)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


# Parameters of glibc's mallopt (malloc.h).
_MXFAST, _TRIM_THRESHOLD, _MMAP_MAX = 1, -1, -4


def hold_memory() -> bool:
    """Keep freed host memory in this process instead of giving it back to the system.

    XLA:CPU asks for all temporary buffers of a program anew at every call, a gigabyte in a training
    step. By default glibc maps such an area and unmaps it afterwards, and the system hands out
    every page again, filled with zeros: a fifth of the time of a ResNet-50's step at 64 pixels.
    One heap that never shrinks is touched once. Nothing happens where the C library is another.

    Only the main thread's heap grows as it likes, so programs are run by the thread that calls
    them, once JAX looks for devices after this. It also keeps a second step's buffers from being
    taken before the first one's are free.

    Returns:
      Whether the C library took it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # No fast bins: the crumbs kept there keep free neighbours from joining. The number of heaps is
    # left alone: in a single one the crumbs of compilation, freed by all threads, slow down every
    # allocation of the steps after it.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_MXFAST, 0))
    return all(mallopt(name, value) == 1 for name, value in settings)


def cache_folder(choice: str) -> Path | None:
    """Where compiled programs are kept: ``auto`` is the user's cache folder, ``none`` nowhere."""
    if choice == "none":
        return None
    if choice != "auto":
        return Path(choice)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "leukjax" / "compiled"


def compute_dtype(choice: str, platform: str = "") -> jnp.dtype:
    """``auto`` is bfloat16 on GPU and TPU and float32 on CPU; "" is the platform that is here."""
    if choice == "auto":
        choice = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    return jnp.dtype(choice)


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s of one device, or None where it is not known."""
    for kind, value in _PEAK_BFLOAT16.items():
        if device.device_kind.startswith(kind):
            return value
    return None


def peak_memory() -> int:
    """Peak bytes: of the first device where it says, else of this process in host memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_memory() -> int:
    """Bytes of the first device, or 0 where it does not say (CPU)."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))


def available_memory() -> int:
    """Bytes of host memory that could be used now without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def describe() -> str:
    """One line: devices, processes, JAX's version."""
    devices = jax.devices()
    kind = "CPU" if devices[0].platform == "cpu" else devices[0].device_kind
    processes = jax.process_count()
    where = f", {processes} processes" if processes > 1 else ""
    cores = f" ({os.cpu_count()} cores)" if kind == "CPU" else ""
    return f"{len(devices)} x {kind}{cores}{where}, jax {jax.__version__}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's processor, which decides whether a run gives the same bits."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    fields = dict(line.partition(":")[::2] for line in reversed(lines) if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    keys = ("model name", "Processor", "cpu model")
    name = next((named[key] for key in keys if named.get(key)), platform.processor())
    if "CPU part" in named and not name:  # ARM has numbers there, and no name
        name = f"ARM implementer {named.get('CPU implementer')}, part {named['CPU part']}"
    return f"{name or 'unknown'} ({platform.machine()})"


def log_start() -> None:
    """Say on which machine this runs."""
    logging.info("device: %s", describe())
