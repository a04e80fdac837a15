"""The order of axes in the tensors of other frameworks. Ours is rows, columns, inputs, outputs."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Axes(NamedTuple):
    """The order of axes in a framework.

    Attributes:
      shape: takes the shapes of the tensors that make one variable, and the shape of the variable;
        returns the shape that they have in our order of axes. The tensors fit if both are equal.
      convert: takes these tensors and the shape in our order; returns one array of that shape.
    """

    shape: Callable[[Sequence[Shape], Shape], Shape]
    convert: Callable[[Sequence[np.ndarray], Shape], np.ndarray]


def _torch_shape(shapes: Sequence[Shape], ours: Shape) -> Shape:
    (shape,) = shapes
    if len(shape) == 4:
        outputs, inputs, rows, columns = shape
        shape = (rows, columns, inputs, outputs)
    elif len(shape) == 2:
        shape = shape[::-1]
    if len(ours) - len(shape) == 2 and shape[-1] == math.prod(ours[-3:]):
        return (*shape[:-1], *ours[-3:])  # query, key and value share one axis
    return _without_ones(shape, ours)


def _torch_convert(tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    (tensor,) = tensors
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.reshape(shape)


def to_torch(array: np.ndarray, name: str) -> np.ndarray:
    """Returns one of our arrays in PyTorch's order, outputs first; the name is timm's."""
    if ".qkv." in name:
        return np.ascontiguousarray(array.reshape(*array.shape[:-3], -1).T)
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if array.ndim == 2:
        array = np.ascontiguousarray(array.T)
        as_convolution = name in ("patch_embed.proj.weight", "head.fc.weight")
        return array[:, :, None, None] if as_convolution else array
    return array


def _flax_shape(shapes: Sequence[Shape], ours: Shape) -> Shape:
    shape = shapes[0]
    if len(shapes) == 3:
        if len(set(shapes)) != 1 or len(shape) < 2:
            return ()
        return (*shape[:-2], 3, *shape[-2:])
    if len(shape) == 3 and len(ours) == 2:
        return (shape[0] * shape[1], shape[2])  # heads and their features are one axis
    return _without_ones(shape, ours)


def _flax_convert(tensors: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    tensor = np.stack(tensors, -3) if len(tensors) == 3 else tensors[0]
    return tensor.reshape(shape)


def _without_ones(shape: Shape, ours: Shape) -> Shape:
    """Drops leading dimensions of 1 that ours lacks: a 1x1 convolution is a matrix product."""
    while len(shape) > len(ours) and shape[0] == 1:
        shape = shape[1:]
    return shape


TORCH = Axes(_torch_shape, _torch_convert)
FLAX = Axes(_flax_shape, _flax_convert)
