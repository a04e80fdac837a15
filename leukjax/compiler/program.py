"""Parses the text of an optimised XLA program into operations with shapes and operands.

XLA writes one operation per line, ``%name = shape opcode(%operand, …), attribute=…``, and one
computation per block of lines. Compiled computations are in order of execution.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1.0, "token": 0.0, "opaque": 0.0}  # other kinds name their bits: bf16, s4, f8e5m2
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|"
    r"true_computation|false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      kind: ``bf16``, ``f32``, ….
      size: along each axis.
      space: memory that holds it: 0 is device memory; others are on the chip (TPU) or the host.
    """

    kind: str
    size: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        """Size without padding; a packed type (s4) takes half a byte."""
        bits = re.search(r"\d+", self.kind)
        width = int(bits[0]) / 8 if bits else _BYTES[self.kind]
        return width * math.prod(self.size)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
      shape: the arrays of its result; nested tuples are flattened.
      operands: names of operations of the same computation.
      calls: names of the computations that it runs.
      text: the whole line, without comments.
    """

    name: str
    opcode: str
    shape: tuple[Array, ...]
    operands: tuple[str, ...]
    calls: tuple[str, ...]
    text: str

    @property
    def source(self) -> str:
        """Traced origin, as ``jvp(ResNet)/layer1_0/conv1/conv_general_dilated``, or ""."""
        match = re.search(r'op_name="(.*?)(?<!\\)"', self.text)
        return match[1].partition("/")[2] or match[1] if match else ""

    @property
    def target(self) -> str:
        """Function of a custom call, as ``__cudnn$convForward``, or ""."""
        match = re.search(r'custom_call_target="([^"]*)"', self.text)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Operations in order of execution."""

    name: str
    operations: tuple[Operation, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Operation]:
        """Name -> operation."""
        return {operation.name: operation for operation in self.operations}

    @functools.cached_property
    def parameters(self) -> dict[int, Operation]:
        """Number -> parameter."""
        return {
            int(re.findall(r"parameter\((\d+)\)", operation.text)[0]): operation
            for operation in self.operations
            if operation.opcode == "parameter"
        }

    def users(self, name: str) -> list[Operation]:
        """Returns the operations that read `name`."""
        return [operation for operation in self.operations if name in operation.operands]

    @property
    def root(self) -> Operation:
        """The operation whose result the computation returns."""
        roots = [line for line in self.operations if line.text.startswith("ROOT ")]
        return roots[0] if roots else self.operations[-1]


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name, and the one that runs first."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Program:
    """Parses the text of a module, as ``compiled.as_text()`` returns it.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    for header, lines in _blocks(text):
        if match := _NAME.search(header):
            operations = tuple(filter(None, map(_operation, lines)))
            computations[match[1]] = Computation(match[1], operations)
            entry = match[1] if header.startswith("ENTRY") else entry
    if not entry:
        raise ValueError("not an XLA module: no line starts with ENTRY")
    return Program(computations, computations[entry])


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the first line of each computation, and its lines up to the closing brace."""
    header, lines = "", list[str]()
    for line in text.splitlines():
        if not header and line.endswith("{") and line.startswith(("%", "ENTRY")):
            header, lines = line, []
        elif header and line.startswith("}"):
            yield header, lines
            header = ""
        else:
            lines.append(line)


def _operation(line: str) -> Operation | None:
    line = _COMMENT.sub("", line).strip()
    left, equals, right = line.partition(" = ")
    if not equals:
        return None
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    opcode, bracket, _ = right[end:].strip().partition("(")
    start = right.index(opcode + bracket, end) + len(opcode)
    close = _closing(right, start)
    return Operation(
        name=_NAME.findall(left)[0],
        opcode=opcode,
        shape=_arrays(right[:end]),
        operands=() if opcode == "constant" else tuple(_NAME.findall(right[start:close])),
        calls=tuple(
            name for group in _CALLS.findall(right[close:]) for name in _NAME.findall(group)
        ),
        text=line,
    )


def _closing(text: str, start: int) -> int:
    """Returns the index after the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    raise ValueError(f"no closing bracket: {text[start : start + 80]}")


def _arrays(shape: str) -> tuple[Array, ...]:
    """Parses ``(f32[2,3]{1,0}, bf16[4]{0:S(1)})``."""
    arrays = []
    for kind, size, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        sizes = tuple(int(part.lstrip("<=")) for part in size.split(",") if part)
        arrays.append(Array(kind, sizes, int(space[1]) if space else 0))
    return tuple(arrays)
