"""Attention between its two projections as one kernel: a candidate that waits for a card.

`leukjax.models.fused.transformer.attend` in Pallas on Triton: one program for each image and head
reads queries, keys and values once and writes the mixture; backward likewise, with the weights
computed again. Nothing is cut into heads, padded or kept. By the compiler's count it moves less
(docs/performance_devices.md); how fast it is cannot be known without a card, so the models do not
use it. `compiled_grid`'s lever "Pallas attention" puts it in. Equal to `attend` in interpret mode
(tests/benchmarks/test_pallas_attention.py).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

INTERPRET = False  # on a CPU, in tests


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend(qkv: Float[Array, "n t f"], heads: int) -> Float[Array, "n t d"]:
    """As `lean_transformer.attend`; the size of a head must be a power of two, 16 or more."""
    return _forward(qkv, heads)[0]


def _forward(qkv, heads: int):
    images, tokens, size, parts, mixture = _blocks(qkv, heads)
    mixed = pl.pallas_call(
        functools.partial(_mix, tokens=tokens),
        grid=(images, heads),
        in_specs=[parts],
        out_specs=mixture,
        out_shape=jax.ShapeDtypeStruct((images, tokens, heads * size), qkv.dtype),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=INTERPRET,
    )(qkv.reshape(images, tokens, 3, heads, size))
    return mixed, qkv


def _backward(heads: int, qkv, gradient):
    images, tokens, size, parts, mixture = _blocks(qkv, heads)
    by_qkv = pl.pallas_call(
        functools.partial(_unmix, tokens=tokens),
        grid=(images, heads),
        in_specs=[parts, mixture],
        out_specs=parts,
        out_shape=jax.ShapeDtypeStruct((images, tokens, 3, heads, size), qkv.dtype),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=INTERPRET,
    )(qkv.reshape(images, tokens, 3, heads, size), gradient)
    return (by_qkv.reshape(qkv.shape),)


attend.defvjp(_forward, _backward)


def _blocks(qkv: Array, heads: int) -> tuple[int, int, int, pl.BlockSpec, pl.BlockSpec]:
    """Images, tokens, size of a head; what a program sees of queries, keys, values, and mixture."""
    images, tokens, features = qkv.shape
    size = features // 3 // heads
    rows = 1 << (tokens - 1).bit_length()  # tokens up to a power of two; the rest is masked
    parts = pl.BlockSpec((None, rows, 3, None, size), lambda image, head: (image, 0, 0, head, 0))
    mixture = pl.BlockSpec((None, rows, size), lambda image, head: (image, 0, head))
    return images, tokens, size, parts, mixture


def _mix(qkv: Any, out: Any, *, tokens: int) -> None:
    real = _real(out.shape, tokens)
    query, key, value = (_part(qkv, number, real) for number in range(3))
    weights = _weights(query, key, tokens).astype(value.dtype)
    triton.store(out.at[:, :], _product(weights, value, 1, 0).astype(out.dtype), mask=real)


def _unmix(qkv: Any, by_mixed: Any, by_qkv: Any, *, tokens: int) -> None:
    real = _real(by_mixed.shape, tokens)
    query, key, value = (_part(qkv, number, real) for number in range(3))
    gradient = triton.load(by_mixed.at[:, :], mask=real, other=0.0)
    weights = _weights(query, key, tokens)
    by_weights = _product(gradient, value, 1, 1)
    by_scores = weights * (by_weights - jnp.sum(weights * by_weights, 1, keepdims=True))
    by_scores = (by_scores / math.sqrt(query.shape[1])).astype(query.dtype)
    found = (
        _product(by_scores, key, 1, 0),
        _product(by_scores, query, 0, 0),
        _product(weights.astype(query.dtype), gradient, 0, 0),
    )
    for number, part in enumerate(found):
        place = by_qkv.at[:, pl.ds(number, 1), :]
        triton.store(place, part.astype(by_qkv.dtype)[:, None], mask=real[:, None])


def _real(shape: tuple[int, ...], tokens: int) -> Array:
    return lax.broadcasted_iota(jnp.int32, shape, 0) < tokens


def _part(qkv: Any, number: int, real: Array) -> Array:
    found = triton.load(qkv.at[:, pl.ds(number, 1), :], mask=real[:, None], other=0.0)
    return found.reshape(real.shape)


def _product(one: Array, other: Array, one_axis: int, other_axis: int) -> Array:
    """Matrix product over an axis of each, summed in float32 (`pl.dot` is gone since JAX 0.12)."""
    axes = (((one_axis,), (other_axis,)), ((), ()))
    return lax.dot_general(one, other, axes, preferred_element_type=jnp.float32)


def _weights(query: Array, key: Array, tokens: int) -> Array:
    """Float32; of tokens that are not there, nothing to them and nothing from them."""
    scores = _product(query, key, 1, 1) / math.sqrt(query.shape[1])
    to = lax.broadcasted_iota(jnp.int32, scores.shape, 1) < tokens
    scores = jnp.where(to, scores, -1e30)
    weights = jnp.exp(scores - jnp.max(scores, 1, keepdims=True))
    weights = weights / jnp.sum(weights, 1, keepdims=True)
    return jnp.where(_real(scores.shape, tokens), weights, 0)
