"""Parts of ours that a row of compiled.py does without; each function changes this process."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from leukjax.models import bit, cnn, fused, norms
from leukjax.models.fused import norms as fused_norms
from leukjax.models.fused import transformer
from leukjax.models.layers import resolve_padding
from leukjax.models.resnet import Block
from leukjax.models.transformer import TransformerBlock


def _replace_norms(layers: norms.Layers) -> None:
    """Replaces the fused normalisations of all models, unless that has been done."""
    for model in (fused.FusedCNN, fused.FusedBiT, fused.FusedResNet, fused.FusedHybridViT):
        if model.norm_layers is fused_norms.LAYERS:
            model.norm_layers = layers


def without_folding() -> None:
    """A bottleneck's convolutions and BatchNorms one after the other."""
    for model in (fused.FusedResNet, fused.ConvFusedResNet):
        model.block = Block
    for model in (fused.FusedHybridViT, fused.ConvFusedHybridViT):
        model.resnet_block = Block


def without_lean() -> None:
    """Layer by layer, except for convolutions that are fused with their BatchNorm."""
    without_lean_norms()
    without_lean_transformer()


def without_layers() -> None:
    """All fused forms on a TPU, where the default is those of convolutions only."""
    fused._TPU.update(fused._ALL)


def without_lean_norms() -> None:
    """Normalisations and what comes after them one after the other."""
    _replace_norms(fused_norms.CONV_LAYERS)


def without_lean_pool() -> None:
    """A normalisation and its ReLU fused, the max pool and its own gradient after it."""
    _pooled_by(norms.max_pool)


def without_one_sum() -> None:
    """The two sums of a normalisation's backward pass as two."""

    def two(x: jax.Array, gradient: jax.Array, statistics: Any) -> tuple[jax.Array, jax.Array]:
        centred = x.astype(jnp.float32) - statistics.mean[:, None]
        return jnp.sum(gradient, 1), jnp.sum(gradient * centred, 1) * statistics.inverse

    fused_norms.two_sums = two


def without_lean_transformer() -> None:
    """Transformer blocks layer by layer, their normalisations and products by Flax."""
    fused.FusedHybridViT.transformer_block = TransformerBlock


def without_attention_by_xla() -> None:
    """The candidate in Pallas in its place."""
    import pallas_attention

    transformer.attend = pallas_attention.attend


def _pooled_by(max_pool: Callable[..., jax.Array]) -> None:
    def apart(norm: type[nn.Module]) -> type[nn.Module]:
        class Apart(norm):  # type: ignore[misc, valid-type]
            def normalize(self, *given: Any) -> Any:
                *rest, after = given
                y, mean, variance = super().normalize(*rest, after._replace(pool=None))
                return y if after.pool is None else max_pool(y, *after.pool), mean, variance

        return Apart

    layers = fused_norms.LAYERS
    _replace_norms(norms.Layers(apart(layers.batch), apart(layers.group)))


def without_own_norm() -> None:
    """Flax's BatchNorm and GroupNorm, their gradient by autodiff (and so nothing fused)."""
    without_folding()
    _replace_norms(norms.Layers(FlaxBatch, FlaxGroup))  # type: ignore[arg-type]


class FlaxBatch(nn.Module):
    """``nn.BatchNorm`` with the calls of ours."""

    sub_batch: int = 0
    frozen: bool = False
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **after: Any) -> jax.Array:
        """Normalises by Flax."""
        norm = nn.BatchNorm(not train, momentum=0.9, dtype=x.dtype, scale_init=self.scale_init)
        return norms.After(**after).apply(norm(x))


class FlaxGroup(nn.Module):
    """``nn.GroupNorm`` with the calls of ours."""

    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, **after: Any) -> jax.Array:
        """Normalises by Flax."""
        del train
        norm = nn.GroupNorm(
            math.gcd(32, x.shape[-1]),
            epsilon=self.epsilon,
            dtype=x.dtype,
            scale_init=self.scale_init,
        )
        return norms.After(**after).apply(norm(x))


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
