"""Transformer blocks in training that move fewer bytes on a GPU.

In the shape [images, tokens, features], XLA transposes layouts between matrix products, keeps
float32 copies for LayerNorm's backward pass and the tanh of GELU for its gradient, and pads odd
numbers of tokens for cuBLAS at each product. Here everything between the matrix products is
two-dimensional, so that cuBLAS adds biases and shortcuts and applies GELU itself; LayerNorm and
GELU keep only their inputs; queries, keys and values are split into heads and padded once.
Parameters and, up to rounding, all numbers are those of `models.transformer`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import initializers
from leukjax.models.layers import StochasticDepth
from leukjax.models.transformer import TransformerBlock, glorot_qkv, swiglu_features

TILE = 8  # cuBLAS is fast for bfloat16 matrices with rows of a multiple of 16 bytes


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "m d"], scale: Float[Array, " d"], bias: Float[Array, " d"], epsilon: float
) -> Float[Array, "m d"]:
    """Layer normalisation (Ba et al. 2016) as in ``nn.LayerNorm``; statistics are float32."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon: float):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, -1, keepdims=True)
    squares = jnp.mean(jnp.square(wide), -1, keepdims=True)
    inverse = lax.rsqrt(jnp.maximum(squares - jnp.square(mean), 0) + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _layer_norm_backward(epsilon: float, saved, gradient):
    x, scale, mean, inverse = saved
    gradient = gradient.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * inverse
    scaled = gradient * scale
    shift = jnp.mean(scaled, -1, keepdims=True)
    slope = jnp.mean(scaled * normed, -1, keepdims=True)
    by_x = inverse * (scaled - shift - normed * slope)
    both = jnp.sum(
        lax.complex(gradient, gradient * normed), 0
    )  # one reading: `fused.norms.two_sums`
    return by_x.astype(x.dtype), both.imag, both.real


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """`layer_norm` with the parameters of ``nn.LayerNorm``."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return layer_norm(x, scale, bias, self.epsilon)


class Dense(nn.Module):
    """A fully connected layer with the parameters of ``nn.DenseGeneral``.

    Attributes:
      features: shape of the output per token; the output is flat.
      dtype: of the product.
      kernel_init: initialises the kernel as a matrix.
      gelu: apply `biased_gelu` with this `tanh`; None applies none.
    """

    features: tuple[int, ...]
    dtype: DTypeLike
    kernel_init: nn.initializers.Initializer
    gelu: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m f"]:
        def init_as_matrix(key: Array, shape: tuple[int, ...]) -> Array:
            flat = (shape[0], math.prod(self.features))
            return self.kernel_init(key, flat, jnp.float32).reshape(shape)

        kernel = self.param("kernel", init_as_matrix, (x.shape[-1], *self.features))
        bias = self.param("bias", nn.initializers.zeros, self.features, jnp.float32)
        product = x.astype(self.dtype) @ kernel.reshape(x.shape[-1], -1).astype(self.dtype)
        bias = bias.reshape(-1).astype(self.dtype)
        return product + bias if self.gelu is None else biased_gelu(product, bias, self.gelu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def biased_gelu(x: Float[Array, "m d"], bias: Float[Array, " d"], tanh: bool) -> Array:
    """Returns ``jax.nn.gelu(x + bias)`` (Hendrycks and Gimpel 2016); keeps only its inputs.

    Args:
      x: a matrix product, which is in memory anyway.
      bias: of each feature.
      tanh: whether to use the approximation by tanh.
    """
    return jax.nn.gelu(x + bias, approximate=tanh)


def _gelu_forward(x, bias, tanh: bool):
    return biased_gelu(x, bias, tanh), (x, bias)


def _gelu_backward(tanh: bool, saved, gradient):
    x, bias = saved
    # Without the barrier the forward pass computes and writes values for this one.
    gelu = functools.partial(jax.nn.gelu, approximate=tanh)
    (by_x,) = jax.vjp(gelu, lax.optimization_barrier(x) + bias)[1](gradient)
    return by_x, jnp.sum(by_x, 0)


biased_gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend(qkv: Float[Array, "n t f"], heads: int) -> Float[Array, "n t d"]:
    """Multi-head self-attention between its two projections; the softmax is float32.

    Args:
      qkv: queries, keys and values, concatenated along f = 3 d; each is a concatenation of heads.
      heads: number of heads, a divisor of d.
    """
    return _attend_forward(qkv, heads)[0]


def _attend_forward(qkv, heads: int):
    images, tokens, _ = qkv.shape
    parted = qkv.reshape(images, tokens, 3, -1)
    query, key, value = lax.optimization_barrier(
        tuple(_split_heads(parted[:, :, number], heads) for number in range(3))
    )
    scores = _product(query, key, 3, 3).astype(jnp.float32) / math.sqrt(query.shape[-1])
    real = lax.broadcasted_iota(jnp.int32, scores.shape, 3) < tokens
    weights = jax.nn.softmax(jnp.where(real, scores, -jnp.inf)).astype(qkv.dtype)
    weights = lax.optimization_barrier(weights)
    mixed = _merge_heads(_product(weights, value, 3, 2), tokens)
    return mixed, (query, key, value, weights)


def _attend_backward(heads: int, saved, gradient):
    query, key, value, weights = saved
    tokens = gradient.shape[1]
    gradient = lax.optimization_barrier(_split_heads(gradient, heads))
    by_value = _product(weights, gradient, 2, 2)
    by_weights = _product(gradient, value, 3, 3).astype(jnp.float32)
    wide = weights.astype(jnp.float32)
    by_scores = wide * (by_weights - jnp.sum(wide * by_weights, -1, keepdims=True))
    by_scores = (by_scores / math.sqrt(query.shape[-1])).astype(query.dtype)
    by_scores = lax.optimization_barrier(by_scores)
    by_query, by_key = _product(by_scores, key, 3, 2), _product(by_scores, query, 2, 2)
    parts = [_merge_heads(part, tokens) for part in (by_query, by_key, by_value)]
    return (lax.optimization_barrier(jnp.concatenate(parts, -1)),)


attend.defvjp(_attend_forward, _attend_backward)


def _split_heads(x: Float[Array, "n t d"], heads: int) -> Float[Array, "n h u s"]:
    """Splits heads, moves them before tokens, and pads tokens with zeros to multiples of `TILE`."""
    images, tokens, features = x.shape
    parted = x.reshape(images, tokens, heads, features // heads).transpose(0, 2, 1, 3)
    return jnp.pad(parted, ((0, 0), (0, 0), (0, -tokens % TILE), (0, 0)))


def _merge_heads(x: Float[Array, "n h u s"], tokens: int) -> Float[Array, "n t d"]:
    """Reverses `_split_heads`."""
    return x[:, :, :tokens].transpose(0, 2, 1, 3).reshape(x.shape[0], tokens, -1)


def _product(x: Array, y: Array, over_x: int, over_y: int) -> Array:
    """Multiplies over one axis of each operand, for each image and head."""
    return lax.dot_general(x, y, (((over_x,), (over_y,)), ((0, 1), (0, 1))))


class FusedTransformerBlock(TransformerBlock):
    """A `TransformerBlock` that trains in the form of this module, with the same parameters."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n t d"],
        *,
        train: bool,
        expose: Callable[[Array], Array] = lambda x: x,
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n h t t"] | None]:
        """Returns the tokens; and, in evaluation, the weights of the attention."""
        if not train:
            return super().__call__(x, train=False, expose=expose)
        shape, features = x.shape, x.shape[-1]
        norm = functools.partial(LayerNorm, epsilon=1e-6)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=initializers.glorot)
        dropout = nn.Dropout(self.dropout, deterministic=False)
        skip = StochasticDepth(self.drop)

        def branch(y: Array, scale: str) -> Array:
            """Drops elements and whole images, the same ones as `TransformerBlock`."""
            y = self.scaled(dropout(y.reshape(shape)), scale)
            return skip(y, train=True).reshape(-1, features)

        x = x.reshape(-1, features)
        y = FusedAttention(self.heads, shape[1], self.dtype, name="attn")(norm(name="norm1")(x))
        x = x + branch(y, "ls1")
        y = norm(name="norm2")(x)
        if self.mlp == "swiglu":
            y = dense((2 * swiglu_features(features),), name="w12")(y)
            gate, y = jnp.split(y, 2, -1)
            y = nn.silu(gate) * y
        else:
            y = dense((4 * features,), gelu=self.gelu_tanh, name="fc1")(y)
        y = dropout(y.reshape(*shape[:2], -1)).reshape(y.shape)
        y = dense((features,), name="w3" if self.mlp == "swiglu" else "fc2")(y)
        return (x + branch(y, "ls2")).reshape(shape), None


class FusedAttention(nn.Module):
    """`transformer.Attention` with the same parameters, on a matrix of all tokens."""

    heads: int
    tokens: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        features = x.shape[-1]
        dense = functools.partial(Dense, dtype=self.dtype)
        qkv_features = (3, self.heads, features // self.heads)
        qkv = dense(qkv_features, kernel_init=glorot_qkv, name="qkv")(x)
        mixed = attend(qkv.reshape(-1, self.tokens, 3 * features), self.heads)
        project = dense((features,), kernel_init=initializers.glorot, name="proj")
        return project(mixed.reshape(x.shape))
