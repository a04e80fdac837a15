"""BatchNorm and GroupNorm, each with the ReLU, sum or max pool that follows it.

Both normalise by `standardize`: statistics in float32 over m and a group of channels of features
``[m, c]``, of the whole batch, of each sub-batch, or of each image. Its backward pass is written by
hand: with autodiff, XLA reads the features several times more often and keeps more of them.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from leukjax.errors import UserError
from leukjax.models.cpu.pooling import max_pool
from leukjax.models.layers import Padding, Pair

Pool = tuple[Pair, Pair, Padding]  # of a max pool: size, strides, padding


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def standardize(
    x: Float[Array, "m c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
) -> tuple[Float[Array, "m c"], Float[Array, " c"], Float[Array, " c"]]:
    """Zero mean and unit variance over m and each group of channels, then scale and bias.

    Args:
      x: features.
      scale: of each channel.
      bias: of each channel.
      groups: number of groups of consecutive channels; c means that each channel is a group.
      epsilon: added to the variance.

    Returns:
      The result in the dtype of ``x``; mean and variance (of the population: divided by the
      count), float32. Gradients flow through the result only.
    """
    return _forward(x, scale, bias, groups, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, groups: int, epsilon: float):
    wide = x.astype(jnp.float32)
    mean = mean_over_groups(jnp.mean(wide, 0), groups)
    centred = wide - mean
    if x.dtype == jnp.bfloat16:
        # One pass. Where the mean is so large that float32 loses the digits of the difference,
        # bfloat16 has lost them already.
        squares = mean_over_groups(jnp.mean(jnp.square(wide), 0), groups)
        variance = jnp.maximum(squares - jnp.square(mean), 0)
    else:
        # Two passes, because float32 features still have these digits.
        variance = mean_over_groups(jnp.mean(jnp.square(centred), 0), groups)
    inverse = lax.rsqrt(variance + epsilon)
    y = centred * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _backward(groups: int, epsilon: float, saved, gradients):
    x, scale, mean, inverse = saved
    gradient = gradients[0].astype(jnp.float32)
    centred = x.astype(jnp.float32) - mean
    by_bias = jnp.sum(gradient, 0)
    by_scale = jnp.sum(gradient * centred, 0) * inverse
    # The loss depends neither on the mean of x nor on its scale: remove both from the gradient.
    shift = mean_over_groups(by_bias * scale, groups) * inverse / x.shape[0]
    slope = mean_over_groups(by_scale * scale, groups) * inverse * inverse / x.shape[0]
    by_x = gradient * (inverse * scale) - centred * slope - shift
    return by_x.astype(x.dtype), by_scale, by_bias


def mean_over_groups(x: Float[Array, "*n c"], groups: int) -> Float[Array, "*n c"]:
    """Returns the mean over the channels of each group, repeated for its channels."""
    *rest, channels = x.shape
    if groups == channels:
        return x
    means = jnp.mean(x.reshape(*rest, groups, -1), -1)
    return jnp.repeat(means, channels // groups, len(rest))


standardize.defvjp(_forward, _backward)


def _standardize_parts(
    x: Float[Array, "a m c"], scale: Array, bias: Array, groups: int, epsilon: float
) -> tuple[Float[Array, "a m c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """`standardize` for each of the a parts: images or sub-batches."""
    if x.shape[0] == 1:
        # No vmap: XLA:CPU sums over the middle axis of [1, m, c] some twenty times slower.
        return jax.tree.map(lambda y: y[None], standardize(x[0], scale, bias, groups, epsilon))
    return jax.vmap(standardize, (0, None, None, None, None))(x, scale, bias, groups, epsilon)


class After(NamedTuple):
    """What follows a normalisation, in this order: add a shortcut, ReLU, max pool."""

    shortcut: Float[Array, "n h w c"] | None = None
    relu: bool = False
    pool: Pool | None = None

    def apply(self, y: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
        """Returns the result of these operations."""
        y = y if self.shortcut is None else y + self.shortcut
        y = nn.relu(y) if self.relu else y
        return y if self.pool is None else max_pool(y, *self.pool)


class Norm(nn.Module):
    """What BatchNorm and GroupNorm share.

    Attributes:
      epsilon: added to the variance.
      scale_init: initial scale.
    """

    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def affine(self, channels: int) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Returns the parameters scale and bias."""
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return scale, bias

    def normalize(
        self, x: Any, scale: Array, bias: Array, parts: int, groups: int, after: After
    ) -> tuple[Float[Array, "n p q c"], Float[Array, "a c"], Float[Array, "a c"]]:
        """Returns the result of normalisation and `after`, and the mean and variance of each part.

        `models.fused` has other forms of this method.
        """
        flat = x.reshape(parts, -1, x.shape[-1])
        y, mean, variance = _standardize_parts(flat, scale, bias, groups, self.epsilon)
        return after.apply(y.reshape(x.shape)), mean, variance


class BatchNorm(Norm):
    """Batch normalisation (Ioffe and Szegedy 2015) over a batch, or over fixed sub-batches.

    Running averages are kept in ``batch_stats`` (``mean``, ``var``, float32), with the variance of
    the population as in Flax; PyTorch keeps n / (n - 1) times as much.

    Attributes:
      sub_batch: number of consecutive images that share their statistics; 0 is the whole batch.
        With fixed sub-batches no device waits for another, and the number of devices changes
        nothing. The running averages take the mean over the sub-batches.
      frozen: use and keep the running averages also in training. Scale and bias are trained.
      momentum: share of the old running average that is kept.
    """

    sub_batch: int = 0
    frozen: bool = False
    momentum: float = 0.9

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        *,
        train: bool,
        shortcut: Float[Array, "n h w c"] | None = None,
        relu: bool = False,
        pool: Pool | None = None,
    ) -> Float[Array, "n p q c"]:
        """Normalises; then adds a shortcut, applies ReLU and a max pool, where these are given."""
        channels, after = x.shape[-1], After(shortcut, relu, pool)
        scale, bias = self.affine(channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train or self.frozen:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            return after.apply((x.astype(jnp.float32) * factor + shift).astype(x.dtype))

        parts = self._sub_batches(x.shape[0])
        y, mean, variance = self.normalize(x, scale, bias, parts, channels, after)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, variance)):
                new = lax.stop_gradient(jnp.mean(new, 0))
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y

    def _sub_batches(self, images: int) -> int:
        if self.sub_batch == 0:
            return 1
        if images % self.sub_batch:
            raise UserError(
                f"norm_batch={self.sub_batch}: does not divide a batch of {images} images; choose "
                "a divisor, or 0 for the whole batch"
            )
        return images // self.sub_batch


class GroupNorm(Norm):
    """Group normalisation (Wu and He 2018): statistics of each image and group of channels.

    It has 32 groups, or the largest number below that divides both 32 and the channels.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        *,
        train: bool,
        shortcut: Float[Array, "n h w c"] | None = None,
        relu: bool = False,
        pool: Pool | None = None,
    ) -> Float[Array, "n p q c"]:
        """Normalises as in `BatchNorm`; the same in training and evaluation."""
        scale, bias = self.affine(x.shape[-1])
        groups, after = math.gcd(32, x.shape[-1]), After(shortcut, relu, pool)
        if not train:
            return Norm.normalize(self, x, scale, bias, x.shape[0], groups, after)[0]
        return self.normalize(x, scale, bias, x.shape[0], groups, after)[0]


class Layers(NamedTuple):
    """The classes of normalisation layers; `models.fused` has others."""

    batch: type[BatchNorm] = BatchNorm
    group: type[GroupNorm] = GroupNorm


def make_norm(norm: str, norm_batch: int, layers: Layers, **options: Any) -> functools.partial[Any]:
    """Returns the layer of a model's options `norm` and `norm_batch`; call it with a name."""
    if norm == "group":
        return functools.partial(layers.group, **options)
    frozen = norm == "frozen"
    return functools.partial(layers.batch, sub_batch=norm_batch, frozen=frozen, **options)
