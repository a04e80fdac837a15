"""3x3 convolution of stride 1 with 4 multiplications an output in place of 9, for XLA:CPU.

Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, arXiv:1509.09308): of every 4x4 tile
of the image, two rows and columns more than the 2x2 outputs it gives, sixteen sums of pixels are
taken, each is multiplied by its own sum of the kernel's weights, and outputs are sums of these:

    Y = A' [(G K G') * (B' X B)] A

Over the channels each of the sixteen multiplications is a matrix product. The sums have the weights
1 and 1/2 only, so that the result is as exact as the plain one.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Grid = list[list[Array]]  # rows of columns
Pads = Sequence[tuple[int, int]]  # (top, bottom), (left, right)

_TILE, _STEP = 4, 2  # pixels a side that a tile reads, and that it gives
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
    """What the images and the kernel get of the result's gradient."""
    # To the images: the convolution with the kernel turned by 180 degrees.
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
    """How many tiles an image of so many rows and columns falls into."""
    return math.prod(_counts(_output_size(size, pads)))


def _convolve(x: Array, kernel: Grid, pads: Pads, contract: int) -> Array:
    """By a kernel that is transformed already; `contract`: its axis that meets the channels."""
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
    """The sixteen sums of each tile; the edge is filled with zeros up to whole tiles."""
    counts = _counts(_output_size(x.shape[1:3], pads))
    ends = [count * _STEP + _TILE - _STEP for count in counts]
    edges = [
        (low, end - low - side)
        for (low, _), end, side in zip(pads, ends, x.shape[1:3], strict=True)
    ]
    # The barrier keeps XLA from writing the padding as a test in the loop of every sum.
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *edges, (0, 0))))
    return _both_sides(_IMAGE, _every(x, _TILE, counts))


def _output_tiles(y: Array) -> Grid:
    """The four places of each tile of outputs."""
    counts = _counts(y.shape[1:3])
    odd = [(0, count * _STEP - side) for count, side in zip(counts, y.shape[1:3], strict=True)]
    return _every(jnp.pad(y, ((0, 0), *odd, (0, 0))), _STEP, counts)


def _every(x: Array, places: int, counts: Sequence[int]) -> Grid:
    """Each place of the tiles, in all tiles."""
    down, across = ((count - 1) * _STEP + 1 for count in counts)
    return [
        [x[:, i : i + down : _STEP, j : j + across : _STEP] for j in range(places)]
        for i in range(places)
    ]


def _over_pixels(a: Array, b: Array) -> Array:
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _grid(kernel: Array) -> Grid:
    return [list(row) for row in kernel]


def _transposed(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


def _both_sides(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """``matrix @ grid @ matrix.T``, the numbers of the grid being arrays."""
    left = [[_combine(weights, column) for column in zip(*grid, strict=True)] for weights in matrix]
    return [[_combine(weights, row) for weights in matrix] for row in left]


def _combine(weights: Sequence[float], parts: Sequence[Array]) -> Array:
    terms = [
        part if weight == 1 else -part if weight == -1 else weight * part
        for weight, part in zip(weights, parts, strict=True)
        if weight
    ]
    return functools.reduce(jnp.add, terms)
