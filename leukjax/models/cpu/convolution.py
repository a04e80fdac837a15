"""Convolution and its gradients by matrix products, which is fastest on XLA:CPU.

XLA:CPU's own convolutions are several times slower than its matrix product, and their gradients
slower still. So every window of the images becomes a row (pad, slices, concatenate), and forward
pass, filter gradient and input gradient are one matrix product each. Most 3x3 windows of stride 1
use `winograd` instead. `layers.conv` calls this module;
docs/development/tried.md lists the alternatives that were measured.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Float32, Num

from leukjax.models.cpu import winograd

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def forward(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], *, strides: Pair, pads: Pads
) -> Float[Array, "n p q o"]:
    """The convolution; equal to ``lax.conv_general_dilated`` up to the order of sums."""
    if _by_tiles(x, kernel, strides, pads):
        return winograd.forward(x, kernel, pads)
    patches = _patches(x, kernel.shape[:2], strides, pads)
    depth = patches.shape[-1]
    return _product(patches, kernel.reshape(depth, -1), 3, 0).astype(x.dtype)


def gradients(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    gradient: Float[Array, "n p q o"],
    *,
    strides: Pair,
    pads: Pads,
) -> tuple[Float[Array, "n h w c"], Float[Array, "kh kw c o"]]:
    """Returns the gradients with respect to the images and the kernel."""
    if _by_tiles(x, kernel, strides, pads):
        return winograd.gradients(x, kernel, gradient, pads)
    out = kernel.shape[3]
    patches = _patches(x, kernel.shape[:2], strides, pads)
    # The barrier keeps XLA from recomputing the images inside a transpose.
    patches = lax.optimization_barrier(patches.reshape(-1, patches.shape[-1]))
    plain = kernel.shape[:2] != (1, 1) and x.dtype != jnp.bfloat16
    product = _product_over_rows if plain else _transposed_product
    by_kernel = product(patches, gradient.reshape(-1, out)).reshape(kernel.shape)
    by_image = _input_gradient(gradient, kernel, x.shape[1:3], strides, pads)
    return by_image.astype(x.dtype), by_kernel.astype(kernel.dtype)


# Below this, Winograd's form saves milliseconds per step and costs 10 s to compile per network.
_WORTH_COMPILING = 1e8  # FLOPs of the plain convolution


def _by_tiles(x: Array, kernel: Array, strides: Pair, pads: Pads) -> bool:
    """Returns whether Winograd's form is used: it needs many tiles to pay for its kernel sums.

    It is not used in bfloat16, where the sums of a tile would be rounded before the product.
    """
    window, (inputs, outputs) = kernel.shape[:2], kernel.shape[2:]
    if window != (3, 3) or strides != (1, 1) or x.dtype != jnp.float32:
        return False
    if max(pads[0] + pads[1]) > 2:  # wider than the window: its gradient is not a convolution
        return False
    # A batch of symbolic size (in an export) counts as one image.
    images = x.shape[0] if isinstance(x.shape[0], int) else 1
    tiles = images * winograd.tiles(x.shape[1:3], pads)
    work = tiles * 4 * 2 * 9 * inputs * outputs
    return min(inputs, outputs) >= 8 and tiles >= 64 and work >= _WORTH_COMPILING


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Float32[Array, "*dims"]:
    """Returns the matrix product over one axis of each operand, in float32.

    XLA:CPU has fast products of bfloat16 (AMX, AVX-512) only with a float32 result, and only if
    all three are row-major. Round the result, or put a barrier around it, before transposing it: a
    column-major result fails to run (jax 0.10.2, 0.12.0).
    """
    axes = (((a_axis,), (b_axis,)), ((), ()))
    if a.dtype != jnp.bfloat16:
        return lax.dot_general(a, b, axes)
    return lax.dot_general(a, b, axes, None, jnp.float32)


def _product_over_rows(a: Float[Array, "m i"], b: Float[Array, "m j"]) -> Float[Array, "i j"]:
    """Returns ``a.T @ b`` without transposing: for patches a transpose costs more than it gains."""
    return _product(a, b, 0, 0)


def _transposed_product(a: Float[Array, "m i"], b: Float[Array, "m j"]) -> Float[Array, "i j"]:
    """Returns ``a.T @ b``, transposing the operand that is smaller to move.

    XLA:CPU computes a product of rows and columns with YNNPACK, and one that sums over the leading
    axes of both with Eigen, which takes up to 1.7 times as long. The barriers keep XLA from fusing
    the transposes back into the product.
    """
    rows, i, j = a.shape[0], a.shape[1], b.shape[1]
    if rows * i <= rows * j + i * j:
        return _product(_transposed(a), b, 1, 0)
    return lax.optimization_barrier(_product(_transposed(b), a, 1, 0)).T


def _transposed(x: Float[Array, "m i"]) -> Float[Array, "i m"]:
    if x.dtype == jnp.bfloat16:  # a barrier would leave it column-major
        return with_layout_constraint(x.T, Layout((0, 1)))
    return lax.optimization_barrier(x.T)


def _input_gradient(
    gradient: Array, kernel: Array, size: Sequence[int], strides: Pair, pads: Pads
) -> Array:
    """Computes the gradient of each patch and sums them where patches overlap."""
    height, width, _, outputs = kernel.shape
    by_patch = _product(gradient, kernel.reshape(-1, outputs), 3, 1)
    by_column = _overlap(by_patch, 1, height, strides[0], pads[0], size[0])
    return _overlap(by_column, 2, width, strides[1], pads[1], size[1])


def _overlap(x: Array, axis: int, window: int, stride: int, pads: Pair, size: int) -> Array:
    """Transposes ``_windows`` after padding; the channels of x are the offsets in the window."""
    spread = (x.shape[axis] - 1) * stride + 1
    moved = []
    for offset, part in enumerate(jnp.split(x, window, 3)):
        edges = [(0, 0, 0)] * 4
        low = offset - pads[0]
        edges[axis] = (low, size - low - spread, stride - 1)
        moved.append(lax.pad(part, jnp.zeros((), x.dtype), edges))
    return functools.reduce(jnp.add, moved)


def _patches(
    x: Num[Array, "n h w c"], window: Sequence[int], strides: Pair, pads: Pads
) -> Num[Array, "n p q k"]:
    """Returns every window of the image as a row of ``rows x columns x c`` numbers."""
    if x.dtype == jnp.bfloat16:
        # As integers: XLA:CPU converts bfloat16 to float32 and back even for a copy.
        bits = _patches(lax.bitcast_convert_type(x, jnp.uint16), window, strides, pads)
        return lax.bitcast_convert_type(bits, x.dtype)
    if pads != ((0, 0), (0, 0)):
        # The barrier keeps XLA from fusing the padding into the loop of every slice.
        x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))
    columns = _windows(x, 2, window[1], strides[1])
    return _windows(columns, 1, window[0], strides[0])


def _windows(x: Array, axis: int, window: int, stride: int) -> Array:
    last = x.shape[axis] - window
    parts = [lax.slice_in_dim(x, start, start + last + 1, stride, axis) for start in range(window)]
    return parts[0] if window == 1 else lax.concatenate(parts, 3)
