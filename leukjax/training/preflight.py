"""Compiles a config's training step for devices of another machine, and reports what it needs.

The compilers for GPU and TPU come with the extra ``preflight``. They are used in a process of their
own (``python -m leukjax.training.preflight``), which sees no device but the CPU: loaded beside JAX,
they would search this machine for hardware at every start.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from leukjax import sharding
from leukjax.compiler import compiled, targets
from leukjax.errors import UserError
from leukjax.storage import write_atomic
from leukjax.training.data_placement import DEVICE_IMAGES
from leukjax.training.trainer import Trainer

RESULT, PROGRAM = "preflight.json", "preflight.hlo.txt"
# Nothing of the data is read, so its classes are not known; two or three change nothing that
# can be seen in the numbers.
CLASSES = 2


def run(config: ConfigDict, folder: Path, device: str) -> dict[str, Any]:
    """Compiles for ``DEVICE:COUNT`` in a process of its own; writes both files, prints a table.

    Returns:
      What ``preflight.json`` holds.

    Raises:
      UserError: no such device, no compiler for it here, or a step that does not fit.
    """
    target, count = targets.parse(device)
    lacking = targets.missing(target)
    if lacking:
        raise UserError(f"--preflight={device}: {lacking}")
    print(f"compiling for {count} x {target.title}: half a minute to many", flush=True)
    request = {"config": config.to_dict(), "device": device}
    done = subprocess.run(
        [sys.executable, "-m", "leukjax.training.preflight"],
        input=json.dumps(request),
        env=targets.environment(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    answer = done.stdout.strip().splitlines()
    if done.returncode or not answer:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"--preflight={device}: the compiler failed: {lines[-1]}")
    result = json.loads(answer[-1])
    if "error" in result:
        raise UserError(f"--preflight={device}: {result['error']}")
    text = result.pop("program")
    write_atomic(folder / PROGRAM, text)
    write_atomic(folder / RESULT, json.dumps(result, indent=2) + "\n")
    print(table(result))
    print(f"\n{folder / RESULT}, {folder / PROGRAM}")
    return result


def compile_config(config: ConfigDict, target: targets.Target, count: int) -> dict[str, Any]:
    """Compiles a config's step twice; returns what ``preflight.json`` holds, and the HLO.

    To be called where `targets.ENVIRONMENT` was set before JAX was used.
    """
    batch = config.train.batch_size
    first = compiled.compile_lowered(lower(config, target, count))
    summary = compiled.summarize(first.text, target, batch // count)
    twice = config.copy_and_resolve_references()
    twice.train.batch_size = 2 * batch
    second = compiled.compile_lowered(lower(twice, target, count))
    usable = target.usable
    return {
        "device": target.name,
        "title": target.title,
        "count": count,
        "batch_size": batch,
        "image_size": config.data.image_size,
        "classes": CLASSES,
        "compile_seconds": round(first.seconds, 1),
        "compiler_options": first.options,
        "bytes_per_image": round(summary.bytes_per_image),
        "flops_per_image": round(summary.flops_per_image),
        "peak_bytes_per_device": first.peak_bytes,
        "usable_bytes_per_device": round(usable),
        "fits": first.peak_bytes <= usable,
        "images_per_second_bound": round(summary.images_per_second, 1),
        "bound_by_memory": round(summary.bound_by_memory, 3),
        "largest_batch": largest_batch(config, count, first.peak_bytes, second.peak_bytes, usable),
        "estimated_cycles_invalid_model": summary.estimated_cycles,
        "collectives": summary.collectives,
        "costliest": [dataclasses.asdict(operation) for operation in summary.costliest],
        "program": first.text,
    }


def largest_batch(config: ConfigDict, count: int, once: int, twice: int, usable: float) -> int:
    """The largest batch that fits, by a line through the memory of one batch and of two.

    Args:
      config: with a batch that `once` was compiled for; `twice` was for two of it.
      count: devices.
      once: bytes of a device.
      twice: bytes of a device for twice that batch.
      usable: bytes that a device offers.

    Returns:
      Images over all devices, divisible as the config wants them; 0 where none fit.
    """
    batch = config.train.batch_size
    slope = max(twice - once, 1) / batch
    images = (usable - (once - slope * batch)) / slope
    unit = count * config.train.accumulate * max(config.model.norm_batch, 1)
    if batch % unit:  # parts of a batch may be on several devices
        unit = batch
    return max(0, int(images // unit) * unit)


def lower(
    config: ConfigDict, target: targets.Target, count: int, resident: int = 0
) -> jax.stages.Lowered:
    """Lowers the training step for `count` devices of a target, with a batch of any images.

    With `resident` records on every device, from which the batch is taken by index.
    """
    mesh = sharding.make_mesh(config.mesh, config.train.batch_size, target.devices(count))
    return lower_on(config, mesh, target.platform, resident)


def lower_on(
    config: ConfigDict, mesh: jax.sharding.Mesh, platform: str, resident: int = 0
) -> jax.stages.Lowered:
    """The same for a platform (cpu, cuda, tpu), on the devices of a mesh, which may be others."""
    image_sharding = sharding.replicated(mesh) if resident else None
    trainer = Trainer.from_config(config, num_classes=CLASSES, mesh=mesh, platform=platform)
    made = trainer.compiled("black", image_sharding)
    step: Any = made.train_steps[1]  # jitted
    batch = _batch(config, mesh, resident)
    return step.trace(made.form, batch).lower(lowering_platforms=(platform,))


def _batch(config: ConfigDict, mesh: jax.sharding.Mesh, resident: int) -> dict[str, Any]:
    examples, side = config.train.batch_size, config.data.image_size
    spread = sharding.batch_sharding(mesh)

    def array(dtype: Any, *size: int, place: Any = spread) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=place)

    batch = {
        "label": array(jnp.int32, examples),
        "mask": array(jnp.bool_, examples),
        "index": array(jnp.int32, examples),
    }
    if resident:
        everywhere = sharding.replicated(mesh)
        return batch | {DEVICE_IMAGES: array(jnp.uint8, resident, side, side, 3, place=everywhere)}
    return batch | {"image": array(jnp.uint8, examples, side, side, 3)}


def table(result: dict[str, Any]) -> str:
    """The result in lines for a terminal."""
    per_device = result["batch_size"] // result["count"]
    bound = result["images_per_second_bound"]
    exchanges = [
        f"{kind} {row['number']} ({row['megabytes']:.1f} MB, {row['overlapped']} overlapped)"
        for kind, row in result["collectives"].items()
    ]
    most = result["largest_batch"]
    lines = [
        f"{result['count']} x {result['title']}, {per_device} images of {result['image_size']} px "
        f"on each ({result['classes']} classes), compiled in {result['compile_seconds']:.0f} s",
        f"  memory       {result['peak_bytes_per_device'] / 1e9:.2f} GB a device of "
        f"{result['usable_bytes_per_device'] / 1e9:.1f} GB: "
        f"{'fits' if result['fits'] else 'DOES NOT FIT'}",
        f"  largest      train.batch_size={most} ({most // result['count']} a device)",
        f"  bytes        {result['bytes_per_image'] / 1e6:.1f} MB an image through device memory",
        f"  FLOPs        {result['flops_per_image'] / 1e9:.2f} GFLOP an image",
        f"  bound        {bound:,.0f} images/s a device, {bound * result['count']:,.0f} in all "
        f"(memory bounds {result['bound_by_memory']:.0%} of the time)",
        f"  collectives  {'; '.join(exchanges) or 'none'}",
    ]
    if result["estimated_cycles_invalid_model"]:
        cycles = result["estimated_cycles_invalid_model"]
        lines.append(f"  cycles       {cycles:,.0f} a step by a cost model marked invalid")
    lines.append("  costliest operations: share of the time, MB and MFLOP an image")
    for row in result["costliest"]:
        lines.append(
            f"  {row['share']:6.1%} {row['bytes'] / 1e6:8.2f} {row['flops'] / 1e6:9.1f}  "
            f"{row['kind'].removeprefix('__cudnn$')}  {row['source'][-60:]}"
        )
    return "\n".join(lines)


def _serve() -> None:
    """Reads a request from standard input, and writes the result as one line."""
    request = json.load(sys.stdin)
    target, count = targets.parse(request["device"])
    try:
        answer = compile_config(ConfigDict(request["config"]), target, count)
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _serve()
