"""The plain convolutional network that the literature compares with.

Four stages of a 3x3 convolution, normalisation, ReLU and 2x2 max pooling, then two fully connected
layers. The papers state no widths: doubling channels and 128 hidden units are our choice.
"""

import functools
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import norms
from leukjax.models.cpu.pooling import max_pool
from leukjax.models.initializers import fan_in
from leukjax.models.layers import Conv, add_perturbation, check_options, dot_general
from leukjax.models.registry import register_model

STAGES = 4
HIDDEN = 128
POOL: norms.Pool = ((2, 2), (2, 2), "VALID")


class CNN(nn.Module):
    """Images to logits; the fully connected layers tie the model to one image size.

    Attributes:
      num_classes: number of logits.
      width: channels of the first stage; each later stage doubles them.
      norm, norm_batch: as in `resnet.ResNet`.
      dropout: rate before the head.
      dtype: of convolutions and the hidden layer; parameters, statistics and head are float32.
      remat: recompute the inside of each stage in the backward pass, to save memory.
    """

    num_classes: int
    width: int = 32
    norm: str = "batch"
    norm_batch: int = 0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    norm_layers: ClassVar[norms.Layers] = norms.Layers()
    description: ClassVar[str] = "CNN"

    def __post_init__(self) -> None:
        check_options(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        if min(images.shape[1:3]) < 2**STAGES:
            raise UserError(
                f"image_size={min(images.shape[1:3])}: too small for the cnn, whose {STAGES} "
                f"max pools each halve it; give at least {2**STAGES}"
            )
        norm = norms.make_norm(self.norm, self.norm_batch, self.norm_layers)

        def stage_of(model: CNN, x: Array, stage: int) -> Array:
            x = Conv(model.width * 2**stage, (3, 3), dtype=model.dtype, name=f"conv{stage + 1}")(x)
            normalize = functools.partial(norm(name=f"norm{stage + 1}"), train=train, relu=True)
            if stage < STAGES - 1:
                return normalize(x, pool=POOL)
            x = add_perturbation(model, "feature_map", normalize(x))
            model.sow("intermediates", "feature_map", x)
            return max_pool(x, *POOL)

        x = images
        for stage in range(STAGES):
            call = functools.partial(stage_of, stage=stage)
            x = (nn.remat(call) if self.remat and train else call)(self, x)

        self._check_size(x[0].size, images.shape[1])
        dense = functools.partial(nn.Dense, kernel_init=fan_in, dot_general=dot_general)
        hidden = dense(HIDDEN, dtype=self.dtype, name="hidden")
        x = nn.relu(hidden(x.reshape(x.shape[0], -1))).astype(jnp.float32)
        self.sow("intermediates", "pooled", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes, kernel_init=fan_in, name="fc")(x)
        self.sow("intermediates", "logits", logits)
        return logits

    def _check_size(self, inputs: int, size: int) -> None:
        if self.has_variable("params", "hidden"):
            known: int = self.get_variable("params", "hidden")["kernel"].shape[0]
            if known != inputs:
                raise UserError(
                    f"image_size={size}: gives {inputs} inputs to the fully connected layer, which "
                    f"has {known}; use the image size of the training"
                )


register_model("cnn", CNN)
