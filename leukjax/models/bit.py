"""Big Transfer (Kolesnikov et al. 2020): a ResNet designed for fine-tuning.

Pre-activation bottlenecks (He et al. 2016b), weight-standardised convolutions and GroupNorm: no
result depends on the other images of the batch. Google published weights for it. Parameters are
named after timm's (``stage1_0/norm1/scale`` is ``stages.0.blocks.0.norm1.weight``).
"""

import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import norms
from leukjax.models.cpu.pooling import max_pool
from leukjax.models.layers import (
    StandardizedConv,
    StochasticDepth,
    add_perturbation,
    check_options,
    run_block,
    stochastic_depth_rates,
)
from leukjax.models.registry import register_model, register_preset
from leukjax.models.resnet import EXPANSION, STAGES

DEPTHS = (50, 101, 152)


class PreActivationBlock(nn.Module):
    """A bottleneck whose normalisations and ReLUs come before its convolutions.

    Attributes:
      width: channels inside the block.
      strides: of its 3x3 convolution and of the shortcut.
      conv: makes a convolution from features, window and strides.
      norm: makes a normalisation.
      drop_rate: probability that an image skips the block's residual in training.
    """

    width: int
    strides: tuple[int, int]
    conv: functools.partial[Any]
    norm: functools.partial[Any]
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n p q o"]:
        channels = self.width * EXPANSION
        y = self.norm(name="norm1")(x, train=train, relu=True)
        shortcut = x
        if self.strides != (1, 1) or x.shape[-1] != channels:
            shortcut = self.conv(channels, (1, 1), self.strides, name="downsample_conv")(y)
        y = self.conv(self.width, (1, 1), name="conv1")(y)
        y = self.norm(name="norm2")(y, train=train, relu=True)
        y = self.conv(self.width, (3, 3), self.strides, name="conv2")(y)
        y = self.norm(name="norm3")(y, train=train, relu=True)
        y = self.conv(channels, (1, 1), name="conv3")(y)
        return shortcut + StochasticDepth(self.drop_rate, name="stochastic_depth")(y, train=train)


class BiT(nn.Module):
    """Images to logits, for images of any size.

    Attributes:
      num_classes: number of logits.
      depth: 50, 101 or 152.
      width: channels of the first stage; each later stage doubles them. BiT's "x1" is 64.
      norm, norm_batch: as in `resnet.ResNet`; the published weights have ``group``.
      dropout: rate before the head.
      stochastic_depth: rate of the last block, growing linearly from 0.
      dtype: of convolutions; parameters, statistics, pooling and head are float32.
      remat: recompute the inside of each block in the backward pass, to save memory.
    """

    num_classes: int
    depth: int = 50
    width: int = 64
    norm: str = "group"
    norm_batch: int = 0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    norm_layers: ClassVar[norms.Layers] = norms.Layers()

    def __post_init__(self) -> None:
        check_options(self, depth=DEPTHS)
        super().__post_init__()

    @property
    def description(self) -> str:
        """Human-readable name, for reports."""
        return f"BiT R{self.depth}x{self.width / 64:g}"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        norm = norms.make_norm(self.norm, self.norm_batch, self.norm_layers, epsilon=1e-5)
        conv = functools.partial(
            StandardizedConv, padding="HALF", dtype=self.dtype, in_variance=True
        )
        x = conv(self.width, (7, 7), (2, 2), name="stem_conv")(images)
        # No ReLU comes before the max pool, so the reference's padding with zeros can be a maximum.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")

        drop_rates = iter(stochastic_depth_rates(self.stochastic_depth, sum(STAGES[self.depth])))
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                block = PreActivationBlock(
                    self.width * 2**stage,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    conv=conv,
                    norm=norm,
                    drop_rate=next(drop_rates),
                    name=f"stage{stage + 1}_{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
        x = norm(name="norm")(x, train=train, relu=True)
        x = add_perturbation(self, "feature_map", x)
        self.sow("intermediates", "feature_map", x)

        pooled = jnp.mean(x.astype(jnp.float32), (1, 2))
        self.sow("intermediates", "pooled", pooled)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")
        logits = head(pooled)
        self.sow("intermediates", "logits", logits)
        return logits


register_model("bit", BiT)
for _depth, _factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)):
    register_preset(f"resnetv2_{_depth}x{_factor}_bit", "bit", depth=_depth, width=64 * _factor)
