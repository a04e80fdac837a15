"""Normalisation layers with one backward pass of their own; statistics are float32.

BatchNorm and GroupNorm are one function: statistics over m and a group of channels of features
``[m, c]``, for the whole batch, each of its parts or each image. Left to autodiff, XLA reads the
features several times more often and keeps more of them.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from leukjax.errors import UserError
from leukjax.models.cpu.pooling import Window, max_pool
from leukjax.models.fused.conv_norm import conv_norm
from leukjax.models.fused.norms import norm_add_relu, norm_relu, norm_relu_pool
from leukjax.models.layers import Padding, Pair, resolve_padding


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
      groups: consecutive channels fall into so many groups; c of them: each channel by itself.

    Returns:
      The result in the dtype of ``x``; mean and variance (of the population: divided by the
      count), float32. Gradients flow through the result only.
    """
    return _forward(x, scale, bias, groups, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, groups: int, epsilon: float):
    wide = x.astype(jnp.float32)
    mean = _over_group(jnp.mean(wide, 0), groups)
    centred = wide - mean
    if x.dtype == jnp.bfloat16:
        # One pass: where the mean is so large against the spread that float32 loses the digits of
        # the difference, bfloat16 lost them before.
        squares = _over_group(jnp.mean(jnp.square(wide), 0), groups)
        variance = jnp.maximum(squares - jnp.square(mean), 0)
    else:
        # Two passes, for that reason.
        variance = _over_group(jnp.mean(jnp.square(centred), 0), groups)
    inverse = lax.rsqrt(variance + epsilon)
    y = centred * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _backward(groups: int, epsilon: float, saved, gradients):
    x, scale, mean, inverse = saved
    gradient = gradients[0].astype(jnp.float32)
    centred = x.astype(jnp.float32) - mean
    by_bias = jnp.sum(gradient, 0)
    by_scale = jnp.sum(gradient * centred, 0) * inverse
    # The mean of the gradient, and its part along the normalised features, change nothing.
    shift = _over_group(by_bias * scale, groups) * inverse / x.shape[0]
    slope = _over_group(by_scale * scale, groups) * inverse * inverse / x.shape[0]
    by_x = gradient * (inverse * scale) - centred * slope - shift
    return by_x.astype(x.dtype), by_scale, by_bias


def _over_group(x: Float[Array, " c"], groups: int) -> Float[Array, " c"]:
    """The mean over the channels of a group, at each of its channels."""
    if groups == x.size:
        return x
    return jnp.repeat(jnp.mean(x.reshape(groups, -1), 1), x.size // groups)


standardize.defvjp(_forward, _backward)


def _standardize_parts(
    x: Float[Array, "a m c"], scale: Array, bias: Array, groups: int, epsilon: float
) -> tuple[Float[Array, "a m c"], Float[Array, "a c"], Float[Array, "a c"]]:
    """``standardize`` for each of a parts (of a batch, or images)."""
    if x.shape[0] == 1:
        # Not mapped: XLA:CPU sums over the middle axis of [1, m, c] some twenty times slower.
        return jax.tree.map(lambda y: y[None], standardize(x[0], scale, bias, groups, epsilon))
    return jax.vmap(standardize, (0, None, None, None, None))(x, scale, bias, groups, epsilon)


class After(NamedTuple):
    """What comes after a normalisation, in this order: a shortcut is added, ReLU, a max pool."""

    shortcut: Float[Array, "n h w c"] | None = None
    relu: bool = True
    pool: tuple[Pair, Pair, Padding] | None = None  # size, strides, padding


def followed(
    norm: nn.Module, x: Float[Array, "n h w c"], after: After, *, train: bool, lean: bool
) -> Float[Array, "n p q c"]:
    """A normalisation and what comes after it; `lean`: in training as one (`lean_norms`)."""
    if train and lean:
        return norm(x, train=True, after=after)
    return _then(norm(x, train=train), after)


def _then(y: Float[Array, "n h w c"], after: After) -> Float[Array, "n p q c"]:
    y = y if after.shortcut is None else y + after.shortcut
    y = nn.relu(y) if after.relu else y
    return y if after.pool is None else max_pool(y, *after.pool)


def _lean(
    x: Float[Array, "n h w c"],
    scale: Array,
    bias: Array,
    parts: int,
    groups: int,
    epsilon: float,
    after: After,
) -> tuple[Float[Array, "n p q c"], Float[Array, "a c"], Float[Array, "a c"]]:
    if after.pool is not None:
        size, strides, padding = after.pool
        window = Window(size, strides, resolve_padding(padding, x.shape[1:3], size, strides))
        return norm_relu_pool(x, scale, bias, parts, groups, epsilon, window)
    flat = x.reshape(parts, -1, x.shape[-1])
    if after.shortcut is None:
        y, mean, variance = norm_relu(flat, scale, bias, groups, epsilon, after.relu)
    else:
        shortcut = after.shortcut.reshape(flat.shape)
        y, mean, variance = norm_add_relu(flat, shortcut, scale, bias, groups, epsilon)
    return y.reshape(x.shape), mean, variance


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015), over all images of a batch or fixed parts.

    Running averages are kept in ``batch_stats`` (``mean``, ``var``, float32), with the variance of
    the population as in Flax; PyTorch keeps n / (n - 1) times as much.

    Attributes:
      sub_batch: images whose statistics are taken together, consecutive in the batch; 0 = all.
        Over fixed parts no device waits for another, and the number of devices changes nothing.
        The running averages take the mean over the parts.
      frozen: never look at the batch; the running averages stay as they are. Scale and bias train.
      momentum: share of the old running average that is kept.
    """

    sub_batch: int = 0
    frozen: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w i"],
        kernel: Float[Array, "1 1 i c"] | None = None,
        *,
        train: bool,
        shortcut: Float[Array, "n h w c"] | None = None,
        after: After | None = None,
    ) -> Float[Array, "n p q c"]:
        """Normalised features.

        In training, with a kernel, `x` is what a 1x1 convolution is still to be done with, and a
        shortcut is added before a ReLU (`folded.conv_norm`). With `after` that is done too.
        """
        channels = (x if kernel is None else kernel).shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train or self.frozen:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            y = (x.astype(jnp.float32) * factor + shift).astype(x.dtype)
            return y if after is None else _then(y, after)

        parts = self._parts(x.shape[0])
        if kernel is not None:
            y, mean, variance = conv_norm(x, kernel, scale, bias, shortcut, parts, self.epsilon)
        elif after is not None:
            y, mean, variance = _lean(x, scale, bias, parts, channels, self.epsilon, after)
        else:
            flat = x.reshape(parts, -1, channels)
            y, mean, variance = _standardize_parts(flat, scale, bias, channels, self.epsilon)
            y = y.reshape(x.shape)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, variance)):
                new = lax.stop_gradient(jnp.mean(new, 0))
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y

    def _parts(self, images: int) -> int:
        if self.sub_batch == 0:
            return 1
        if images % self.sub_batch:
            raise UserError(
                f"--config.model.norm_batch={self.sub_batch}: does not divide a batch of {images} "
                "images; choose a divisor, or 0 for the whole batch"
            )
        return images // self.sub_batch


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018): statistics of each image and group of channels.

    32 groups, or the largest number below that divides both 32 and the channels.
    """

    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w i"],
        kernel: Float[Array, "1 1 i c"] | None = None,
        *,
        train: bool,
        shortcut: Float[Array, "n h w c"] | None = None,
        after: After | None = None,
    ) -> Float[Array, "n p q c"]:
        """Normalised features; `kernel`, `shortcut` and `after` as of `BatchNorm`."""
        del train  # the same in both
        channels = (x if kernel is None else kernel).shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        groups = math.gcd(32, channels)
        if kernel is not None:
            return conv_norm(x, kernel, scale, bias, shortcut, len(x), self.epsilon, groups)[0]
        if after is not None:
            return _lean(x, scale, bias, len(x), groups, self.epsilon, after)[0]
        flat = x.reshape(x.shape[0], -1, channels)
        y, _, _ = _standardize_parts(flat, scale, bias, groups, self.epsilon)
        return y.reshape(x.shape)


NORMS = ("batch", "group", "frozen")


def chosen(norm: str, norm_batch: int) -> Callable[..., nn.Module]:
    """The layer of ``model.norm`` and ``model.norm_batch``; still wants ``name``."""
    if norm == "group":
        return GroupNorm
    return functools.partial(BatchNorm, sub_batch=norm_batch, frozen=norm == "frozen")
