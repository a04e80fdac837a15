"""Compile a step for devices that are not here, and sum up what the compiler made of it."""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax

from leukjax.compiler import costs
from leukjax.compiler.collectives import collectives
from leukjax.compiler.program import parse
from leukjax.compiler.targets import Target
from leukjax.errors import UserError

COSTLIEST = 12
# Sizes of tiles are found by trying them on a card; without one the compiler's Triton back end
# finds none for some matrix products, and gives up. These go to cuBLAS then, as most would.
_NO_TILES = "Couldn't find output tile sizes"
_WITHOUT_TRITON: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program in its optimised form.

    Attributes:
      text: of the program.
      seconds: that the compiler took.
      peak_bytes: of one device's memory: arguments, results and what is between.
      options: of the compiler, where others than its own were needed.
    """

    text: str
    seconds: float
    peak_bytes: int
    options: dict[str, Any]


def compile_lowered(
    lowered: jax.stages.Lowered, flags: Mapping[str, str | bool] | None = None
) -> Compiled:
    """Compile for the devices in the lowered program's shardings.

    Args:
      lowered: the program.
      flags: options of the compiler, by their XLA names.

    Raises:
      UserError: it needs more memory than a device has.
    """
    begun = time.perf_counter()
    options = dict(flags or {})
    try:
        try:
            program = lowered.compile(compiler_options=options or None)
        except jax.errors.JaxRuntimeError as error:
            if _NO_TILES not in str(error):
                raise
            options |= _WITHOUT_TRITON
            program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            raise UserError(
                "the step does not fit into the device's memory; lower train.batch_size, or raise "
                "train.accumulate or the number of devices"
            ) from error
        raise
    seconds = time.perf_counter() - begun
    memory: Any = program.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Compiled(str(program.as_text()), seconds, int(peak), options)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One of the costliest operations; everything an image.

    Attributes:
      name: in the optimised program.
      source: in the traced one.
      share: of the time of all operations by the roofline.
    """

    name: str
    kind: str
    source: str
    bytes: float
    flops: float
    share: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the compiler made of a step.

    Attributes:
      bytes_per_image: through the device's memory, see `costs`.
      flops_per_image: of matrix products and convolutions.
      images_per_second: of a device at most: the sum over all operations of the longer of moving
        and computing, at the best the maker states. Links, launches and waiting are not in it.
      bound_by_memory: share of that time in which memory is what bounds.
      estimated_cycles: a step, by the TPU compiler's cost model, which it marks as invalid itself;
        0 on GPU.
      collectives: kind -> number, megabytes a device and step, how many are overlapped.
      costliest: by the roofline.
    """

    bytes_per_image: float
    flops_per_image: float
    images_per_second: float
    bound_by_memory: float
    estimated_cycles: float
    collectives: dict[str, dict[str, float]]
    costliest: list[Operation]


def summarize(text: str, target: Target, images: int) -> Summary:
    """Read an optimised program that works on so many images on each device."""
    program = parse(text)
    rows = costs.costs(program)
    times = [cost.times * costs.seconds(cost, target.bandwidth, target.bfloat16) for cost in rows]
    total = sum(times)
    by_memory = sum(
        time
        for time, cost in zip(times, rows, strict=True)
        if cost.bytes / target.bandwidth >= cost.flops / target.bfloat16
    )
    order = sorted(range(len(rows)), key=lambda number: -times[number])[:COSTLIEST]
    return Summary(
        bytes_per_image=sum(cost.bytes * cost.times for cost in rows) / images,
        flops_per_image=sum(cost.flops * cost.times for cost in rows) / images,
        images_per_second=images / total,
        bound_by_memory=by_memory / total,
        estimated_cycles=sum(cost.cycles * cost.times for cost in rows),
        collectives=_exchanges(program),
        costliest=[_operation(rows[number], times[number] / total, images) for number in order],
    )


def _exchanges(program: Any) -> dict[str, dict[str, float]]:
    number: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    overlapped: Counter[str] = Counter()
    for one in collectives(program):
        number[one.kind] += 1
        sizes[one.kind] += one.bytes / 1e6  # type: ignore[assignment]
        overlapped[one.kind] += one.overlapped
    return {
        kind: {"number": number[kind], "megabytes": sizes[kind], "overlapped": overlapped[kind]}
        for kind in sorted(number)
    }


def _operation(cost: costs.Cost, share: float, images: int) -> Operation:
    operation = cost.operation
    return Operation(
        operation.name,
        operation.target or operation.opcode,
        operation.source,
        cost.bytes * cost.times / images,
        cost.flops * cost.times / images,
        share,
    )
