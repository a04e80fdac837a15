"""Max pooling in the form that is fastest on each platform.

XLA:CPU's own gradient of a max pool is an order of magnitude slower than comparisons of shifted
slices, which are used on CPU; the choice is made at lowering as in `layers`. On GPU the gradient
uses slices too: they fuse with what follows, and a select-and-scatter does not.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from leukjax.models.layers import Padding, Pads, Pair, resolve_padding


class Window(NamedTuple):
    """Size, strides and padding of a pool."""

    size: Pair
    strides: Pair
    pads: Pads


def max_pool(
    x: Float[Array, "n h w c"], size: Pair, strides: Pair, padding: Padding
) -> Float[Array, "n p q c"]:
    """Returns the maximum over windows, padded with minus infinity.

    Of equal maxima in a window, the first in reading order gets the gradient.
    """
    pads = resolve_padding(padding, x.shape[1:3], size, strides)
    return _max_pool(x, Window(size, strides, pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, window: Window) -> Array:
    return lax.platform_dependent(
        x,
        cpu=functools.partial(_wide, _shifted_maximum, window=window),
        default=functools.partial(_native_maximum, window=window),
    )


def _forward(x: Array, window: Window) -> tuple[Array, Array]:
    return _max_pool(x, window), x


def _backward(window: Window, x: Array, gradient: Array) -> tuple[Array]:
    by_x = lax.platform_dependent(
        x,
        gradient,
        cpu=functools.partial(_wide, _shifted_gradient, window=window),
        cuda=functools.partial(_shifted_gradient, window=window),
        default=functools.partial(_native_gradient, window=window),
    )
    return (by_x,)


_max_pool.defvjp(_forward, _backward)


def _native_maximum(x: Array, *, window: Window) -> Array:
    size, strides, pads = window
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *size, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def _native_gradient(x: Array, gradient: Array, *, window: Window) -> Array:
    return jax.vjp(functools.partial(_native_maximum, window=window), x)[1](gradient)[0]


def _wide(pool: Callable[..., Array], x: Array, *gradient: Array, window: Window) -> Array:
    """Computes in float32: XLA:CPU would convert bfloat16 and back for each of the shifts."""
    wide = (value.astype(jnp.float32) for value in (x, *gradient))
    return pool(*wide, window=window).astype(x.dtype)


def _shifted_maximum(x: Array, *, window: Window) -> Array:
    # Columns, then rows: fewer comparisons than over the whole window at once.
    for axis in (2, 1):
        x = functools.reduce(jnp.maximum, _shifted(x, axis, window))
    return x


def _shifted_gradient(x: Array, gradient: Array, *, window: Window) -> Array:
    columns = _shifted(x, 2, window)
    by_column = functools.reduce(jnp.maximum, columns)
    rows = _shifted(by_column, 1, window)
    gradient = _give_to_first(rows, gradient, 1, by_column.shape[1], window)
    return _give_to_first(columns, gradient, 2, x.shape[2], window)


def _shifted(x: Array, axis: int, window: Window) -> list[Array]:
    """Returns the features at each offset of the window, along one axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = window.pads[axis - 1]
    padded = jnp.pad(x, widths, constant_values=-jnp.inf)
    offsets = window.size[axis - 1]
    reach = padded.shape[axis] - offsets + 1
    stride = window.strides[axis - 1]
    return [lax.slice_in_dim(padded, i, i + reach, stride, axis) for i in range(offsets)]


def _give_to_first(
    parts: list[Array], gradient: Array, axis: int, size: int, window: Window
) -> Array:
    """Adds the gradient to the first part that has the maximum, and reverses the shifts."""
    highest = functools.reduce(jnp.maximum, parts)
    free = jnp.ones(gradient.shape, bool)
    stride, before = window.strides[axis - 1], window.pads[axis - 1][0]
    spread = (gradient.shape[axis] - 1) * stride + 1
    shifted = []
    for offset, part in enumerate(parts):
        first = free & (part == highest)
        free &= ~first
        low = offset - before
        edges = [(0, 0, 0)] * gradient.ndim
        edges[axis] = (low, size - low - spread, stride - 1)
        zero = jnp.zeros((), gradient.dtype)
        shifted.append(lax.pad(jnp.where(first, gradient, zero), zero, edges))
    return functools.reduce(jnp.add, shifted)
