"""Hybrid vision transformer (Dosovitskiy et al. 2021): a ResNet's feature map becomes the tokens.

``r26_s32`` and ``r50_b16`` are google-research/vision_transformer's R26+ViT-S/32 and R50+ViT-B/16:
weight-standardised convolutions, 'SAME' padding, GroupNorm, pre-norm transformer blocks, a class
token. Parameters are named after timm's (``block0/attn/qkv`` is ``blocks.0.attn.qkv``).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import initializers, norms
from leukjax.models.layers import (
    StandardizedConv,
    dot_general,
    exposed,
    linear_rates,
    run_block,
)
from leukjax.models.resnet import Block as ResNetBlock
from leukjax.models.transformer import TransformerBlock


class Variant(NamedTuple):
    """Sizes of a hybrid."""

    stages: tuple[int, ...]  # ResNet blocks a stage; the stride is 4, doubled by each later stage
    features: int  # of a token
    depth: int  # transformer blocks
    heads: int


VARIANTS = {
    "small": Variant(stages=(2, 2), features=192, depth=6, heads=3),  # stride 8: for 48 to 128 px
    "r26_s32": Variant(stages=(2, 2, 2, 2), features=384, depth=12, heads=6),
    "r50_b16": Variant(stages=(3, 4, 9), features=768, depth=12, heads=12),
}
STEM_WIDTH = 64


def stride(variant: str) -> int:
    """Pixels along one side of an image that become one token."""
    return 2 ** (len(VARIANTS[variant].stages) + 1)


class HybridViT(nn.Module):
    """Images to logits; position embeddings tie the parameters to one image size.

    Attributes:
      variant: ``small``, ``r26_s32`` or ``r50_b16``.
      norm, norm_batch: of the ResNet, as in ``resnet.ResNet``; the references have ``group``.
      zero_init: the scale of each ResNet block's last normalisation starts at 0.
      dropout: after the position embeddings, in the transformer's blocks and before the head.
      stochastic_depth: of the transformer's blocks, growing linearly from 0 to this at the last.
      fold: as in ``resnet.ResNet``; with GroupNorm only in lean form, where it pays.
      lean: in training, with fewest passes over a GPU's memory (`lean_norms`, `lean_transformer`).
      gelu_tanh: the tanh approximation of GELU, as in google-research's code; timm has the exact.
      dtype: of convolutions and matrix products; parameters, statistics, softmax, head: float32.
      remat: compute the inside of each block again in the backward pass, to save memory.
    """

    classes: int
    variant: str = "small"
    norm: str = "group"
    norm_batch: int = 0
    zero_init: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    fold: bool = False
    lean: bool = False
    gelu_tanh: bool = True
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        variant = VARIANTS[self.variant]
        pixels, size = stride(self.variant), min(images.shape[1:3])
        if size <= pixels:
            raise UserError(
                f"--config.data.image_size={size}: too small for the hybrid_vit {self.variant}, "
                f"whose transformer sees one place in {pixels} pixels; give more than {pixels}"
            )
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        x = self._resnet(images, variant.stages, train=train)
        x = exposed(self, "feature_map", x)
        self.sow("intermediates", "feature_map", x)
        x = nn.Dense(
            variant.features,
            dtype=self.dtype,
            kernel_init=initializers.fan_in,
            dot_general=dot_general,
            name="embedding",
        )(x)
        x = dropout(self._tokens(x))

        drops = linear_rates(self.stochastic_depth, variant.depth)
        for number, drop in enumerate(drops):
            block = TransformerBlock(
                variant.heads,
                self.dropout,
                drop,
                self.gelu_tanh,
                self.dtype,
                self.lean,
                name=f"block{number}",
            )
            x, weights = run_block(block, x, train=train, remat=self.remat)
            if weights is not None:
                self.sow("intermediates", "attention", weights)
        pooled = nn.LayerNorm(epsilon=1e-6, name="norm")(x[:, 0])
        self.sow("intermediates", "pooled", pooled)
        logits = nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="head")(
            dropout(pooled)
        )
        self.sow("intermediates", "logits", logits)
        return logits

    def _resnet(
        self, images: Float[Array, "n h w 3"], stages: tuple[int, ...], *, train: bool
    ) -> Float[Array, "n p q c"]:
        conv = functools.partial(StandardizedConv, padding="SAME", dtype=self.dtype)
        norm = norms.chosen(self.norm, self.norm_batch)
        by_image = self.lean and self.norm == "group"
        x: Any = conv(STEM_WIDTH, (7, 7), (2, 2), name="stem_conv")(images)
        after = norms.After(pool=((3, 3), (2, 2), "SAME"))
        x = norms.followed(norm(name="stem_norm"), x, after, train=train, lean=self.lean)
        for stage, blocks in enumerate(stages):
            for number in range(blocks):
                block = ResNetBlock(
                    STEM_WIDTH * 2**stage,
                    bottleneck=True,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    conv=conv,
                    norm=norm,
                    zero_init=self.zero_init,
                    fold=self.fold and (self.norm == "batch" or by_image),
                    by_image=by_image,
                    lean=self.lean,
                    name=f"stage{stage + 1}_{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
        return x

    def _tokens(self, x: Float[Array, "n p q d"]) -> Float[Array, "n t d"]:
        """A class token, then the feature map in reading order, with position embeddings."""
        images, rows, columns, features = x.shape
        shape = (1, 1 + rows * columns, features)
        if self.has_variable("params", "pos_embed"):
            known = self.get_variable("params", "pos_embed").shape[1] - 1
            if known != rows * columns:
                raise UserError(
                    f"--config.data.image_size: these images give a feature map of {rows} x "
                    f"{columns}, the position embeddings are for {known} places; use the size of "
                    "the training, or resize_position_embeddings"
                )
        token = self.param("cls_token", nn.initializers.zeros, (1, 1, features), jnp.float32)
        places = self.param("pos_embed", initializers.deviation(0.02), shape, jnp.float32)
        token = jnp.broadcast_to(token, (images, 1, features)).astype(x.dtype)
        x = jnp.concatenate([token, x.reshape(images, rows * columns, features)], axis=1)
        return x + places.astype(x.dtype)


def resize_position_embeddings(
    embeddings: Float[Array, "1 t d"], grid: tuple[int, int], method: str = "bilinear"
) -> Float[Array, "1 u d"]:
    """Position embeddings for a feature map of another size; the class token's stays.

    Args:
      embeddings: of the class token and then of a square grid in reading order.
      grid: rows and columns of the new feature map.
      method: ``bilinear`` or ``bicubic``, smoothed where the grid shrinks.
    """
    side = math.isqrt(embeddings.shape[1] - 1)
    if (side, side) == grid:
        return embeddings
    token, places = embeddings[:, :1], embeddings[0, 1:]
    places = places.reshape(side, side, -1)
    places = jax.image.resize(places, (*grid, places.shape[-1]), method)
    return jnp.concatenate([token, places.reshape(1, grid[0] * grid[1], -1)], axis=1)
