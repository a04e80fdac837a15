"""Normalisation fused with the ReLU, sum or max pool after it, to move fewer bytes on a GPU.

A training step on a GPU is limited by memory bandwidth. Layer by layer, XLA writes the gradient
behind each ReLU and pool again, keeps masks, and reads the features several times for the sums of a
normalisation's backward pass. Here a backward pass reads twice the input of the normalisation
(which the convolution wrote) and the gradient: once for all sums, once for the result. The mask of
a ReLU is recomputed; a max pool keeps one byte per window, the index of its maximum. The numbers
are those of the separate layers up to rounding.

docs/development/performance_devices.md shows what XLA compiles each form to. Statistics are
float32, over the middle axis of ``[a, m, c]`` and a group of channels, for each of a parts:
images or sub-batches.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from leukjax.models.cpu.pooling import Window
from leukjax.models.fused.conv_norm import Pointwise, conv_norm
from leukjax.models.layers import resolve_padding
from leukjax.models.norms import After, BatchNorm, GroupNorm, Layers, mean_over_groups


class Statistics(NamedTuple):
    """Statistics of each part, repeated for the channels of a group; float32."""

    mean: Float[Array, "a c"]
    variance: Float[Array, "a c"]
    inverse: Float[Array, "a c"]  # 1 / standard deviation


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def norm_relu(
    x: Float[Array, "a m c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
    relu: bool,
) -> tuple[Float[Array, "a m c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """Returns ``relu(norm(x))``, or ``norm(x)``, and the mean and variance without gradients.

    Args:
      x: features, bfloat16 or, in tests, float32.
      scale: of each channel.
      bias: of each channel.
      groups: number of groups of consecutive channels; c means that each channel is a group.
      epsilon: added to the variance.
      relu: whether to apply the ReLU.
    """
    return _norm_relu_forward(x, scale, bias, groups, epsilon, relu)[0]


def _norm_relu_forward(x, scale, bias, groups: int, epsilon: float, relu: bool):
    statistics = _statistics(x, groups, epsilon)
    y = _normed(x, statistics, scale, bias)
    y = jnp.maximum(y, 0) if relu else y
    return (y, statistics.mean, statistics.variance), (x, scale, bias, statistics)


def _norm_relu_backward(groups: int, epsilon: float, relu: bool, saved, gradients):
    x, scale, bias, statistics = saved
    gradient = gradients[0].astype(jnp.float32)

    def masked(x):
        return jnp.where(_normed(x, statistics, scale, bias) > 0, gradient, 0) if relu else gradient

    if relu:
        x = lax.optimization_barrier(x)  # else the forward pass writes the mask
    by_bias, by_scale = two_sums(x, masked(x), statistics)
    if relu:  # else the first reading writes its values for the second
        x, by_bias, by_scale = lax.optimization_barrier((x, by_bias, by_scale))
    by_x = _by_features(x, masked(x), scale, statistics, groups, by_bias, by_scale)
    return by_x, jnp.sum(by_scale, 0), jnp.sum(by_bias, 0)


norm_relu.defvjp(_norm_relu_forward, _norm_relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def norm_add_relu(
    x: Float[Array, "a m c"],
    shortcut: Float[Array, "a m c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
) -> tuple[Float[Array, "a m c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """Returns ``relu(norm(x) + shortcut)``, and mean and variance as `norm_relu` does."""
    return _add_forward(x, shortcut, scale, bias, groups, epsilon)[0]


def _add_forward(x, shortcut, scale, bias, groups: int, epsilon: float):
    statistics = _statistics(x, groups, epsilon)
    y = jnp.maximum(_normed(x, statistics, scale, bias) + shortcut, 0)
    return (y, statistics.mean, statistics.variance), (x, scale, statistics, y)


def _add_backward(groups: int, epsilon: float, saved, gradients):
    x, scale, statistics, y = saved
    # Read the result, which is kept for the next layer; else XLA reads both summands.
    gradient = jnp.where(lax.optimization_barrier(y) > 0, gradients[0], 0)
    wide = gradient.astype(jnp.float32)
    by_bias, by_scale = two_sums(x, wide, statistics)
    by_x = _by_features(x, wide, scale, statistics, groups, by_bias, by_scale)
    return by_x, gradient, jnp.sum(by_scale, 0), jnp.sum(by_bias, 0)


norm_add_relu.defvjp(_add_forward, _add_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def norm_relu_pool(
    x: Float[Array, "n h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    parts: int,
    groups: int,
    epsilon: float,
    window: Window,
) -> tuple[Float[Array, "n p q c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """Returns ``max_pool(relu(norm(x)))`` of `parts` parts of a batch, and mean and variance."""
    return _pool_forward(x, scale, bias, parts, groups, epsilon, window)[0]


def _pool_forward(x, scale, bias, parts: int, groups: int, epsilon: float, window: Window):
    flat = x.reshape(parts, -1, x.shape[-1])
    statistics = _statistics(flat, groups, epsilon)
    highest, index = _max_with_index(
        _normed(flat, statistics, scale, bias).reshape(x.shape), window
    )
    # Both at once; else the backward pass computes the index from the features again.
    highest, index = lax.optimization_barrier((highest, index))
    return (highest, statistics.mean, statistics.variance), (x, scale, statistics, index)


def _pool_backward(parts: int, groups: int, epsilon: float, window: Window, saved, gradients):
    x, scale, statistics, index = saved
    flat = x.reshape(parts, -1, x.shape[-1])

    def spread(index):
        return (
            _scatter(index, gradients[0], x.shape, window).reshape(flat.shape).astype(jnp.float32)
        )

    by_bias, by_scale = two_sums(flat, spread(index), statistics)
    index, by_bias, by_scale = lax.optimization_barrier((index, by_bias, by_scale))
    by_x = _by_features(flat, spread(index), scale, statistics, groups, by_bias, by_scale)
    return by_x.reshape(x.shape), jnp.sum(by_scale, 0), jnp.sum(by_bias, 0)


norm_relu_pool.defvjp(_pool_forward, _pool_backward)


def _statistics(x: Float[Array, "a m c"], groups: int, epsilon: float) -> Statistics:
    wide = x.astype(jnp.float32)
    mean = mean_over_groups(jnp.mean(wide, 1), groups)
    squares = mean_over_groups(jnp.mean(jnp.square(wide), 1), groups)
    variance = jnp.maximum(squares - jnp.square(mean), 0)
    return Statistics(mean, variance, lax.rsqrt(variance + epsilon))


def _normed(x: Float[Array, "a m c"], statistics: Statistics, scale: Array, bias: Array) -> Array:
    centred = x.astype(jnp.float32) - statistics.mean[:, None]
    return (centred * (statistics.inverse * scale)[:, None] + bias).astype(x.dtype)


def two_sums(
    x: Float[Array, "a m c"], gradient: Float[Array, "a m c"], statistics: Statistics
) -> tuple[Float[Array, "a c"], Float[Array, "a c"]]:
    """Returns the gradients of bias and scale of each part.

    They are one sum of complex numbers, so that XLA reads its operands once. For two sums it first
    computes and writes what both need.
    """
    centred = x.astype(jnp.float32) - statistics.mean[:, None]
    both = jnp.sum(lax.complex(gradient, gradient * centred), 1)
    return both.real, both.imag * statistics.inverse


def _by_features(
    x: Float[Array, "a m c"],
    gradient: Float[Array, "a m c"],
    scale: Float[Array, " c"],
    statistics: Statistics,
    groups: int,
    by_bias: Float[Array, "a c"],
    by_scale: Float[Array, "a c"],
) -> Float[Array, "a m c"]:
    """Returns the gradient with respect to the features, as in `norms.standardize`."""
    inverse, count = statistics.inverse, x.shape[1]
    shift = mean_over_groups(by_bias * scale, groups) * inverse / count
    slope = mean_over_groups(by_scale * scale, groups) * inverse * inverse / count
    centred = x.astype(jnp.float32) - statistics.mean[:, None]
    by_x = gradient * (inverse * scale)[:, None] - centred * slope[:, None] - shift[:, None]
    return by_x.astype(x.dtype)


def _max_with_index(
    y: Float[Array, "n h w c"], window: Window
) -> tuple[Float[Array, "n p q c"], UInt8[Array, "n p q c"]]:
    """Returns the maximum over each window and zero, and the index of its first occurrence.

    Indices count in reading order; if zero is the maximum, the index is one past the last.
    """
    (rows, columns), (down, along), (above, beside) = window
    padded = jnp.pad(y, ((0, 0), above, beside, (0, 0)))
    images, height, width, channels = padded.shape
    low = jnp.zeros((), y.dtype)
    highest, index = low, jnp.uint8(rows * columns)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        part = lax.slice(
            padded,
            (0, row, column, 0),
            (images, height - rows + 1 + row, width - columns + 1 + column, channels),
            (1, down, along, 1),
        )
        index = jnp.where(part > highest, jnp.uint8(number), index)
        highest = jnp.maximum(highest, part)
    return highest, index


def _scatter(
    index: UInt8[Array, "n p q c"],
    gradient: Float[Array, "n p q c"],
    shape: tuple[int, ...],
    window: Window,
) -> Float[Array, "n h w c"]:
    """Returns the gradient of each window at the index of its maximum, and zeros elsewhere."""
    rows, columns = window.size
    zero = jnp.zeros((), gradient.dtype)
    parts = []
    for number in range(rows * columns):
        edges = [(0, 0, 0)] * 4
        for axis, offset in enumerate(divmod(number, columns), 1):
            stride, low = window.strides[axis - 1], offset - window.pads[axis - 1][0]
            reach = (gradient.shape[axis] - 1) * stride + 1
            edges[axis] = (low, shape[axis] - low - reach, stride - 1)
        selected = jnp.where(index == number, gradient, zero)
        parts.append(lax.pad(selected, zero, edges))
    return functools.reduce(jnp.add, parts)


class FusedNorm:
    """Fuses a normalisation with a 1x1 convolution before it, or with what follows it.

    Attributes:
      with_after: whether the latter, too.
    """

    epsilon: float
    with_after: ClassVar[bool] = True

    def normalize(
        self, x: Any, scale: Array, bias: Array, parts: int, groups: int, after: After
    ) -> tuple[Float[Array, "n p q c"], Float[Array, "a c"], Float[Array, "a c"]]:
        """Does what `Norm.normalize` does; `x` may be a `Pointwise`."""
        shortcut, relu, pool = after
        if isinstance(x, Pointwise):
            # conv_norm applies the ReLU if there is a shortcut; without one there is none.
            return conv_norm(*x, scale, bias, shortcut, parts, groups, self.epsilon)
        if not self.with_after:
            normalize = super().normalize  # type: ignore[misc]  # of the Norm it is mixed into
            return normalize(x, scale, bias, parts, groups, after)
        if pool is not None:
            size, strides, padding = pool
            window = Window(size, strides, resolve_padding(padding, x.shape[1:3], size, strides))
            return norm_relu_pool(x, scale, bias, parts, groups, self.epsilon, window)
        flat = x.reshape(parts, -1, x.shape[-1])
        if shortcut is None:
            y, mean, variance = norm_relu(flat, scale, bias, groups, self.epsilon, relu)
        else:
            beside = shortcut.reshape(flat.shape)
            y, mean, variance = norm_add_relu(flat, beside, scale, bias, groups, self.epsilon)
        return y.reshape(x.shape), mean, variance


class FusedBatchNorm(FusedNorm, BatchNorm):
    """`BatchNorm` in the forms of `FusedNorm`."""


class FusedGroupNorm(FusedNorm, GroupNorm):
    """`GroupNorm` in the forms of `FusedNorm`."""


class ConvFusedBatchNorm(FusedBatchNorm):
    """`BatchNorm`, fused with a 1x1 convolution only."""

    with_after = False


LAYERS = Layers(FusedBatchNorm, FusedGroupNorm)
CONV_LAYERS = Layers(ConvFusedBatchNorm, GroupNorm)
