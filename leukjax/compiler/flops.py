"""FLOPs of the convolutions and matrix products of an optimised program.

Products with the zeros of padding and of dilation are not counted: they are no work of the model.
"""

import math
import re

from leukjax.compiler.program import Array, Computation, Operation, Program

_CUDNN = "__cudnn$conv"
_GEMMS = ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8", "__triton_gemm")


def of(program: Program, computation: Computation, operation: Operation) -> float:
    """Of one operation, with all that it calls."""
    if operation.opcode == "convolution":
        lhs, rhs = (computation.by_name[name].shape[0] for name in operation.operands[:2])
        return _convolution(operation, lhs, rhs, operation.shape[0])
    if operation.opcode == "dot":
        lhs = computation.by_name[operation.operands[0]].shape[0]
        return _dot(operation.text, lhs, operation.shape[0])
    if operation.opcode == "custom-call":
        first = [computation.by_name[name].shape[0] for name in operation.operands[:2]]
        if operation.target.startswith(_CUDNN):
            return _cudnn(operation, *first)
        if operation.target in _GEMMS:
            return _dot(operation.text.replace('"', ""), first[0], operation.shape[0])
    total = 0.0
    if operation.opcode in ("fusion", "async-start"):
        for name in operation.calls:
            called = program.computations[name]
            total += sum(of(program, called, inside) for inside in called.operations)
    return total


def _dot(text: str, lhs: Array, result: Array) -> float:
    match = re.search(r"lhs_contracting_dim(?:ension)?s[=:][{\[]([\d,]*)[}\]]", text)
    axes = [int(axis) for axis in match[1].split(",") if axis] if match else [len(lhs.size) - 1]
    return 2.0 * math.prod(result.size) * math.prod(lhs.size[axis] for axis in axes)


def _cudnn(operation: Operation, first: Array, second: Array) -> float:
    """A call of cuDNN carries window and labels of the forward convolution in each direction."""
    result = operation.shape[0]
    if "BackwardInput" in operation.target:
        return _convolution(operation, result, second, first)
    if "BackwardFilter" in operation.target:
        return _convolution(operation, first, result, second)
    return _convolution(operation, first, second, result)


def _convolution(operation: Operation, lhs: Array, rhs: Array, out: Array) -> float:
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.text)
    assert match is not None, operation.text
    left, right, result = match.groups()
    total = 2.0 * out.size[result.index("b")] * out.size[result.index("f")]
    total *= rhs.size[right.index("i")]
    for axis in sorted(set(result) - {"b", "f"}):
        total *= _pairs(
            _window(operation.text, int(axis)),
            lhs.size[left.index(axis)],
            rhs.size[right.index(axis)],
            out.size[result.index(axis)],
        )
    return total


def _window(text: str, axis: int) -> dict[str, tuple[int, ...]]:
    """Stride, padding and dilations along one axis of ``window={size=3x3 pad=1_1x1_1 …}``."""
    match = re.search(r"window=\{([^}]*)\}", text)
    fields = {"stride": (1,), "pad": (0, 0), "lhs_dilate": (1,), "rhs_dilate": (1,)}
    for part in match[1].split() if match else ():
        name, _, values = part.partition("=")
        if name in fields:
            fields[name] = tuple(int(value) for value in values.split("x")[axis].split("_"))
    return fields


def _pairs(window: dict[str, tuple[int, ...]], size: int, places: int, outputs: int) -> int:
    """How many (output, place of the window) see a number of the image along one axis."""
    (stride,), (low, _) = window["stride"], window["pad"]
    (spread,), (dilation,) = window["lhs_dilate"], window["rhs_dilate"]
    seen = 0
    for output in range(outputs):
        for place in range(places):
            at = output * stride + place * dilation - low
            seen += 0 <= at <= (size - 1) * spread and at % spread == 0
    return seen
