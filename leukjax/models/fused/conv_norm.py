"""A 1x1 convolution with the normalisation after it, without the features between them.

A GPU and a TPU spend a training step on moving features, not on multiplying them. The outputs y of
a 1x1 convolution are linear in its inputs, ``y = x W`` with x[m, i], W[i, o], so that all that
BatchNorm wants of them follows from sums over the inputs, which in a bottleneck's last convolution
are four times narrower:

    mean(y) = mean(x) W        var(y) = diag(W' C W)        C = x'x / m - mean(x)' mean(x)

The scale then enters the kernel before anything is convolved; shift, shortcut and ReLU are added
where the products are written. Backward, with g the gradient of the normalised outputs,
``P = x'g`` gives both sums of BatchNorm (sum of g y is the diagonal of W'P) and the gradient of
the kernel; and what BatchNorm takes away from g comes back through one small matrix,

    x's gradient = g (W s)' - x (W diag(s k) W') + a constant

so that neither y nor its gradient is ever written or read. GroupNorm is the same for each image,
with means over the channels of a group; its matrices are small beside the features where images are
large and inputs narrow, in the first stage. Equal to convolution, BatchNorm, add and
ReLU one after the other up to rounding; in bfloat16 one rounding (that of y) is spared.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

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
    """Over m numbers of each of a parts: of the inputs, and what follows for the outputs."""

    mean: Float[Array, "a i"]
    by_kernel: Float[Array, "a i o"]  # covariance times kernel
    offset: Float[Array, "a o"]  # of each output's mean from that of its group
    mean_out: Float[Array, "a o"]  # of groups, at each of their channels, as the next
    variance: Float[Array, "a o"]


# Pixels for each channel of the inputs from which on it pays to fold image by image.
PIXELS = 16


def pays_by_image(x: Float[Array, "n h w i"]) -> bool:
    """Whether matrices of inputs x inputs and inputs x outputs are small beside an image."""
    return x.shape[1] * x.shape[2] >= PIXELS * x.shape[3]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def conv_norm(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "1 1 i o"],
    scale: Float[Array, " o"],
    bias: Float[Array, " o"],
    shortcut: Float[Array, "n h w o"] | None,
    parts: int,
    epsilon: float,
    groups: int = 0,
) -> tuple[Float[Array, "n h w o"], Float[Array, "a o"], Float[Array, "a o"]]:
    """``relu(norm(conv(x)) + shortcut)``; without a shortcut no ReLU either.

    Args:
      x: bfloat16 (float32 works, in tests).
      parts: the batch is normalised in so many parts of consecutive images.
      groups: consecutive channels are normalised in so many groups; 0: each by itself.

    Returns:
      The result in the dtype of `x`; mean and variance (of the population) of the convolution's
      outputs for each part, float32. Gradients flow through the result only.
    """
    return _forward(x, kernel, scale, bias, shortcut, parts, epsilon, groups)[0]


def _forward(x, kernel, scale, bias, shortcut, parts: int, epsilon: float, groups: int):
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


def _backward(parts: int, epsilon: float, groups: int, saved, gradients):
    x, kernel, scale, sums, inverse, out = saved
    gradient = gradients[0]
    if out is not None:
        # Without the barrier XLA tests what the ReLU was given, and keeps that as well.
        gradient = jnp.where(lax.optimization_barrier(out) > 0, gradient, 0)
    matrix, factor = _matrix(kernel, x), scale * inverse
    count = x[..., 0].size // parts

    by_bias = _sum(gradient, parts)
    if parts > 1:  # or XLA adds up all parts in a reading of their own
        by_bias = lax.optimization_barrier(by_bias)
    products = _transposed(x, gradient, parts)
    with_outputs = jnp.sum(matrix * products, 1) - sums.mean_out * by_bias  # sum of g (y - mean)
    by_scale = with_outputs * inverse
    # What a normalisation takes away from the gradient of y: (y - mean) along + constant.
    along = _over_group(by_scale * scale, groups) * jnp.square(inverse) / count
    constant = _over_group(by_bias * scale, groups) * inverse / count

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
    each, spread = _exact("ai,io->ao", mean, matrix), jnp.sum(matrix * by_kernel, 1)
    mean_out = _over_group(each, groups)
    offset = each - mean_out
    variance = _over_group(jnp.maximum(spread, 0) + jnp.square(offset), groups)
    return _Sums(mean, by_kernel, offset, mean_out, variance)


def _over_group(x: Float[Array, "a o"], groups: int) -> Float[Array, "a o"]:
    """The mean over the channels of a group, at each of its channels."""
    if groups in (0, x.shape[1]):
        return x
    return jnp.repeat(jnp.mean(x.reshape(len(x), groups, -1), 2), x.shape[1] // groups, 1)


def _matrix(kernel: Array, x: Array) -> Float[Array, "i o"]:
    """The kernel as it is multiplied, in float32."""
    return kernel[0, 0].astype(x.dtype).astype(jnp.float32)


def _exact(equation: str, *factors: Array) -> Array:
    return jnp.einsum(equation, *factors, precision=lax.Precision.HIGHEST)


def _sum(x: Float[Array, "n h w c"], parts: int) -> Float[Array, "a c"]:
    return jnp.sum(x.reshape(parts, -1, x.shape[-1]), 1, dtype=jnp.float32)


def _over_images(values: Float[Array, "a c"], x: Array) -> Float[Array, "n 1 1 c"]:
    """Each part's values beside each of its images."""
    if len(values) == 1:
        return values[:, None, None].astype(x.dtype)
    return jnp.repeat(values, len(x) // len(values), 0)[:, None, None].astype(x.dtype)


def _product(x: Float[Array, "n h w i"], matrix: Float[Array, "a i o"]) -> Float[Array, "n h w o"]:
    """Every pixel times the matrix of its part."""
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
    """``x' y`` of each part, float32."""
    if parts == 1:
        x, y = (part.reshape(-1, part.shape[-1]) for part in (x, y))
        return lax.dot_general(x, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)[
            None
        ]
    x, y = (part.reshape(parts, -1, part.shape[-1]) for part in (x, y))
    return lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
