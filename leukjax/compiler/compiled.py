"""Compiles a step for absent devices and sums up bytes, FLOPs, collectives and memory.

Bytes are the operands and results of every operation that runs by itself: values inside a fusion
never reach device memory. Of an operand that is only indexed (gathered, sliced) the part that is
read counts, and of a result that is updated in place the part that is written. FLOPs are those of
matrix products and convolutions, without products with padding.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from leukjax.compiler.program import Array, Computation, Operation, Program, parse
from leukjax.compiler.targets import Target
from leukjax.errors import UserError

COSTLIEST = 12
# XLA finds tile sizes by timing them on a GPU. Without one its Triton back end fails for some
# matrix products; these then use cuBLAS, as most would.
_NO_TILES = "Couldn't find output tile sizes"
_WITHOUT_TRITON: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}

# Operations that move no bytes: they only name existing arrays.
_FREE = frozenset((
    "add-dependency", "after-all", "bitcast", "constant", "domain", "get-tuple-element",
    "opt-barrier", "parameter", "partition-id", "replica-id", "tuple",
))  # fmt: skip
_INDEXING = frozenset(("gather", "dynamic-slice", "slice"))
_PASSING = frozenset(("bitcast", "reshape", "copy", "convert"))
_LIBRARIES = ("__cudnn$conv", "__cublas$")
_GEMMS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8", "__triton_gemm")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """An optimised program.

    Attributes:
      text: of the program.
      seconds: compile time.
      peak_bytes: memory of one device: arguments, results and temporaries.
      options: compiler options other than the defaults.
    """

    text: str
    seconds: float
    peak_bytes: int
    options: dict[str, Any]


def compile_lowered(
    lowered: jax.stages.Lowered, flags: Mapping[str, str | bool] | None = None
) -> Compiled:
    """Compiles for the devices in the lowered function's shardings.

    Args:
      lowered: the function.
      flags: compiler options by their XLA names.

    Raises:
      UserError: it needs more memory than a device has.
    """
    began = time.perf_counter()
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
    seconds = time.perf_counter() - began
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
class CostlyOperation:
    """One of the costliest operations; bytes and FLOPs are per image.

    Attributes:
      name: in the optimised program.
      source: in the traced function.
      share: of the time of all operations, by the roofline.
    """

    name: str
    kind: str
    source: str
    bytes: float
    flops: float
    share: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Costs of an optimised step.

    Attributes:
      bytes_per_image: through device memory.
      flops_per_image: of matrix products and convolutions.
      images_per_second: upper bound for one device: the sum over all operations of the longer of
        moving and computing at the maker's rates. It excludes links, launches and waiting.
      bound_by_memory: share of that time in which memory is the bound.
      estimated_cycles: per step, by the TPU compiler's cost model, which it marks as invalid
        itself; 0 on GPU.
      collectives: kind -> number, megabytes per device and step, how many overlap computation.
      costliest: by the roofline.
    """

    bytes_per_image: float
    flops_per_image: float
    images_per_second: float
    bound_by_memory: float
    estimated_cycles: float
    collectives: dict[str, dict[str, float]]
    costliest: list[CostlyOperation]


def summarize(text: str, target: Target, images: int) -> Summary:
    """Sums up an optimised program that processes `images` images on each device."""
    program = parse(text)
    rows = costs(program)
    moving = [cost.bytes / target.bandwidth for cost in rows]
    computing = [cost.flops / target.bfloat16 for cost in rows]
    times = [c.times * max(*pair) for c, *pair in zip(rows, moving, computing, strict=True)]
    total = sum(times)
    by_memory = sum(t for t, m, c in zip(times, moving, computing, strict=True) if m >= c)
    order = sorted(range(len(rows)), key=lambda number: -times[number])[:COSTLIEST]
    return Summary(
        bytes_per_image=sum(cost.bytes * cost.times for cost in rows) / images,
        flops_per_image=sum(cost.flops * cost.times for cost in rows) / images,
        images_per_second=images / total,
        bound_by_memory=by_memory / total,
        estimated_cycles=sum(cost.cycles * cost.times for cost in rows),
        collectives=_collective_totals(program),
        costliest=[_costly(rows[number], times[number] / total, images) for number in order],
    )


def _costly(cost: "Cost", share: float, images: int) -> CostlyOperation:
    operation, scale = cost.operation, cost.times / images
    kind = operation.target or operation.opcode
    return CostlyOperation(
        operation.name, kind, operation.source, cost.bytes * scale, cost.flops * scale, share
    )


class Cost(NamedTuple):
    """What one execution of an operation costs.

    Attributes:
      bytes: read from and written to device memory.
      flops: a multiplication with its addition counts two.
      cycles: the TPU compiler's own estimate; 0 if there is none.
      times: how often the operation runs: the trip counts of the loops around it.
    """

    operation: Operation
    bytes: float
    flops: float
    cycles: float
    times: int


def costs(program: Program) -> list[Cost]:
    """Returns the cost of every operation that runs by itself, in order, loops included."""
    return list(_costs_of(program, program.entry, 1))


def _costs_of(program: Program, computation: Computation, times: int) -> Iterator[Cost]:
    for operation in computation.operations:
        opcode = operation.opcode
        if opcode in ("while", "call", "conditional"):
            called = [program.computations[name] for name in operation.calls]
            trips = _attribute(operation, r'"known_trip_count":\{"n":"(\d+)"', 1)
            inner = [
                list(_costs_of(program, body, times * (trips if opcode == "while" else 1)))
                for body in called
            ]
            if opcode == "conditional":  # only one branch runs: count the costliest
                inner = [max(inner, key=lambda rows: sum(row.bytes * row.times for row in rows))]
            yield from (cost for rows in inner for cost in rows)
        elif opcode not in _FREE:
            yield Cost(
                operation,
                _moved(program, computation, operation),
                0.0 if opcode.endswith("-done") else _flops(program, computation, operation),
                float(_attribute(operation, r'"estimated_cycles":"(\d+)"', 0)),
                times,
            )


def _attribute(operation: Operation, pattern: str, default: int) -> int:
    match = re.search(pattern, operation.text)
    return int(match[1]) if match else default


def _sizes(shape: tuple[Array, ...]) -> float:
    """Returns the bytes of the arrays that are in device memory."""
    return sum(array.bytes for array in shape if array.space == 0)


def _all_bytes(shape: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in shape)


def _moved(program: Program, computation: Computation, operation: Operation) -> float:
    """Returns the bytes that an operation reads from and writes to device memory."""
    if operation.opcode.endswith("-done"):  # its operand is what the start holds
        return _sizes(operation.shape)
    if operation.opcode in ("slice-start", "dynamic-slice-start"):
        ends = [user for user in computation.users(operation.name) if user.opcode.endswith("-done")]
        return sum(_all_bytes(end.shape) for end in ends)
    read = 0.0
    for number, name in enumerate(operation.operands):
        operand = computation.by_name.get(name)
        # A tuple only names other arrays.
        if operand is not None and operand.opcode not in ("tuple", "after-all"):
            read += min(_sizes(operand.shape), _touched(program, operation, number))
    return read + (0.0 if operation.opcode.endswith("-start") else _written(program, operation))


def _touched(program: Program, operation: Operation, number: int) -> float:
    """Returns the bytes of an operand that are read: fewer than all if it is only indexed."""
    if operation.opcode in _INDEXING and number == 0:
        return _sizes(operation.shape)
    if operation.opcode == "dynamic-update-slice" and number == 0:
        return 0.0
    if operation.opcode != "fusion":
        return math.inf
    inside = program.computations[operation.calls[0]]
    read, names = 0.0, [inside.parameters[number].name]
    while names:
        name = names.pop()
        for user in inside.users(name):
            if user.opcode in _INDEXING and user.operands[0] == name:
                read += _all_bytes(user.shape)
            elif user.opcode in _PASSING:
                names.append(user.name)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                return math.inf
        if name == inside.root.name:
            return math.inf
    return read


def _written(program: Program, operation: Operation) -> float:
    """Returns the bytes of the results; of an update in place, those of the part."""
    if operation.opcode == "dynamic-update-slice":
        return 0.0  # the update is an operand, counted as read
    if operation.opcode == "fusion":
        inside = program.computations[operation.calls[0]]
        updates = [line for line in inside.operations if line.opcode == "dynamic-update-slice"]
        if len(updates) == 1 and updates[0].shape[0].size == operation.shape[0].size:
            return _all_bytes(inside.by_name[updates[0].operands[1]].shape)
    if operation.target.startswith(_LIBRARIES):  # further results are workspace
        return _sizes(operation.shape[:1])
    return _sizes(operation.shape)


def _flops(program: Program, computation: Computation, operation: Operation) -> float:
    """Returns the FLOPs of an operation and of all that it calls."""
    if operation.opcode in ("convolution", "dot", "custom-call"):
        first = [computation.by_name[name].shape[0] for name in operation.operands[:2]]
        if operation.opcode == "convolution":
            return _convolution(operation.text, first[0], first[1], operation.shape[0])
        if operation.opcode == "dot" or operation.target in _GEMMS:
            return _dot(operation.text.replace('"', ""), first[0], operation.shape[0])
        if operation.target.startswith("__cudnn$conv"):
            return _cudnn(operation, *first)
    total = 0.0
    if operation.opcode in ("fusion", "async-start"):
        for name in operation.calls:
            called = program.computations[name]
            total += sum(_flops(program, called, inside) for inside in called.operations)
    return total


def _dot(text: str, lhs: Array, result: Array) -> float:
    match = re.search(r"lhs_contracting_dim(?:ension)?s[=:][{\[]([\d,]*)[}\]]", text)
    axes = [int(axis) for axis in match[1].split(",") if axis] if match else [len(lhs.size) - 1]
    return 2.0 * math.prod(result.size) * math.prod(lhs.size[axis] for axis in axes)


def _cudnn(operation: Operation, first: Array, second: Array) -> float:
    """A cuDNN call has window and labels of the forward convolution in each direction."""
    result = operation.shape[0]
    if "BackwardInput" in operation.target:
        return _convolution(operation.text, result, second, first)
    if "BackwardFilter" in operation.target:
        return _convolution(operation.text, first, result, second)
    return _convolution(operation.text, first, second, result)


def _convolution(text: str, lhs: Array, rhs: Array, out: Array) -> float:
    left, right, result = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", text)[0]
    total = 2.0 * out.size[result.index("b")] * out.size[result.index("f")]
    total *= rhs.size[right.index("i")]
    for axis in sorted(set(result) - {"b", "f"}):
        sizes = (lhs.size[left.index(axis)], rhs.size[right.index(axis)])
        total *= _pairs(_window(text, int(axis)), *sizes, out.size[result.index(axis)])
    return total


def _window(text: str, axis: int) -> dict[str, tuple[int, ...]]:
    """Parses one axis of ``window={size=3x3 pad=1_1x1_1 …}``."""
    match = re.search(r"window=\{([^}]*)\}", text)
    fields = {"stride": (1,), "pad": (0, 0), "lhs_dilate": (1,), "rhs_dilate": (1,)}
    for part in match[1].split() if match else ():
        name, _, values = part.partition("=")
        if name in fields:
            fields[name] = tuple(int(value) for value in values.split("x")[axis].split("_"))
    return fields


def _pairs(window: dict[str, tuple[int, ...]], size: int, width: int, outputs: int) -> int:
    """Counts the (output, window offset) pairs along one axis that read a pixel, not padding."""
    (stride,), (low, _) = window["stride"], window["pad"]
    (spread,), (dilation,) = window["lhs_dilate"], window["rhs_dilate"]
    positions = (
        output * stride + offset * dilation - low
        for output in range(outputs)
        for offset in range(width)
    )
    return sum(0 <= at <= (size - 1) * spread and at % spread == 0 for at in positions)


def _collective_totals(program: Program) -> dict[str, dict[str, float]]:
    totals: dict[str, dict[str, float]] = {}
    for kind, size, overlapped in collectives(program):
        row = totals.setdefault(kind, {"number": 0, "megabytes": 0.0, "overlapped": 0})
        row["number"] += 1
        row["megabytes"] += size / 1e6
        row["overlapped"] += overlapped
    return dict(sorted(totals.items()))


def collectives(program: Program) -> list[tuple[str, float, bool]]:
    """Returns kind, bytes per device and overlap of each collective; those in loops once."""
    rows = []
    for computation in program.computations.values():
        for index, operation in enumerate(computation.operations):
            kind = operation.opcode
            if kind == "async-start":
                kind = next((program.computations[n].root.opcode for n in operation.calls), "")
            kind = kind.removesuffix("-start")
            if kind in _COLLECTIVES:
                operands = [computation.by_name.get(name) for name in operation.operands]
                size = sum(_sizes(operand.shape) for operand in operands if operand)
                rows.append((kind, size, _overlapped(computation, index)))
    return rows


def _overlapped(computation: Computation, index: int) -> bool:
    """Returns whether something is computed between the start and the end of a collective."""
    start = computation.operations[index]
    if not start.opcode.endswith("-start") or re.search(r'"is_sync":true', start.text):
        return False
    for operation in computation.operations[index + 1 :]:
        if start.name in operation.operands:
            return False
        if operation.opcode not in _FREE and not operation.opcode.endswith(("-start", "-done")):
            return True
    return False
