"""Big Transfer (Kolesnikov et al. 2020): a ResNet made to be fine-tuned.

Pre-activation bottlenecks (He et al. 2016b), weight-standardised convolutions and GroupNorm.
Nothing depends on the batch, and the weights that Google published start it. Parameters are named
after timm's (``stage1_0/norm1/scale`` is ``stages.0.blocks.0.norm1.weight``).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import norms
from leukjax.models.cpu.pooling import max_pool
from leukjax.models.layers import (
    StandardizedConv,
    StochasticDepth,
    exposed,
    linear_rates,
    run_block,
)
from leukjax.models.resnet import EXPANSION, STAGES


class PreActivationBlock(nn.Module):
    """A bottleneck whose normalisations and ReLUs come before its convolutions.

    Attributes:
      width: channels inside the block.
      strides: of its 3x3 convolution and of the shortcut.
      drop: probability that an image skips the block's residual in training.
      lean: in training, a normalisation and its ReLU are one (`lean_norms`).
    """

    width: int
    strides: tuple[int, int]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop: float = 0.0
    lean: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n p q o"]:
        followed = functools.partial(norms.followed, train=train, lean=self.lean)
        plan = [
            (self.width, 1, (1, 1)),
            (self.width, 3, self.strides),
            (self.width * EXPANSION, 1, (1, 1)),
        ]
        shortcut, y = x, x
        for number, (features, window, stride) in enumerate(plan, 1):
            y = followed(self.norm(name=f"norm{number}"), y, norms.After())
            if number == 1 and (self.strides != (1, 1) or x.shape[-1] != plan[-1][0]):
                shortcut = self.conv(plan[-1][0], (1, 1), self.strides, name="downsample_conv")(y)
            y = self.conv(features, (window, window), stride, name=f"conv{number}")(y)
        y = StochasticDepth(self.drop, name="stochastic_depth")(y, train=train)
        return shortcut + y


class BiT(nn.Module):
    """Images to logits, for images of any size.

    Attributes:
      depth: 50, 101 or 152.
      width: channels of the first stage; each later stage doubles them. BiT's "x1" is 64.
      norm, norm_batch: as in ``resnet.ResNet``; the published weights have ``group``.
      dropout: before the head.
      stochastic_depth: rate of the last block, growing linearly from 0.
      remat: compute the inside of each block again in the backward pass, to save memory.
      dtype: of convolutions; parameters, statistics, pooling and head are float32.
      lean: as in ``resnet.ResNet``.
    """

    classes: int
    depth: int = 50
    width: int = 64
    norm: str = "group"
    norm_batch: int = 0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    lean: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        if self.depth < 50:
            raise UserError(f"--config.model.depth={self.depth}: bit has 50, 101 and 152")
        norm = functools.partial(norms.chosen(self.norm, self.norm_batch), epsilon=1e-5)
        conv = functools.partial(
            StandardizedConv, padding="HALF", dtype=self.dtype, in_variance=True
        )
        x: Any = conv(self.width, (7, 7), (2, 2), name="stem_conv")(images)
        # No ReLU before it, so that the zeros around it, which are the reference's, can be maxima.
        x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), "VALID")

        drops = iter(linear_rates(self.stochastic_depth, sum(STAGES[self.depth])))
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                block = PreActivationBlock(
                    self.width * 2**stage,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    conv=conv,
                    norm=norm,
                    drop=next(drops),
                    lean=self.lean,
                    name=f"stage{stage + 1}_{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
        x = norms.followed(norm(name="norm"), x, norms.After(), train=train, lean=self.lean)
        x = exposed(self, "feature_map", x)
        self.sow("intermediates", "feature_map", x)

        pooled = jnp.mean(x.astype(jnp.float32), (1, 2))
        self.sow("intermediates", "pooled", pooled)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="head")(pooled)
        self.sow("intermediates", "logits", logits)
        return logits
