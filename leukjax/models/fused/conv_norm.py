"""A 1x1 convolution fused with the normalisation after it; the features between are never stored.

A training step on a GPU or TPU is limited by memory bandwidth. The outputs y of a 1x1 convolution
are linear in its inputs, ``y = x W`` with x[m, i], W[i, o]. So the statistics of BatchNorm follow
from sums over the inputs, which in a bottleneck's last convolution have four times fewer channels:

    mean(y) = mean(x) W        var(y) = diag(W' C W)        C = x'x / m - mean(x)' mean(x)

The kernel is multiplied by the scale before the convolution; shift, shortcut and ReLU are applied
where the products are written. In the backward pass, with g the gradient of the normalised outputs,
``P = x'g`` gives both sums of BatchNorm (sum of g y is the diagonal of W'P) and the gradient of the
kernel. The terms that BatchNorm subtracts from g become one product with a small matrix:

    x's gradient = g (W s)' - x (W diag(s k) W') + a constant

Neither y nor its gradient is ever written or read. GroupNorm is the same for each image, with means
over the channels of a group; its matrices are small compared with the features where images are
large and channels few, in the first stage. The result equals convolution, BatchNorm, add and ReLU
up to rounding; in bfloat16 one rounding (of y) is saved.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from leukjax.models.norms import mean_over_groups

_LAYOUT = ("NHWC", "HWIO", "NHWC")


class Pointwise(NamedTuple):
    """Both factors of a 1x1 convolution that is still to be computed."""

    x: Float[Array, "n h w i"]
    kernel: Float[Array, "1 1 i o"]  # float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return (*self.x.shape[:3], self.kernel.shape[-1])


class _Sums(NamedTuple):
    """Statistics of each part: of the inputs, and of the outputs as they follow from them."""

    mean: Float[Array, "a i"]
    by_kernel: Float[Array, "a i o"]  # covariance times kernel
    offset: Float[Array, "a o"]  # mean of each output minus the mean of its group
    mean_out: Float[Array, "a o"]  # of groups, repeated for their channels; also the next
    variance: Float[Array, "a o"]


# Pixels per input channel from which it pays to fuse GroupNorm, whose matrices are per image.
PIXELS = 16


def pays_by_image(x: Float[Array, "n h w i"]) -> bool:
    """Returns whether the matrices of one image are small compared with its features."""
    return x.shape[1] * x.shape[2] >= PIXELS * x.shape[3]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def conv_norm(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "1 1 i o"],
    scale: Float[Array, " o"],
    bias: Float[Array, " o"],
    shortcut: Float[Array, "n h w o"] | None,
    parts: int,
    groups: int,
    epsilon: float,
) -> tuple[Float[Array, "n h w o"], Float[Array, "a o"], Float[Array, "a o"]]:
    """Returns ``relu(norm(conv(x)) + shortcut)``, or ``norm(conv(x))`` without a shortcut.

    Args:
      x: features, bfloat16 or, in tests, float32.
      kernel: of the convolution, float32.
      scale: of each output channel.
      bias: of each output channel.
      shortcut: features to add before a ReLU, or None.
      parts: number of parts of consecutive images that are normalised separately.
      groups: number of groups of consecutive channels; o means that each channel is a group.
      epsilon: added to the variance.

    Returns:
      The result in the dtype of `x`; mean and variance (of the population) of the convolution's
      outputs for each part, float32. Gradients flow through the result only.
    """
    return _forward(x, kernel, scale, bias, shortcut, parts, groups, epsilon)[0]


def _forward(x, kernel, scale, bias, shortcut, parts: int, groups: int, epsilon: float):
    sums = _sums(x, kernel, parts, groups)
    inverse = lax.rsqrt(sums.variance + epsilon)
    factor = scale * inverse
    shift = bias - sums.mean_out * factor
    y = _product(x, _matrix(kernel, x) * factor[:, None]) + _over_images(shift, x)
    if shortcut is not None:
        y = jnp.maximum(y + shortcut, 0)
    y = y.astype(x.dtype)
    out = y if shortcut is not None else None
    return (y, sums.mean_out, sums.variance), (x, kernel, scale, sums, inverse, out)


def _backward(parts: int, groups: int, epsilon: float, saved, gradients):
    x, kernel, scale, sums, inverse, out = saved
    gradient = gradients[0]
    if out is not None:
        # Without the barrier XLA compares the input of the ReLU, and keeps that as well.
        gradient = jnp.where(lax.optimization_barrier(out) > 0, gradient, 0)
    matrix, factor = _matrix(kernel, x), scale * inverse
    count = x[..., 0].size // parts

    by_bias = _sum(gradient, parts)
    if parts > 1:  # else XLA reads the gradient once more for the sum over all parts
        by_bias = lax.optimization_barrier(by_bias)
    products = _transposed(x, gradient, parts)
    with_outputs = jnp.sum(matrix * products, 1) - sums.mean_out * by_bias  # sum of g (y - mean)
    by_scale = with_outputs * inverse
    # Subtracted from the gradient of y: (y - mean) * along + constant.
    along = mean_over_groups(by_scale * scale, groups) * jnp.square(inverse) / count
    constant = mean_over_groups(by_bias * scale, groups) * inverse / count

    by_kernel = (
        factor[:, None] * products
        - count * sums.by_kernel * along[:, None]
        - count * sums.mean[:, :, None] * (sums.offset * along + constant)[:, None]
    )
    scaled = matrix * factor[:, None]
    back = _exact("aio,jo->aij", matrix * along[:, None], matrix)
    rest = _exact("ao,jo->aj", sums.mean_out * along - constant, matrix)
    by_x = _product(gradient, scaled.swapaxes(1, 2)) + (_product(x, -back) + _over_images(rest, x))
    return (
        by_x.astype(x.dtype),
        jnp.sum(by_kernel, 0)[None, None],
        jnp.sum(by_scale, 0),
        jnp.sum(by_bias, 0),
        None if out is None else gradient,
    )


conv_norm.defvjp(_forward, _backward)


def _sums(x: Array, kernel: Array, parts: int, groups: int) -> _Sums:
    count = x[..., 0].size // parts
    mean = _sum(x, parts) / count
    covariance = _transposed(x, x, parts) / count - mean[:, :, None] * mean[:, None]
    matrix = _matrix(kernel, x)
    by_kernel = _exact("aij,jo->aio", covariance, matrix)
    means, spread = _exact("ai,io->ao", mean, matrix), jnp.sum(matrix * by_kernel, 1)
    mean_out = mean_over_groups(means, groups)
    offset = means - mean_out
    variance = mean_over_groups(jnp.maximum(spread, 0) + jnp.square(offset), groups)
    return _Sums(mean, by_kernel, offset, mean_out, variance)


def _matrix(kernel: Array, x: Array) -> Float[Array, "i o"]:
    """Returns the kernel as it is multiplied (rounded to the dtype of x), in float32."""
    return kernel[0, 0].astype(x.dtype).astype(jnp.float32)


def _exact(equation: str, *factors: Array) -> Array:
    return jnp.einsum(equation, *factors, precision=lax.Precision.HIGHEST)


def _sum(x: Float[Array, "n h w c"], parts: int) -> Float[Array, "a c"]:
    return jnp.sum(x.reshape(parts, -1, x.shape[-1]), 1, dtype=jnp.float32)


def _over_images(values: Float[Array, "a c"], x: Array) -> Float[Array, "n 1 1 c"]:
    """Repeats the values of each part for its images."""
    if len(values) == 1:
        return values[:, None, None].astype(x.dtype)
    return jnp.repeat(values, len(x) // len(values), 0)[:, None, None].astype(x.dtype)


def _product(x: Float[Array, "n h w i"], matrix: Float[Array, "a i o"]) -> Float[Array, "n h w o"]:
    """Multiplies every pixel by the matrix of its part."""
    matrix = matrix.astype(x.dtype)
    if len(matrix) == 1:
        kernel = matrix[None]
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)
    parted = x.reshape(len(matrix), -1, x.shape[-1])
    return lax.dot_general(parted, matrix, (((2,), (1,)), ((0,), (0,)))).reshape(
        *x.shape[:3], matrix.shape[-1]
    )


def _transposed(
    x: Float[Array, "n h w i"], y: Float[Array, "n h w o"], parts: int
) -> Float[Array, "a i o"]:
    """Returns ``x' y`` of each part, float32."""
    if parts == 1:
        x, y = (part.reshape(-1, part.shape[-1]) for part in (x, y))
        return lax.dot_general(x, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)[
            None
        ]
    x, y = (part.reshape(parts, -1, part.shape[-1]) for part in (x, y))
    return lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
