"""What the devices of a program send each other, and whether they compute meanwhile."""

import dataclasses
import re

from leukjax.compiler.costs import FREE, sizes
from leukjax.compiler.program import Computation, Operation, Program

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange.

    Attributes:
      kind: ``all-reduce``, ``all-gather``, ….
      bytes: of the arrays of one device that take part.
      overlapped: the program computes something between its start and its end.
    """

    kind: str
    bytes: float
    overlapped: bool


def collectives(program: Program) -> list[Collective]:
    """All exchanges of a program, in its order; those inside loops once."""
    found = []
    for computation in program.computations.values():
        for place, operation in enumerate(computation.operations):
            kind = _kind(program, operation)
            if kind:
                found.append(
                    Collective(
                        kind,
                        sum(sizes(one.shape) for one in _operands(computation, operation)),
                        _overlapped(computation, place),
                    )
                )
    return found


def _kind(program: Program, operation: Operation) -> str:
    """The kind of an exchange that starts here, or nothing."""
    name = operation.opcode
    if name == "async-start":
        inner = [program.computations[called].root.opcode for called in operation.calls]
        name = inner[0] if inner else ""
    name = name.removesuffix("-start")
    return name if name in _KINDS else ""


def _operands(computation: Computation, operation: Operation) -> list[Operation]:
    return [computation.by_name[name] for name in operation.operands if name in computation.by_name]


def _overlapped(computation: Computation, place: int) -> bool:
    start = computation.operations[place]
    if not start.opcode.endswith("-start") or re.search(r'"is_sync":true', start.text):
        return False
    for operation in computation.operations[place + 1 :]:
        if start.name in operation.operands:
            return False
        if operation.opcode not in FREE and not operation.opcode.endswith(("-start", "-done")):
            return True
    return False
