"""Attention and its gradients for XLA:CPU.

Left to itself, XLA:CPU chooses a layout for the products in which they read columns, and is five
times slower at 197 tokens. Here heads stand before tokens, so that every product reads whole rows,
and rows are divided by their sums after the second product, which is a third of the divisions.
XLA:CPU computes the products of a batch one after the other, in one thread; those of four blocks of
images run at the same time. docs/development/tried.md has the measurements.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Heads = Float[Array, "n t h d"]


def forward(query: Heads, key: Heads, value: Heads) -> tuple[Heads, Float[Array, "n h t t"]]:
    """Attention; equal to its definition up to the order of operations.

    Args:
      query: divided by the square root of its features.
      key: of all tokens.
      value: of all tokens.

    Returns:
      The mixed values, and the weights.
    """
    mixed, weights = _in_blocks(_forward, query, key, value)
    return mixed, weights


def gradients(
    query: Heads, key: Heads, value: Heads, weights: Float[Array, "n h t t"], gradient: Heads
) -> tuple[Heads, Heads, Heads]:
    """Returns the gradients with respect to query, key and value.

    Args:
      query: as for `forward`.
      key: as for `forward`.
      value: as for `forward`.
      weights: the second result of `forward`.
      gradient: with respect to the first one.
    """
    by_query, by_key, by_value = _in_blocks(_gradients, query, key, value, weights, gradient)
    return by_query, by_key, by_value


_BLOCKS = 4
_WORTH_DIVIDING = 1e8  # FLOPs of one product; smaller ones gain nothing


def _in_blocks(function: Callable[..., tuple[Array, ...]], *arrays: Array) -> list[Array]:
    """Returns the results of a function that treats images one by one, from blocks of them."""
    images, tokens, heads, features = arrays[0].shape
    # Several devices share the images, and a block of them would have to be gathered. A batch of
    # symbolic size (in an export) is not divided either.
    divides = jax.device_count() == 1 and isinstance(images, int) and images % _BLOCKS == 0
    if not divides or 2 * images * heads * tokens**2 * features < _WORTH_DIVIDING:
        return list(function(*arrays))
    blocks = zip(*(jnp.split(array, _BLOCKS) for array in arrays), strict=True)
    results = [function(*block) for block in blocks]
    return [jnp.concatenate(parts) for parts in zip(*results, strict=True)]


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    query, key, value = (_heads_first(x) for x in (query, key, value))
    scores = lax.optimization_barrier(jnp.einsum("nhqd,nhkd->nhqk", query, key))
    scores = scores.astype(jnp.float32)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = lax.optimization_barrier(weights)
    inverse = 1 / weights.sum(-1, keepdims=True)
    mixed = jnp.einsum("nhqk,nhkd->nhqd", weights.astype(value.dtype), value)
    mixed = lax.optimization_barrier(mixed) * inverse.astype(value.dtype)
    return mixed.swapaxes(1, 2), weights * inverse


def _gradients(
    query: Array, key: Array, value: Array, weights: Array, gradient: Array
) -> tuple[Array, Array, Array]:
    dtype = query.dtype
    query, key, value, gradient = (_heads_first(x) for x in (query, key, value, gradient))
    weights = lax.optimization_barrier(weights)  # copies a block once, not at each use
    by_value = jnp.einsum("nhqd,nhqk->nhdk", gradient, weights.astype(dtype))
    by_weights = lax.optimization_barrier(jnp.einsum("nhqd,nhkd->nhqk", gradient, value))
    total = (weights * by_weights).sum(-1, keepdims=True)
    by_scores = lax.optimization_barrier((weights * (by_weights - total)).astype(dtype))
    by_query = jnp.einsum("nhqk,nhkd->nhqd", by_scores, key)
    by_key = jnp.einsum("nhqd,nhqk->nhdk", query, by_scores)
    by_query, by_key, by_value = lax.optimization_barrier((by_query, by_key, by_value))
    return by_query.swapaxes(1, 2), jnp.moveaxis(by_key, 3, 1), jnp.moveaxis(by_value, 3, 1)


def _heads_first(x: Heads) -> Float[Array, "n h t d"]:
    # The barrier keeps the transpose apart from the product that reads it.
    return lax.optimization_barrier(x.swapaxes(1, 2))
