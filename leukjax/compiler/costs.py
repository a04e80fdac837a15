"""What each operation of an optimised program moves and computes, and how long that must take.

Bytes are those of the operands and results of every operation that is run by itself: what lies
inside a fusion never reaches the device's memory. Two corrections keep this from counting what is
not touched: of an operand that is only indexed (gathered, sliced) the part that is read is counted,
and of a result that is updated in place the part that is written.
"""

import dataclasses
import re
from collections.abc import Iterator

from leukjax.compiler import flops
from leukjax.compiler.program import Array, Computation, Operation, Program

# These move nothing: they name what is there already.
FREE = frozenset(
    (
        "add-dependency",
        "after-all",
        "bitcast",
        "constant",
        "domain",
        "get-tuple-element",
        "opt-barrier",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
    )
)
_INDEXING = frozenset(("gather", "dynamic-slice", "slice"))
_LIBRARIES = ("__cudnn$conv", "__cublas$")
_PASSING = frozenset(("bitcast", "reshape", "copy", "convert"))


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one operation of the program, once.

    Attributes:
      bytes: read from and written to the device's memory.
      flops: of matrix products and convolutions; a multiplication with its addition is two.
      cycles: the TPU compiler's own estimate, 0 where there is none.
      times: how often the operation runs: the trips of the loops around it.
    """

    operation: Operation
    bytes: float
    flops: float
    cycles: float
    times: int


def costs(program: Program) -> list[Cost]:
    """Of every operation that is run by itself, in the order of execution, loops included."""
    return list(_of(program, program.entry, 1))


def _of(program: Program, computation: Computation, times: int) -> Iterator[Cost]:
    for operation in computation.operations:
        opcode = operation.opcode
        if opcode in FREE:
            continue
        if opcode in ("while", "call", "conditional"):
            called = [program.computations[name] for name in operation.calls]
            trips = times * (_trips(operation) if opcode == "while" else 1)
            if opcode == "conditional":  # one of them runs: the costliest is counted
                called = [max(called, key=lambda one: _bytes_of_all(program, one))]
            for one in called:
                yield from _of(program, one, trips)
        else:
            yield Cost(
                operation,
                moved(program, computation, operation),
                0.0 if opcode.endswith("-done") else flops.of(program, computation, operation),
                _cycles(operation),
                times,
            )


def _bytes_of_all(program: Program, computation: Computation) -> float:
    return sum(cost.bytes * cost.times for cost in _of(program, computation, 1))


def _trips(operation: Operation) -> int:
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"', operation.text)
    return int(match[1]) if match else 1


def _cycles(operation: Operation) -> float:
    match = re.search(r'"estimated_cycles":"(\d+)"', operation.text)
    return float(match[1]) if match else 0.0


def moved(program: Program, computation: Computation, operation: Operation) -> float:
    """Bytes that an operation reads from and writes to the device's memory."""
    if operation.opcode.endswith("-done"):  # its operand is what the start holds
        return sizes(operation.shape)
    if operation.opcode in ("slice-start", "dynamic-slice-start"):
        ends = [one for one in computation.users(operation.name) if one.opcode.endswith("-done")]
        return sum(array.bytes for one in ends for array in one.shape)
    read = 0.0
    for number, name in enumerate(operation.operands):
        operand = computation.by_name.get(name)
        if operand is not None and _is_array(operand):
            read += min(sizes(operand.shape), _touched(program, operation, number))
    return read + (0.0 if operation.opcode.endswith("-start") else _written(program, operation))


def _is_array(operand: Operation) -> bool:
    # A tuple is a name for what others hold; whatever reads a whole one (a loop) is not counted.
    return operand.opcode not in ("tuple", "after-all")


def sizes(shape: tuple[Array, ...]) -> float:
    """Bytes of arrays that lie in the device's memory."""
    return sum(array.bytes for array in shape if array.space == 0)


def _touched(program: Program, operation: Operation, number: int) -> float:
    """Bytes of an operand that are read: fewer than all where it is only indexed."""
    if operation.opcode in _INDEXING and number == 0:
        return sizes(operation.shape)
    if operation.opcode == "dynamic-update-slice" and number == 0:
        return 0.0
    if operation.opcode != "fusion":
        return float("inf")
    inside = program.computations[operation.calls[0]]
    read = 0.0
    waiting = [inside.parameters[number].name]
    while waiting:
        name = waiting.pop()
        for user in inside.users(name):
            if user.opcode in _INDEXING and user.operands[0] == name:
                read += sum(array.bytes for array in user.shape)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # written in place
            elif user.opcode in _PASSING:
                waiting.append(user.name)
            else:
                return float("inf")
        if name == inside.root.name:
            return float("inf")
    return read


def _written(program: Program, operation: Operation) -> float:
    """Bytes of the results; where a part of an operand is replaced in place, that part."""
    updates = []
    if operation.opcode == "dynamic-update-slice":
        return 0.0  # the update is an operand, and counted; it is written over what is there
    if operation.opcode == "fusion":
        inside = program.computations[operation.calls[0]]
        updates = [one for one in inside.operations if one.opcode == "dynamic-update-slice"]
        if len(updates) == 1 and updates[0].shape[0].size == operation.shape[0].size:
            part = inside.by_name[updates[0].operands[1]]
            return sum(array.bytes for array in part.shape)
    if operation.target.startswith(_LIBRARIES):  # the rest is room to work in
        return sizes(operation.shape[:1])
    return sizes(operation.shape)


def seconds(cost: Cost, bandwidth: float, peak: float) -> float:
    """The roofline: the longer of moving and computing, each at the device's best, once."""
    return max(cost.bytes / bandwidth, cost.flops / peak)
