"""Parts of ours that a row of compiled.py does without; each function changes this process."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from leukjax.models import bit, cnn, hybrid_vit, norms, registry
from leukjax.models.fused import norms as lean_norms
from leukjax.models.fused import transformer
from leukjax.models.layers import resolve_padding


def _without(field: str, value: bool = False) -> None:
    make_module = registry.model_from_config

    def changed(*given: Any) -> nn.Module:
        module = make_module(*given)
        return module.clone(**{field: value}) if hasattr(module, field) else module

    registry.model_from_config = changed


def without_folding() -> None:
    """A bottleneck's convolutions and BatchNorms one after the other."""
    _without("fold")


def without_lean() -> None:
    """Layer by layer, as on a CPU or TPU (what folds is folded)."""
    _without("lean")


def without_layers() -> None:
    """The lean forms where they are not the default: on a TPU."""
    _without("lean", True)


def without_lean_norms() -> None:
    """Normalisations and what comes after them one after the other."""
    followed = norms.followed
    norms.followed = lambda *given, train, lean: followed(*given, train=train, lean=False)


def without_lean_pool() -> None:
    """A normalisation and its ReLU as one, the max pool and its own gradient after it."""
    _pooled_by(norms.max_pool)


def without_one_sum() -> None:
    """The two sums of a normalisation's backward pass as two."""

    def two(x: jax.Array, gradient: jax.Array, found: Any) -> tuple[jax.Array, jax.Array]:
        centred = x.astype(jnp.float32) - found.mean[:, None]
        return jnp.sum(gradient, 1), jnp.sum(gradient * centred, 1) * found.inverse

    lean_norms.two_sums = two


def without_lean_transformer() -> None:
    """Transformer blocks layer by layer, their normalisations and products by Flax."""
    block = hybrid_vit.TransformerBlock
    hybrid_vit.TransformerBlock = lambda *given, **named: block(*given[:5], **named)


def without_attention_by_xla() -> None:
    """The candidate in Pallas in its place."""
    import pallas_attention

    transformer.attend = pallas_attention.attend


def _pooled_by(max_pool: Callable[..., jax.Array]) -> None:
    followed = norms.followed

    def apart(norm: Any, x: Any, after: Any, *, train: bool, lean: bool) -> jax.Array:
        y = followed(norm, x, after._replace(pool=None), train=train, lean=lean)
        return y if after.pool is None else max_pool(y, *after.pool)

    norms.followed = apart


def without_own_norm() -> None:
    """Flax's BatchNorm and GroupNorm, their gradient by autodiff (and so nothing folded)."""
    without_folding()
    without_lean_norms()
    norms.chosen = lambda norm, norm_batch: FlaxGroup if norm == "group" else FlaxBatch


class FlaxBatch(nn.Module):
    """``nn.BatchNorm`` with the calls of ours."""

    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalised features."""
        norm = nn.BatchNorm(not train, momentum=0.9, dtype=x.dtype, scale_init=self.scale_init)
        return norm(x)


class FlaxGroup(nn.Module):
    """``nn.GroupNorm`` with the calls of ours."""

    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalised features."""
        del train
        return nn.GroupNorm(
            math.gcd(32, x.shape[-1]),
            epsilon=self.epsilon,
            dtype=x.dtype,
            scale_init=self.scale_init,
        )(x)


def without_own_pool() -> None:
    """``nn.max_pool`` and its gradient by autodiff."""

    def max_pool(x: jax.Array, size: Any, strides: Any, padding: Any) -> jax.Array:
        return nn.max_pool(x, size, strides, resolve_padding(padding, x.shape[1:3], size, strides))

    _pooled_by(max_pool)
    for module in (bit, cnn, norms):
        module.max_pool = max_pool


WITHOUT: dict[str, Callable[[], None]] = {
    "folding": without_folding,
    "lean": without_lean,
    "layer by layer": without_layers,
    "lean norms": without_lean_norms,
    "lean pool": without_lean_pool,
    "one sum": without_one_sum,
    "lean transformer": without_lean_transformer,
    "attention by XLA": without_attention_by_xla,
    "own norm": without_own_norm,
    "own pool": without_own_pool,
}
