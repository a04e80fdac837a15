"""Blocks of a vision transformer (Dosovitskiy et al. 2021): attention and two layers, pre-norm."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import initializers
from leukjax.models.fused import transformer
from leukjax.models.layers import StochasticDepth, dot_general, exposed

_dense = functools.partial(nn.Dense, kernel_init=initializers.glorot, dot_general=dot_general)


class Attention(nn.Module):
    """Multi-head self-attention; the softmax is float32."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"]
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n h t t"]]:
        """The result, and the weight that each token (third axis) gives to each (last)."""
        features = x.shape[-1]
        size = features // self.heads
        qkv = nn.DenseGeneral(
            (3, self.heads, size),
            dtype=self.dtype,
            kernel_init=_glorot_qkv,
            dot_general=dot_general,
            name="qkv",
        )(x)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("nqhd,nkhd->nhqk", query / math.sqrt(size), key)
        weights = exposed(self, "attention", jax.nn.softmax(scores.astype(jnp.float32)))
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights.astype(self.dtype), value)
        mixed = mixed.reshape(*x.shape[:2], features)
        return _dense(features, dtype=self.dtype, name="proj")(mixed), weights


class TransformerBlock(nn.Module):
    """Attention and two fully connected layers, each after a LayerNorm and around a shortcut.

    Attributes:
      drop: probability that an image skips a branch in training.
      lean: train in the form of `lean_transformer`.
    """

    heads: int
    dropout: float
    drop: float
    gelu_tanh: bool
    dtype: DTypeLike
    lean: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], *, train: bool
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n h t t"] | None]:
        """The tokens, and the attention's weights where they are to be had (not in `lean`)."""
        if train and self.lean:
            return self._lean(x), None
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
        dense = functools.partial(_dense, dtype=self.dtype)
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        skip = functools.partial(StochasticDepth(self.drop), train=train)

        y, weights = Attention(self.heads, self.dtype, name="attn")(norm(name="norm1")(x))
        x = x + skip(dropout(y))
        y = dense(4 * x.shape[-1], name="fc1")(norm(name="norm2")(x))
        y = dropout(nn.gelu(y, approximate=self.gelu_tanh))
        y = dropout(dense(x.shape[-1], name="fc2")(y))
        return x + skip(y), weights

    def _lean(self, x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """In training; matrices of all tokens of all images between the layers."""
        shape, features = x.shape, x.shape[-1]
        norm = functools.partial(transformer.LayerNorm, epsilon=1e-6)
        dense = functools.partial(
            transformer.Dense, dtype=self.dtype, kernel_init=initializers.glorot
        )
        dropout = nn.Dropout(self.dropout, deterministic=False)
        skip = StochasticDepth(self.drop)

        def branch(y: Array) -> Array:
            """Over whole images, as the other form draws what it drops."""
            return skip(dropout(y.reshape(shape)), train=True).reshape(-1, features)

        x = x.reshape(-1, features)
        y = LeanAttention(self.heads, shape[1], self.dtype, name="attn")(norm(name="norm1")(x))
        x = x + branch(y)
        y = dense((4 * features,), gelu=self.gelu_tanh, name="fc1")(norm(name="norm2")(x))
        y = dropout(y.reshape(*shape[:2], -1)).reshape(y.shape)
        return (x + branch(dense((features,), name="fc2")(y))).reshape(shape)


class LeanAttention(nn.Module):
    """`Attention` in the form of `lean_transformer`: the same parameters, no weights given."""

    heads: int
    tokens: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        features = x.shape[-1]
        dense = functools.partial(transformer.Dense, dtype=self.dtype)
        of_heads = (3, self.heads, features // self.heads)
        qkv = dense(of_heads, kernel_init=_glorot_qkv, name="qkv")(x)
        mixed = transformer.attend(qkv.reshape(-1, self.tokens, 3 * features), self.heads)
        project = dense((features,), kernel_init=initializers.glorot, name="proj")
        return project(mixed.reshape(x.shape))


def _glorot_qkv(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """Query, key and value are three layers of ``inputs x inputs``, drawn at once."""
    del out_sharding
    return initializers.deviation(math.sqrt(1 / shape[0]))(key, shape, dtype)
