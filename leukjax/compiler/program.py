"""The text of an optimised XLA program as operations: shapes, operands, what each one calls.

XLA writes one operation a line, ``%name = shape opcode(%operand, …), attribute=…``, one computation
a block of lines, and the entry computation of a compiled program in the order in which it runs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bytes of one number; a packed type (s4) is counted as half a byte.
_BYTES = {
    "pred": 1.0,
    "token": 0.0,
    "opaque": 0.0,
    **{f"{kind}4": 0.5 for kind in ("s", "u")},
    **{f"{kind}8": 1.0 for kind in ("s", "u")},
    **{f"{kind}16": 2.0 for kind in ("s", "u", "f", "bf")},
    **{f"{kind}32": 4.0 for kind in ("s", "u", "f")},
    **{f"{kind}64": 8.0 for kind in ("s", "u", "f", "c")},
    "c128": 16.0,
}

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
      space: memory in which it lies: 0 is the device's own, others are on the chip (TPU), or the
        host's.
    """

    kind: str
    size: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        """Of all its numbers, without padding."""
        width = 1.0 if self.kind.startswith("f8") else _BYTES[self.kind]
        return width * math.prod(self.size)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
      shape: the arrays of its result, those of nested tuples one after the other.
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
        """The place in the traced program, as ``jvp(ResNet)/layer1_0/conv1/conv_general_dilated``.

        Empty where the compiler names none.
        """
        match = re.search(r'op_name="(.*?)(?<!\\)"', self.text)
        return match[1].partition("/")[2] or match[1] if match else ""

    @property
    def target(self) -> str:
        """What a custom call calls, as ``__cudnn$convForward``."""
        match = re.search(r'custom_call_target="([^"]*)"', self.text)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Operations in the order of the text: of a compiled program, in that of execution."""

    name: str
    operations: tuple[Operation, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Operation]:
        """Name -> operation."""
        return {operation.name: operation for operation in self.operations}

    @functools.cached_property
    def parameters(self) -> dict[int, Operation]:
        """Number -> parameter."""
        found = {}
        for operation in self.operations:
            if operation.opcode == "parameter":
                match = re.search(r"parameter\((\d+)\)", operation.text)
                assert match is not None
                found[int(match[1])] = operation
        return found

    def users(self, name: str) -> list[Operation]:
        """The operations that read one."""
        return [operation for operation in self.operations if name in operation.operands]

    @property
    def root(self) -> Operation:
        """The result."""
        roots = [one for one in self.operations if one.text.startswith("ROOT ")]
        return roots[0] if roots else self.operations[-1]


@dataclasses.dataclass(frozen=True)
class Program:
    """A module: its computations by name, and the one that is run."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Program:
    """Read the text of a module, as ``compiled.as_text()`` gives it.

    Raises:
      ValueError: the text holds no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    for header, lines in _blocks(text):
        match = _NAME.search(header)
        if match is None:
            continue
        operations = tuple(filter(None, map(_operation, lines)))
        computations[match[1]] = Computation(match[1], operations)
        if header.startswith("ENTRY"):
            entry = match[1]
    if not entry:
        raise ValueError("not an XLA module: no line starts with ENTRY")
    return Program(computations, computations[entry])


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each computation's first line, and those up to its closing brace."""
    header: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if header is None:
            if line.endswith("{") and line.startswith(("%", "ENTRY")):
                header, lines = line, []
        elif line.startswith("}"):
            yield header, lines
            header = None
        else:
            lines.append(line)


def _operation(line: str) -> Operation | None:
    line = _COMMENT.sub("", line).strip()
    left, equals, right = line.partition(" = ")
    if not equals:
        return None
    match = _NAME.search(left)
    assert match is not None, line
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    shape = right[:end].strip()
    opcode, bracket, _ = right[end:].strip().partition("(")
    start = right.index(opcode + bracket, end) + len(opcode)
    close = _closing(right, start)
    arguments, attributes = right[start:close], right[close:]
    return Operation(
        name=match[1],
        opcode=opcode,
        shape=arrays(shape),
        operands=tuple(_NAME.findall(arguments)) if opcode != "constant" else (),
        calls=tuple(name for group in _CALLS.findall(attributes) for name in _NAME.findall(group)),
        text=line,
    )


def _closing(text: str, start: int) -> int:
    """One past the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"no closing bracket: {text[start : start + 80]}")


def arrays(shape: str) -> tuple[Array, ...]:
    """``(f32[2,3]{1,0}, bf16[4]{0:S(1)})`` as its arrays."""
    found = []
    for kind, size, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        sizes = tuple(int(part.lstrip("<=")) for part in size.split(",") if part)
        found.append(Array(kind, sizes, int(space[1]) if space else 0))
    return tuple(found)
