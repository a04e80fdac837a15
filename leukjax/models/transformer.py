"""Pre-norm transformer blocks of a vision transformer (Dosovitskiy et al. 2021)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import initializers
from leukjax.models.cpu import attention
from leukjax.models.layers import StochasticDepth, add_perturbation, dot_general

_dense = functools.partial(nn.Dense, kernel_init=initializers.glorot, dot_general=dot_general)


class Attention(nn.Module):
    """Multi-head self-attention; the softmax is float32."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"]
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n h t t"]]:
        """Returns the result, and the weights that a token (third axis) gives to others (last)."""
        features = x.shape[-1]
        size = features // self.heads
        qkv = nn.DenseGeneral(
            (3, self.heads, size),
            dtype=self.dtype,
            kernel_init=glorot_qkv,
            dot_general=dot_general,
            name="qkv",
        )(x)
        query, key, value = qkv[:, :, 0] / math.sqrt(size), qkv[:, :, 1], qkv[:, :, 2]
        weights = attention_weights(query, key)
        perturbed = add_perturbation(self, "attention", weights)
        # Without a perturbation XLA drops the weights above, unless the caller uses them.
        unchanged = perturbed is weights
        mixed = attend(query, key, value) if unchanged else mix(perturbed, value)
        mixed = mixed.reshape(*x.shape[:2], features)
        return _dense(features, dtype=self.dtype, name="proj")(mixed), weights


def attention_weights(
    query: Float[Array, "n t h d"], key: Float[Array, "n t h d"]
) -> Float[Array, "n h t t"]:
    """Returns the softmax over keys, in float32, of scaled queries times keys."""
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key)
    return jax.nn.softmax(scores.astype(jnp.float32))


def mix(
    weights: Float[Array, "n h t t"], value: Float[Array, "n t h d"]
) -> Float[Array, "n t h d"]:
    """Returns the sums of values by weight."""
    return jnp.einsum("nhqk,nkhd->nqhd", weights.astype(value.dtype), value)


@jax.custom_vjp
def attend(
    query: Float[Array, "n t h d"], key: Float[Array, "n t h d"], value: Float[Array, "n t h d"]
) -> Float[Array, "n t h d"]:
    """Returns ``mix(attention_weights(query, key), value)``; on CPU by `cpu.attention`.

    Differentiable in reverse mode.
    """
    return _attend_forward(query, key, value)[0]


def _attend_forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    def native(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        weights = attention_weights(query, key)
        return mix(weights, value), weights

    mixed, weights = lax.platform_dependent(
        query, key, value, cpu=attention.forward, default=native
    )
    return mixed, (query, key, value, weights)


def _attend_backward(saved: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    def native(query: Array, key: Array, value: Array, weights: Array, gradient: Array) -> Any:
        by_value, by_weights = jax.vjp(mix, weights, value)[1](gradient)[::-1]
        by_scores = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True))
        scores = functools.partial(jnp.einsum, "nqhd,nkhd->nhqk")
        return *jax.vjp(scores, query, key)[1](by_scores.astype(query.dtype)), by_value

    return lax.platform_dependent(*saved, gradient, cpu=attention.gradients, default=native)


attend.defvjp(_attend_forward, _attend_backward)


class LayerScale(nn.Module):
    """Multiplies each feature by a learned factor (Touvron et al. 2021)."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        init = nn.initializers.constant(self.initial)
        return x * self.param("gamma", init, (x.shape[-1],), jnp.float32).astype(x.dtype)


class TransformerBlock(nn.Module):
    """Attention, then two fully connected layers; each after a LayerNorm and beside a shortcut.

    Attributes:
      heads: of the attention.
      dropout: rate in both branches.
      drop: probability that an image skips a branch in training.
      gelu_tanh: whether GELU is approximated by tanh.
      dtype: of matrix products.
      mlp: ``gelu``, or ``swiglu`` (Shazeer 2020) with two thirds of the hidden features.
      layer_scale: initial factor of both branches; 0: they have none.
    """

    heads: int
    dropout: float
    drop: float
    gelu_tanh: bool
    dtype: DTypeLike
    mlp: str = "gelu"
    layer_scale: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n t d"],
        *,
        train: bool,
        expose: Callable[[Array], Array] = lambda x: x,
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n h t t"] | None]:
        """Returns the tokens, and the weights of the attention unless a fused form has none.

        `expose` takes the normalised tokens that enter the attention and returns them.
        """
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
        dense = functools.partial(_dense, dtype=self.dtype)
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        skip = functools.partial(StochasticDepth(self.drop), train=train)

        y, weights = Attention(self.heads, self.dtype, name="attn")(expose(norm(name="norm1")(x)))
        x = x + skip(self.scaled(dropout(y), "ls1"))
        y = norm(name="norm2")(x)
        if self.mlp == "swiglu":
            gate, y = jnp.split(dense(2 * swiglu_features(x.shape[-1]), name="w12")(y), 2, -1)
            y = dropout(nn.silu(gate) * y)
        else:
            y = dense(4 * x.shape[-1], name="fc1")(y)
            y = dropout(nn.gelu(y, approximate=self.gelu_tanh))
        y = dropout(dense(x.shape[-1], name="w3" if self.mlp == "swiglu" else "fc2")(y))
        return x + skip(self.scaled(y, "ls2")), weights

    def scaled(self, y: Float[Array, "*b d"], name: str) -> Float[Array, "*b d"]:
        """Returns a branch times its `LayerScale`, if it has one."""
        return LayerScale(self.layer_scale, name=name)(y) if self.layer_scale else y


def swiglu_features(features: int) -> int:
    """Returns the hidden features of SwiGLU: two thirds of GELU's, in multiples of 8 (DINOv2)."""
    return (4 * features * 2 // 3 + 7) // 8 * 8


def glorot_qkv(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """Initialises query, key and value as three layers of ``inputs x inputs``."""
    del out_sharding
    return initializers.deviation(math.sqrt(1 / shape[0]))(key, shape, dtype)
