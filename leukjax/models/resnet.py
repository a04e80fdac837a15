"""ResNet (He et al. 2016), version 1.5: a bottleneck's stride sits in its 3x3 convolution.

Padding, order of operations and parameter counts are those of timm and torchvision; parameters
are named after theirs (``layer1_0/conv1/kernel`` is ``layer1.0.conv1.weight``).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import norms
from leukjax.models.fused import conv_norm
from leukjax.models.initializers import fan_in
from leukjax.models.layers import Conv, StochasticDepth, exposed, linear_rates, run_block

# Blocks a stage; from depth 50 on, a block is a bottleneck.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4  # output channels of a bottleneck, in widths


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

    Attributes:
      width: channels inside the block.
      strides: of its 3x3 (first 3x3) convolution and of the shortcut.
      drop: probability that an image skips the block's residual in training.
      fold: of a bottleneck, see `folded`.
      by_image: fold only where statistics of each image are less to move than its features.
      lean: in training, normalisations and what comes after them are one (`lean_norms`).
    """

    width: int
    bottleneck: bool
    strides: tuple[int, int]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    zero_init: bool
    drop: float = 0.0
    fold: bool = False
    by_image: bool = False
    lean: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n p q o"]:
        width, strides = self.width, self.strides
        if self.bottleneck:
            plan = [(width, 1, (1, 1)), (width, 3, strides), (width * EXPANSION, 1, (1, 1))]
        else:
            plan = [(width, 3, strides), (width, 3, (1, 1))]

        followed = functools.partial(norms.followed, train=train, lean=self.lean)
        y = x
        for number, (features, window, stride) in enumerate(plan[:-1], 1):
            y = self.conv(features, (window, window), stride, name=f"conv{number}")(y)
            y = followed(self.norm(name=f"norm{number}"), y, norms.After())
        pays = not self.by_image or conv_norm.pays_by_image(y)
        if train and self.fold and pays:
            return self._folded(x, y, strides)

        (features, window, stride), number = plan[-1], len(plan)
        y = self.conv(features, (window, window), stride, name=f"conv{number}")(y)
        if x.shape != y.shape:
            x = self.conv(features, (1, 1), strides, name="downsample_conv")(x)
            x = followed(self.norm(name="downsample_norm"), x, norms.After(relu=False))
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        norm = self.norm(name=f"norm{number}", scale_init=scale_init)
        if self.drop == 0:
            return followed(norm, y, norms.After(shortcut=x))
        y = followed(norm, y, norms.After(relu=False))
        y = StochasticDepth(self.drop, name="stochastic_depth")(y, train=train)
        return nn.relu(x + y)

    def _folded(self, x: Array, y: Array, strides: tuple[int, int]) -> Array:
        """The end of a bottleneck in training, without the features before its normalisations."""
        features = self.width * EXPANSION
        conv = functools.partial(self.conv, features, (1, 1), pending=True)
        if x.shape != (*y.shape[:3], features):
            pending = conv(strides, name="downsample_conv")(x)
            x = self.norm(name="downsample_norm")(*pending, train=True)
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        norm = self.norm(name="norm3", scale_init=scale_init)
        pending = conv(name="conv3")(y)
        if self.drop == 0:
            return norm(*pending, train=True, shortcut=x)
        y = norm(*pending, train=True)
        y = StochasticDepth(self.drop, name="stochastic_depth")(y, train=True)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images to logits, for images of any size.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      width: channels of the first stage; each later stage doubles them.
      norm: ``batch``, ``group`` or ``frozen`` (batch normalisation that never looks at the batch).
      norm_batch: images a BatchNorm sub-batch, 0 = the whole batch.
      zero_init: the scale of each block's last normalisation starts at 0, so that a block begins
        as the identity (Goyal et al. 2017).
      dropout: before the head.
      stochastic_depth: rate of the last block, growing linearly from 0 (Huang et al. 2016).
      dtype: of convolutions; parameters, statistics, pooling and head are float32.
      remat: compute the inside of each block again in the backward pass, to save memory.
      fold: in training, a bottleneck's wide convolutions and their BatchNorms are one (`folded`).
      lean: in training, normalisations and what comes after them are one (`lean_norms`).
    """

    classes: int
    depth: int = 50
    width: int = 64
    norm: str = "batch"
    norm_batch: int = 0
    zero_init: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    fold: bool = False
    lean: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        norm = norms.chosen(self.norm, self.norm_batch)
        conv = functools.partial(Conv, padding="HALF", dtype=self.dtype)
        x: Any = conv(self.width, (7, 7), (2, 2), name="conv1")(images)
        after = norms.After(pool=((3, 3), (2, 2), "HALF"))
        x = norms.followed(norm(name="norm1"), x, after, train=train, lean=self.lean)

        block = functools.partial(
            Block,
            bottleneck=self.depth >= 50,
            conv=conv,
            norm=norm,
            zero_init=self.zero_init,
            fold=self.fold and self.norm == "batch" and self.depth >= 50,
            lean=self.lean,
        )
        drops = iter(linear_rates(self.stochastic_depth, sum(STAGES[self.depth])))
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                own = block(
                    self.width * 2**stage,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    drop=next(drops),
                    name=f"layer{stage + 1}_{number}",
                )
                x = run_block(own, x, train=train, remat=self.remat)
        x = exposed(self, "feature_map", x)
        self.sow("intermediates", "feature_map", x)

        pooled = jnp.mean(x.astype(jnp.float32), (1, 2))
        self.sow("intermediates", "pooled", pooled)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = nn.Dense(self.classes, kernel_init=fan_in, name="fc")(pooled)
        self.sow("intermediates", "logits", logits)
        return logits
