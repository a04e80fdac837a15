"""ResNet v1.5 (He et al. 2016), as in torchvision: a bottleneck strides in its 3x3 convolution.

Padding, order of operations and parameter counts are those of timm and torchvision. Parameters are
named after theirs: ``layer1_0/conv1/kernel`` is ``layer1.0.conv1.weight``, ``norm1`` is ``bn1``,
``downsample_conv`` is ``downsample.0`` (`leukjax.weights.names`).
"""

import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.models import norms
from leukjax.models.initializers import fan_in
from leukjax.models.layers import (
    Conv,
    StochasticDepth,
    add_perturbation,
    check_options,
    run_block,
    stochastic_depth_rates,
)
from leukjax.models.registry import register_model, register_preset

# Blocks per stage; from depth 50 on, a block is a bottleneck.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4  # a bottleneck of width w has 4 w output channels


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

    Attributes:
      width: channels of the 3x3 convolutions; a bottleneck returns `EXPANSION` times as many.
      bottleneck: whether the block is a bottleneck.
      strides: strides of the first 3x3 convolution and of the projection shortcut.
      conv: makes a convolution; takes features, kernel size and strides.
      norm: makes a layer of `models.norms`. It normalises; then, where its call says so, adds the
        shortcut, applies a ReLU, and max pools. As one layer, `models.fused` can replace them all.
      zero_init: start the scale of the last normalisation at 0.
      drop_rate: probability, in training, that the residual branch of an image is set to 0.
    """

    width: int
    bottleneck: bool
    strides: tuple[int, int]
    conv: functools.partial[Any]
    norm: functools.partial[Any]
    zero_init: bool
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n p q o"]:
        y = x
        # The last convolution is made in `finish_block`, which a fused block replaces.
        if self.bottleneck:
            y = self.conv(self.width, (1, 1), name="conv1")(y)
            y = self.norm(name="norm1")(y, train=train, relu=True)
            y = self.conv(self.width, (3, 3), self.strides, name="conv2")(y)
            y = self.norm(name="norm2")(y, train=train, relu=True)
            make_last_conv = functools.partial(
                self.conv, self.width * EXPANSION, (1, 1), name="conv3"
            )
        else:
            y = self.conv(self.width, (3, 3), self.strides, name="conv1")(y)
            y = self.norm(name="norm1")(y, train=train, relu=True)
            make_last_conv = functools.partial(self.conv, self.width, (3, 3), name="conv2")
        return self.finish_block(x, y, make_last_conv, train=train)

    def finish_block(
        self, x: Array, y: Array, make_last_conv: functools.partial[Any], *, train: bool
    ) -> Float[Array, "n p q o"]:
        """Applies the last convolution and normalisation, adds the shortcut, and applies the ReLU.

        `models.fused.FusedBlock` overrides this: it does not make the last convolution, but
        computes it together with the normalisation.

        Args:
          x: input of the block.
          y: input of its last convolution.
          make_last_conv: makes that convolution.
          train: whether this is a training step.
        """
        y = make_last_conv()(y)
        if x.shape != y.shape:  # the block changes the shape: project the shortcut to the new one
            x = self.conv(y.shape[-1], (1, 1), self.strides, name="downsample_conv")(x)
            x = self.norm(name="downsample_norm")(x, train=train)
        return self.normalize_and_add(y, x, train=train)

    def normalize_and_add(self, y: Any, shortcut: Array, *, train: bool) -> Float[Array, "n p q o"]:
        """Normalises `y`, adds the shortcut, and applies the ReLU.

        Args:
          y: output of the last convolution; in `models.fused`, its input and kernel, which are not
            multiplied yet.
          shortcut: input of the block, or its projection.
          train: whether this is a training step.
        """
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        norm = self.norm(name="norm3" if self.bottleneck else "norm2", scale_init=scale_init)
        if self.drop_rate == 0:
            return norm(y, train=train, shortcut=shortcut, relu=True)
        # The residual is dropped after its normalisation, so the sum is not part of that layer.
        y = StochasticDepth(self.drop_rate, name="stochastic_depth")(
            norm(y, train=train), train=train
        )
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """Maps normalised images float[n, h, w, 3] of any size to logits float32[n, num_classes].

    Attributes:
      num_classes: number of logits.
      depth: 18, 34, 50, 101 or 152.
      width: channels inside the blocks of the first stage; doubled in each later stage.
      norm: ``batch``, ``group`` or ``frozen`` (BatchNorm that uses its stored averages in training
        too; scale and bias are trained).
      norm_batch: consecutive images that share BatchNorm statistics; 0 = the whole batch.
      zero_init: the scale of each block's last normalisation starts at 0, so that its residual
        branch starts at 0 (Goyal et al. 2017).
      dropout: rate before the head.
      stochastic_depth: `Block.drop_rate` of the last block; it grows linearly from 0 at the first
        block (Huang et al. 2016).
      dtype: dtype of convolutions; parameters, statistics, pooling and head are float32.
      remat: recompute the activations of each block in the backward pass, to save memory.
    """

    num_classes: int
    depth: int = 50
    width: int = 64
    norm: str = "batch"
    norm_batch: int = 0
    zero_init: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    # Subclasses in `models.fused` replace these. They are not fields of the module.
    block: ClassVar[type[Block]] = Block
    norm_layers: ClassVar[norms.Layers] = norms.Layers()

    def __post_init__(self) -> None:
        check_options(self, depth=STAGES)
        super().__post_init__()

    @property
    def description(self) -> str:
        """Human-readable name, for reports."""
        return f"ResNet-{self.depth}"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        norm = norms.make_norm(self.norm, self.norm_batch, self.norm_layers)
        # "HALF" pads kernel_size // 2 on every side, as PyTorch does; that is not "SAME".
        conv = functools.partial(Conv, padding="HALF", dtype=self.dtype)
        x = conv(self.width, (7, 7), (2, 2), name="conv1")(images)
        # pool: window, strides, padding
        x = norm(name="norm1")(x, train=train, relu=True, pool=((3, 3), (2, 2), "HALF"))

        drop_rates = iter(stochastic_depth_rates(self.stochastic_depth, sum(STAGES[self.depth])))
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                block = self.block(
                    self.width * 2**stage,
                    bottleneck=self.depth >= 50,
                    strides=(2, 2) if stage > 0 and number == 0 else (1, 1),
                    conv=conv,
                    norm=norm,
                    zero_init=self.zero_init,
                    drop_rate=next(drop_rates),
                    name=f"layer{stage + 1}_{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
        # Zeros, unless a caller passes others to get the gradient by the feature map.
        x = add_perturbation(self, "feature_map", x)
        # What is sown is read by name, by probes and explanations for instance.
        self.sow("intermediates", "feature_map", x)

        pooled = jnp.mean(x.astype(jnp.float32), (1, 2))
        self.sow("intermediates", "pooled", pooled)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        logits = nn.Dense(self.num_classes, kernel_init=fan_in, name="fc")(pooled)
        self.sow("intermediates", "logits", logits)
        return logits


register_model("resnet", ResNet)
for _depth in STAGES:
    register_preset(f"resnet{_depth}", "resnet", depth=_depth)
