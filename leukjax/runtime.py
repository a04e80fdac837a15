"""The machine: processes, devices, compilation cache, memory."""

import contextlib
import ctypes
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from leukjax.errors import UserError

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


# Options of JAX that change the numbers of a run: commands set them, whatever the environment
# (`JAX_ENABLE_X64=1`) has.
_FIXED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
}
# Others that are a user's choice: a run records what differs from JAX's default, and is resumed
# under the same values only.
_CHOSEN = {"jax_default_matmul_precision": None, "jax_disable_jit": False}


def start(config: ConfigDict) -> None:
    """Switches on the compilation cache and keeps freed memory; call it before JAX finds devices.

    Raises:
      UserError: an option of JAX on which the numbers depend cannot be set.
    """
    set_numerics()
    hold_memory()
    folder = usable_cache_folder(config.runtime.compilation_cache)
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def set_numerics() -> None:
    """Sets the options of JAX on which exact numbers depend; logs those that had another value.

    For commands only: a program that imports leukjax keeps its options.

    Raises:
      UserError: one of them cannot be set here.
    """
    for name, value in _FIXED.items():
        before = getattr(jax.config, name, value)  # an option that JAX no longer has is fixed
        if before == value:
            continue
        with contextlib.suppress(Exception):
            jax.config.update(name, value)
        if getattr(jax.config, name) != value:
            raise UserError(
                f"{name.upper()}={before}: leukjax needs {value}, and it cannot be set here; "
                f"remove it from the environment"
            )
        logging.warning("%s=%s is not used: leukjax sets %s", name.upper(), before, value)


def chosen_numerics() -> dict[str, Any]:
    """The options of JAX that change numbers and that the user set to other than the default."""
    values = {name: getattr(jax.config, name, default) for name, default in _CHOSEN.items()}
    return {name: value for name, value in values.items() if value != _CHOSEN[name]}


# Parameters of glibc's mallopt (malloc.h).
_MXFAST, _TRIM_THRESHOLD, _MMAP_MAX = 1, -1, -4


def hold_memory() -> bool:
    """Keeps freed host memory in this process instead of returning it to the system.

    XLA:CPU allocates all temporary buffers in each call of a function, a gigabyte in a training
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
    # Disable fastbins: they stop glibc from coalescing neighbouring free chunks. The number of
    # arenas stays: in a single one the small chunks that compilation frees from all threads slow
    # down every later allocation.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_MXFAST, 0))
    return all(mallopt(name, value) == 1 for name, value in settings)


def usable_cache_folder(choice: str) -> Path | None:
    """Makes and returns `cache_folder`; None, with a warning, if the default cannot be used.

    Raises:
      OSError: the folder that was chosen cannot be written.
    """
    try:
        folder = cache_folder(choice)
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home folder
        if choice != "auto":
            raise
        logging.warning(
            "runtime.compilation_cache: the default folder cannot be used (%s); compiled functions "
            "are not kept. Set XDG_CACHE_HOME to a folder that you may write",
            error,
        )
        return None


def cache_folder(choice: str) -> Path | None:
    """The folder of compiled functions: ``auto`` is in the user's cache folder."""
    if choice == "none":
        return None
    if choice != "auto":
        return Path(choice)
    if address := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None if "://" in address else Path(address)  # JAX itself takes buckets
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "leukjax" / "compiled"


def compute_dtype(choice: str, platform: str = "") -> jnp.dtype:
    """``auto`` is bfloat16 on GPU and TPU and float32 on CPU; "" is this machine's platform."""
    if choice == "auto":
        choice = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    return jnp.dtype(choice)


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 FLOP/s of one device, or None if it is unknown."""
    for kind, value in _PEAK_BFLOAT16.items():
        if device.device_kind.startswith(kind):
            return value
    return None


def peak_memory() -> int:
    """Peak bytes of the first device; of this process in host memory if the device reports none.

    0 if the operating system does not report it (Windows).
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_memory() -> int:
    """Bytes of the first device; 0 if it does not report them (CPU)."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))


# Files of the control group of a container or a cluster job: limit, use, and the field of
# memory.stat that counts the part of the use which can be dropped. Version 2, version 1.
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), cgroup_file: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes of host memory that can be used without swapping; 0 if that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return min(
            int(fields["MemAvailable"].split()[0]) * 1024,
            *_left_in_cgroups(cgroups, cgroup_file),
            2**63,
        )
    except (OSError, KeyError, ValueError):  # no Linux
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError):  # Windows
        return 0


def _left_in_cgroups(cgroups: Path, cgroup_file: Path) -> Iterator[int]:
    """Yields the bytes that each limit on this process leaves."""
    folders = [cgroups, cgroups / "memory"]
    with contextlib.suppress(OSError):
        for line in cgroup_file.read_text(encoding="utf-8").splitlines():
            path = line.rpartition(":")[2].strip("/")
            folders += [folder / path for folder in folders[:2]] if path else []
    for folder in folders:
        for limit, used, inactive in _CGROUPS:
            with contextlib.suppress(OSError, ValueError):  # not this version; "max": no limit
                bound = int((folder / limit).read_text(encoding="utf-8"))
                taken = int((folder / used).read_text(encoding="utf-8"))
                statistics = (folder / "memory.stat").read_text(encoding="utf-8").split()
                if inactive in statistics:
                    taken -= int(statistics[statistics.index(inactive) + 1])
                yield max(0, bound - taken)


def describe() -> str:
    """One line: devices, processes, JAX's version."""
    devices = jax.devices()
    kind = "CPU" if devices[0].platform == "cpu" else devices[0].device_kind
    processes = jax.process_count()
    where = f", {processes} processes" if processes > 1 else ""
    cores = f" ({_cores()} cores)" if kind == "CPU" else ""
    return f"{len(devices)} x {kind}{cores}{where}, jax {jax.__version__}"


def _cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_no_device(error: BaseException) -> str | None:
    """One line if JAX could not start on the devices that it was told to use, else None."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if isinstance(error, AssertionError) and platforms and not jax.distributed.is_initialized():
        # JAX 0.10 has no message for a missing GPU, and removes its frames from the traceback: try
        # whether it fails again.
        try:
            jax.devices()
        except (AssertionError, RuntimeError):
            reason = "no such device"
        else:
            return None
    else:
        reason = (str(error).splitlines() or [""])[0]
        if not reason.startswith("Unable to initialize backend"):
            return None
        # Replaces JAX's own advice.
        reason = re.sub(r" \(set JAX_PLATFORMS=.*\)", "", reason).rstrip(".")
    if not platforms:
        return f"JAX cannot use the devices of this machine ({reason}); try JAX_PLATFORMS=cpu"
    return (
        f"environment: JAX_PLATFORMS={platforms}: cannot be used here ({reason}); unset it, or set "
        "JAX_PLATFORMS=cpu"
    )


# Machines whose processors have one name may differ in these, and so in the order of sums.
_VECTORS = (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of this machine's processor, and its widest vector instructions.

    Runs give the same bits on the same processor.
    """
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
    flags = named.get("flags", "").split()
    vectors = next((f", {vector}" for flag, vector in _VECTORS if flag in flags), "")
    return f"{name or 'unknown'}{vectors} ({platform.machine()})"


def log_start() -> None:
    """Logs on which machine this runs."""
    logging.info("device: %s", describe())
