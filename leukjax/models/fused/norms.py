"""Normalisation together with the ReLU, the sum or the max pool after it: fewest passes on a GPU.

A GPU spends a training step on moving features. Layer by layer, XLA writes the gradient behind each
ReLU and pool once more, keeps masks, and reads the features several times for the sums of a
normalisation's backward pass. Here a backward pass is two readings of the features before the
normalisation (which the convolution wrote) and of the gradient: one for all sums, one for the
result; the mask of a ReLU is computed from them, and a max pool keeps one byte a window: which
place was the highest. The numbers are those of the layers one after the other up to rounding.

What XLA makes of each form: docs/performance_devices.md. Statistics are float32, over the middle
axis of ``[a, m, c]`` and a group of channels, for each of a parts (images, or parts of a batch).
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
from leukjax.models.norms import After, BatchNorm, GroupNorm, Layers


class Statistics(NamedTuple):
    """Of each part, at each of its channels, float32."""

    mean: Float[Array, "a c"]
    variance: Float[Array, "a c"]
    inverse: Float[Array, "a c"]  # of the deviation


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def norm_relu(
    x: Float[Array, "a m c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
    relu: bool,
) -> tuple[Float[Array, "a m c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """``relu(norm(x))``, or without the ReLU; mean and variance, through which no gradient flows.

    Args:
      x: bfloat16 (float32 works, in tests).
      groups: consecutive channels fall into so many groups; c of them: each channel by itself.
    """
    return _norm_relu_forward(x, scale, bias, groups, epsilon, relu)[0]


def _norm_relu_forward(x, scale, bias, groups: int, epsilon: float, relu: bool):
    found = _statistics(x, groups, epsilon)
    y = _normed(x, found, scale, bias)
    y = jnp.maximum(y, 0) if relu else y
    return (y, found.mean, found.variance), (x, scale, bias, found)


def _norm_relu_backward(groups: int, epsilon: float, relu: bool, saved, gradients):
    x, scale, bias, found = saved
    gradient = gradients[0].astype(jnp.float32)

    def masked(x):
        return jnp.where(_normed(x, found, scale, bias) > 0, gradient, 0) if relu else gradient

    if relu:
        x = lax.optimization_barrier(x)  # or the mask is written in the forward pass, for this one
    by_bias, by_scale = two_sums(x, masked(x), found)
    if relu:  # and between the readings, or what the first computed is written for the second
        x, by_bias, by_scale = lax.optimization_barrier((x, by_bias, by_scale))
    by_x = _by_features(x, masked(x), scale, found, groups, by_bias, by_scale)
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
    """``relu(norm(x) + shortcut)``; mean and variance as of `norm_relu`."""
    return _add_forward(x, shortcut, scale, bias, groups, epsilon)[0]


def _add_forward(x, shortcut, scale, bias, groups: int, epsilon: float):
    found = _statistics(x, groups, epsilon)
    y = jnp.maximum(_normed(x, found, scale, bias) + shortcut, 0)
    return (y, found.mean, found.variance), (x, scale, found, y)


def _add_backward(groups: int, epsilon: float, saved, gradients):
    x, scale, found, y = saved
    # The result is read, which is there for the next layer; left alone XLA reads both summands.
    gradient = jnp.where(lax.optimization_barrier(y) > 0, gradients[0], 0)
    wide = gradient.astype(jnp.float32)
    by_bias, by_scale = two_sums(x, wide, found)
    by_x = _by_features(x, wide, scale, found, groups, by_bias, by_scale)
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
    """``max_pool(relu(norm(x)))``, the batch in so many parts; mean and variance likewise."""
    return _pool_forward(x, scale, bias, parts, groups, epsilon, window)[0]


def _pool_forward(x, scale, bias, parts: int, groups: int, epsilon: float, window: Window):
    flat = x.reshape(parts, -1, x.shape[-1])
    found = _statistics(flat, groups, epsilon)
    highest, place = _highest(_normed(flat, found, scale, bias).reshape(x.shape), window)
    # Together, or the place is found in the backward pass, from the features once more.
    highest, place = lax.optimization_barrier((highest, place))
    return (highest, found.mean, found.variance), (x, scale, found, place)


def _pool_backward(parts: int, groups: int, epsilon: float, window: Window, saved, gradients):
    x, scale, found, place = saved
    flat = x.reshape(parts, -1, x.shape[-1])

    def spread(place):
        return _given(place, gradients[0], x.shape, window).reshape(flat.shape).astype(jnp.float32)

    by_bias, by_scale = two_sums(flat, spread(place), found)
    place, by_bias, by_scale = lax.optimization_barrier((place, by_bias, by_scale))
    by_x = _by_features(flat, spread(place), scale, found, groups, by_bias, by_scale)
    return by_x.reshape(x.shape), jnp.sum(by_scale, 0), jnp.sum(by_bias, 0)


norm_relu_pool.defvjp(_pool_forward, _pool_backward)


def _statistics(x: Float[Array, "a m c"], groups: int, epsilon: float) -> Statistics:
    wide = x.astype(jnp.float32)
    mean = _over_group(jnp.mean(wide, 1), groups)
    squares = _over_group(jnp.mean(jnp.square(wide), 1), groups)
    variance = jnp.maximum(squares - jnp.square(mean), 0)
    return Statistics(mean, variance, lax.rsqrt(variance + epsilon))


def _normed(x: Float[Array, "a m c"], found: Statistics, scale: Array, bias: Array) -> Array:
    centred = x.astype(jnp.float32) - found.mean[:, None]
    return (centred * (found.inverse * scale)[:, None] + bias).astype(x.dtype)


def two_sums(
    x: Float[Array, "a m c"], gradient: Float[Array, "a m c"], found: Statistics
) -> tuple[Float[Array, "a c"], Float[Array, "a c"]]:
    """The gradients of bias and scale, of each part.

    As one sum of complex numbers, so that XLA reads its operands once: of two sums it computes
    first what both need, and writes it.
    """
    centred = x.astype(jnp.float32) - found.mean[:, None]
    both = jnp.sum(lax.complex(gradient, gradient * centred), 1)
    return both.real, both.imag * found.inverse


def _by_features(
    x: Float[Array, "a m c"],
    gradient: Float[Array, "a m c"],
    scale: Float[Array, " c"],
    found: Statistics,
    groups: int,
    by_bias: Float[Array, "a c"],
    by_scale: Float[Array, "a c"],
) -> Float[Array, "a m c"]:
    """The gradient of the features: as in `norms.standardize`."""
    inverse, count = found.inverse, x.shape[1]
    shift = _over_group(by_bias * scale, groups) * inverse / count
    slope = _over_group(by_scale * scale, groups) * inverse * inverse / count
    centred = x.astype(jnp.float32) - found.mean[:, None]
    by_x = gradient * (inverse * scale)[:, None] - centred * slope[:, None] - shift[:, None]
    return by_x.astype(x.dtype)


def _over_group(x: Float[Array, "a c"], groups: int) -> Float[Array, "a c"]:
    """The mean over the channels of a group, at each of its channels."""
    parts, channels = x.shape
    if groups == channels:
        return x
    return jnp.repeat(jnp.mean(x.reshape(parts, groups, -1), 2), channels // groups, 1)


def _highest(
    y: Float[Array, "n h w c"], window: Window
) -> tuple[Float[Array, "n p q c"], UInt8[Array, "n p q c"]]:
    """The maximum over windows and zero, and the first place that holds it.

    Places count in reading order; where zero is the highest it is one that no window has.
    """
    (rows, columns), (down, along), (above, beside) = window
    padded = jnp.pad(y, ((0, 0), above, beside, (0, 0)))
    images, height, width, channels = padded.shape
    low = jnp.zeros((), y.dtype)
    highest, place = low, jnp.uint8(rows * columns)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        part = lax.slice(
            padded,
            (0, row, column, 0),
            (images, height - rows + 1 + row, width - columns + 1 + column, channels),
            (1, down, along, 1),
        )
        place = jnp.where(part > highest, jnp.uint8(number), place)
        highest = jnp.maximum(highest, part)
    return highest, place


def _given(
    place: UInt8[Array, "n p q c"],
    gradient: Float[Array, "n p q c"],
    shape: tuple[int, ...],
    window: Window,
) -> Float[Array, "n h w c"]:
    """Each window's gradient at the place that was the highest."""
    rows, columns = window.size
    zero = jnp.zeros((), gradient.dtype)
    parts = []
    for number in range(rows * columns):
        edges = [(0, 0, 0)] * 4
        for axis, offset in enumerate(divmod(number, columns), 1):
            stride, low = window.strides[axis - 1], offset - window.pads[axis - 1][0]
            reach = (gradient.shape[axis] - 1) * stride + 1
            edges[axis] = (low, shape[axis] - low - reach, stride - 1)
        mine = jnp.where(place == number, gradient, zero)
        parts.append(lax.pad(mine, zero, edges))
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
            # With a shortcut conv_norm applies the ReLU, without one there is none.
            each = 0 if groups == x.shape[-1] else groups
            return conv_norm(*x, scale, bias, shortcut, parts, self.epsilon, each)
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
