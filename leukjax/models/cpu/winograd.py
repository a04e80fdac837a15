"""3x3 convolution of stride 1 with 4 multiplications per output instead of 9, for XLA:CPU.

Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv:1509.09308). Each 4x4 tile of
the image gives 2x2 outputs: sixteen sums of its pixels are each multiplied by a sum of the kernel's
weights, and the outputs are sums of these products:

    Y = A' [(G K G') * (B' X B)] A

Each of the sixteen multiplications is a matrix product over the channels. The sums have weights 1
and 1/2 only, so that the result is as exact as that of the direct convolution.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Grid = list[list[Array]]  # rows of columns
Pads = Sequence[tuple[int, int]]  # (top, bottom), (left, right)

_TILE, _STEP = 4, 2  # pixels per side that a tile reads, and that it outputs
_IMAGE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
_RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'


def forward(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c o"], pads: Pads
) -> Float[Array, "n p q o"]:
    """The convolution; equal to ``lax.conv_general_dilated`` up to rounding."""
    return _convolve(x, _both_sides(_KERNEL, _grid(kernel)), pads, contract=0)


def gradients(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "3 3 c o"],
    gradient: Float[Array, "n p q o"],
    pads: Pads,
) -> tuple[Float[Array, "n h w c"], Float[Array, "3 3 c o"]]:
    """Returns the gradients with respect to the images and the kernel."""
    # For the images: the convolution with the kernel rotated by 180 degrees.
    turned = _both_sides(_KERNEL, _grid(kernel[::-1, ::-1]))
    around = [(2 - low, 2 - high) for low, high in pads]
    by_image = _convolve(gradient, turned, around, contract=1)

    image = _image_tiles(x, pads)
    errors = _both_sides(_transposed(_RESULT), _output_tiles(gradient))
    products = [
        [_over_pixels(a, b) for a, b in zip(*row, strict=True)]
        for row in zip(image, errors, strict=True)
    ]
    by_kernel = _both_sides(_transposed(_KERNEL), products)
    return by_image, jnp.stack([jnp.stack(row) for row in by_kernel])


def tiles(size: Sequence[int], pads: Pads) -> int:
    """Returns the number of tiles of an image of this size (rows, columns)."""
    return math.prod(_counts(_output_size(size, pads)))


def _convolve(x: Array, kernel: Grid, pads: Pads, contract: int) -> Array:
    """Convolves with a transformed kernel; `contract` is its axis for the channels of x."""
    height, width = _output_size(x.shape[1:3], pads)
    image = _image_tiles(x, pads)
    products = [
        [lax.dot_general(a, b, (((3,), (contract,)), ((), ()))) for a, b in zip(*row, strict=True)]
        for row in zip(image, kernel, strict=True)
    ]
    rows = [jnp.concatenate(row, 3) for row in _both_sides(_RESULT, products)]
    n, down, across, _ = rows[0].shape
    rows = [row.reshape(n, down, 1, across * _STEP, -1) for row in rows]
    y = jnp.concatenate(rows, 2).reshape(n, down * _STEP, across * _STEP, -1)
    return y[:, :height, :width]


def _output_size(size: Sequence[int], pads: Pads) -> list[int]:
    return [side + sum(edges) - 2 for side, edges in zip(size, pads, strict=True)]


def _counts(size: Sequence[int]) -> list[int]:
    return [-(-side // _STEP) for side in size]


def _image_tiles(x: Array, pads: Pads) -> Grid:
    """Returns the sixteen sums of each tile; the edge is padded with zeros to whole tiles."""
    counts = _counts(_output_size(x.shape[1:3], pads))
    ends = [count * _STEP + _TILE - _STEP for count in counts]
    edges = [
        (low, end - low - side)
        for (low, _), end, side in zip(pads, ends, x.shape[1:3], strict=True)
    ]
    # The barrier keeps XLA from fusing the padding into the loop of every sum.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
    return _both_sides(_IMAGE, _strided(x, _TILE, counts))


def _output_tiles(y: Array) -> Grid:
    """Returns the four outputs of each tile."""
    counts = _counts(y.shape[1:3])
    odd = [(0, count * _STEP - side) for count, side in zip(counts, y.shape[1:3], strict=True)]
    return _strided(jnp.pad(y, ((0, 0), *odd, (0, 0))), _STEP, counts)


def _strided(x: Array, offsets: int, counts: Sequence[int]) -> Grid:
    """Returns the pixels at each offset in a tile, of all tiles."""
    down, across = ((count - 1) * _STEP + 1 for count in counts)
    return [
        [x[:, i : i + down : _STEP, j : j + across : _STEP] for j in range(offsets)]
        for i in range(offsets)
    ]


def _over_pixels(a: Array, b: Array) -> Array:
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _grid(kernel: Array) -> Grid:
    return [list(row) for row in kernel]


def _transposed(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


def _both_sides(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """Returns ``matrix @ grid @ matrix.T`` of a grid of arrays."""
    left = [[_combine(weights, column) for column in zip(*grid, strict=True)] for weights in matrix]
    return [[_combine(weights, row) for weights in matrix] for row in left]


def _combine(weights: Sequence[float], parts: Sequence[Array]) -> Array:
    terms = [
        part if weight == 1 else -part if weight == -1 else weight * part
        for weight, part in zip(weights, parts, strict=True)
        if weight
    ]
    return functools.reduce(jnp.add, terms)
