"""Hybrid vision transformer (Dosovitskiy et al. 2021): a ResNet's feature map gives the tokens.

``r26_s32`` and ``r50_b16`` are google-research/vision_transformer's R26+ViT-S/32 and R50+ViT-B/16:
weight-standardised convolutions, 'SAME' padding, GroupNorm, pre-norm transformer blocks, a class
token. Parameters are named after timm's (``block0/attn/qkv`` is ``blocks.0.attn.qkv``).
"""

import functools
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import initializers, norms
from leukjax.models.layers import (
    StandardizedConv,
    add_perturbation,
    check_options,
    dot_general,
    run_block,
    stochastic_depth_rates,
)
from leukjax.models.registry import register_model, register_preset
from leukjax.models.resnet import Block
from leukjax.models.tokens import add_tokens
from leukjax.models.transformer import TransformerBlock


class Variant(NamedTuple):
    """Sizes of a hybrid."""

    stages: tuple[int, ...]  # ResNet blocks per stage; stride 4, doubled by each later stage
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
    """Returns the number of pixels along one side of an image that become one token."""
    return 2 ** (len(VARIANTS[variant].stages) + 1)


class HybridViT(nn.Module):
    """Images to logits; position embeddings tie the parameters to one image size.

    Attributes:
      num_classes: number of logits.
      variant: ``small``, ``r26_s32`` or ``r50_b16``.
      norm, norm_batch: of the ResNet, as in `resnet.ResNet`; the references have ``group``.
      zero_init: the scale of each ResNet block's last normalisation starts at 0.
      dropout: rate after the position embeddings, in the transformer blocks and before the head.
      stochastic_depth: rate of the last transformer block, growing linearly from 0.
      gelu_tanh: the tanh approximation of GELU, as in google-research's code; timm has the exact.
      dtype: of convolutions and matrix products; parameters, statistics, softmax, head: float32.
      remat: recompute the inside of each block in the backward pass, to save memory.
    """

    num_classes: int
    variant: str = "small"
    norm: str = "group"
    norm_batch: int = 0
    zero_init: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    gelu_tanh: bool = True
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    resnet_block: ClassVar[type[Block]] = Block
    transformer_block: ClassVar[type[TransformerBlock]] = TransformerBlock
    norm_layers: ClassVar[norms.Layers] = norms.Layers()

    def __post_init__(self) -> None:
        check_options(self, variant=VARIANTS, gelu_tanh=(True, False))
        super().__post_init__()

    @property
    def description(self) -> str:
        """Human-readable name, for reports."""
        return f"hybrid ViT ({self.variant})"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        variant, size = VARIANTS[self.variant], min(images.shape[1:3])
        if size <= stride(self.variant):
            raise UserError(
                f"image_size={size}: too small for the hybrid_vit {self.variant}, whose patches "
                f"are {stride(self.variant)} pixels wide; give more than {stride(self.variant)}"
            )
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        x = self._resnet(images, variant.stages, train=train)
        x = add_perturbation(self, "feature_map", x)
        self.sow("intermediates", "feature_map", x)
        x = nn.Dense(
            variant.features,
            dtype=self.dtype,
            kernel_init=initializers.fan_in,
            dot_general=dot_general,
            name="embedding",
        )(x)
        x = dropout(add_tokens(self, x))

        for number, drop in enumerate(stochastic_depth_rates(self.stochastic_depth, variant.depth)):
            block = self.transformer_block(
                variant.heads,
                self.dropout,
                drop,
                self.gelu_tanh,
                self.dtype,
                name=f"block{number}",
            )
            x, weights = run_block(block, x, train=train, remat=self.remat)
            if weights is not None:
                self.sow("intermediates", "attention", weights)
        pooled = nn.LayerNorm(epsilon=1e-6, name="norm")(x[:, 0])
        self.sow("intermediates", "pooled", pooled)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")
        logits = head(dropout(pooled))
        self.sow("intermediates", "logits", logits)
        return logits

    def _resnet(
        self, images: Float[Array, "n h w 3"], stages: tuple[int, ...], *, train: bool
    ) -> Float[Array, "n p q c"]:
        conv = functools.partial(StandardizedConv, padding="SAME", dtype=self.dtype)
        norm = norms.make_norm(self.norm, self.norm_batch, self.norm_layers)
        x = conv(STEM_WIDTH, (7, 7), (2, 2), name="stem_conv")(images)
        x = norm(name="stem_norm")(x, train=train, relu=True, pool=((3, 3), (2, 2), "SAME"))
        for stage, blocks in enumerate(stages):
            for number in range(blocks):
                block = self.resnet_block(
                    STEM_WIDTH * 2**stage,
                    bottleneck=True,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    conv=conv,
                    norm=norm,
                    zero_init=self.zero_init,
                    name=f"stage{stage + 1}_{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
        return x


register_model("hybrid_vit", HybridViT)
register_preset("hybrid_vit_small", "hybrid_vit", variant="small")
# As in timm, which computes GELU exactly.
register_preset("vit_small_r26_s32_224", "hybrid_vit", variant="r26_s32", gelu_tanh=False)
register_preset("vit_base_r50_s16", "hybrid_vit", variant="r50_b16", gelu_tanh=False)
