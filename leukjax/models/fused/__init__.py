"""Forms of the models that fuse normalisation with what surrounds it, for training in bfloat16.

Parameters, their names and, up to rounding, all numbers are those of the models. A form is used
where ``model.fused`` is on; ``auto`` is on for the kinds of devices in `MEASURED`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from leukjax.models.bit import BiT
from leukjax.models.cnn import CNN
from leukjax.models.fused.conv_norm import Pointwise, pays_by_image
from leukjax.models.fused.norms import CONV_LAYERS, LAYERS, FusedNorm
from leukjax.models.fused.transformer import FusedTransformerBlock
from leukjax.models.hybrid_vit import HybridViT
from leukjax.models.layers import Conv, StandardizedConv
from leukjax.models.norms import BatchNorm
from leukjax.models.resnet import EXPANSION, Block, ResNet
from leukjax.models.vit import ViT

# Device kind (its first words) -> the row of docs/development/performance_devices.md that shows the
# fused forms to be at least 5 % faster there. Nothing has been measured yet.
MEASURED: dict[str, str] = {}


class PointwiseConv(Conv):
    """A 1x1 `Conv` that leaves the multiplication to the normalisation after it."""

    def convolve(self, x: Array, kernel: Array) -> Pointwise:  # type: ignore[override]
        """Returns both factors."""
        rows, columns = self.strides
        return Pointwise(x[:, ::rows, ::columns], kernel)


class StandardizedPointwiseConv(StandardizedConv):
    """The same with standardised weights."""

    def convolve(self, x: Array, kernel: Array) -> Pointwise:  # type: ignore[override]
        """Returns both factors."""
        rows, columns = self.strides
        return Pointwise(x[:, ::rows, ::columns], kernel)


_POINTWISE: dict[Any, Any] = {
    Conv: PointwiseConv,
    StandardizedConv: StandardizedPointwiseConv,
}


class FusedBlock(Block):
    """A `Block` that, as a bottleneck in training, never writes what it would normalise."""

    def finish_block(
        self, x: Array, y: Array, make_last_conv: functools.partial[Any], *, train: bool
    ) -> Float[Array, "n p q o"]:
        """Returns the end of the block."""
        if not (train and self.bottleneck and self._fuses(y)):
            return super().finish_block(x, y, make_last_conv, train=train)
        features = self.width * EXPANSION
        conv = functools.partial(_POINTWISE[self.conv.func], **self.conv.keywords)
        if x.shape != (*y.shape[:3], features):
            factors = conv(features, (1, 1), self.strides, name="downsample_conv")(x)
            x = self.norm(name="downsample_norm")(factors, train=True)
        return self.normalize_and_add(conv(features, (1, 1), name="conv3")(y), x, train=True)

    def _fuses(self, y: Float[Array, "n h w c"]) -> bool:
        """Whether this block's normalisation has a fused form that pays."""
        norm: Any = self.norm.func
        if not issubclass(norm, FusedNorm) or self.norm.keywords.get("frozen"):
            return False
        return issubclass(norm, BatchNorm) or pays_by_image(y)


class FusedCNN(CNN):
    """`CNN` with fused normalisation, ReLU and max pool."""

    norm_layers = LAYERS


class FusedBiT(BiT):
    """`BiT` with fused normalisation and ReLU."""

    norm_layers = LAYERS


class FusedResNet(ResNet):
    """`ResNet` with all fused forms."""

    norm_layers = LAYERS
    block = FusedBlock


class FusedHybridViT(HybridViT):
    """`HybridViT` with all fused forms."""

    norm_layers = LAYERS
    resnet_block = FusedBlock
    transformer_block = FusedTransformerBlock


class FusedViT(ViT):
    """`ViT` with fused transformer blocks."""

    transformer_block = FusedTransformerBlock


class ConvFusedResNet(ResNet):
    """`ResNet` with BatchNorm fused into the 1x1 convolution before it."""

    norm_layers = CONV_LAYERS
    block = FusedBlock


class ConvFusedHybridViT(HybridViT):
    """`HybridViT` with BatchNorm fused into the 1x1 convolution before it."""

    norm_layers = CONV_LAYERS
    resnet_block = FusedBlock


_ALL: dict[type[nn.Module], type[nn.Module]] = {
    CNN: FusedCNN,
    BiT: FusedBiT,
    ResNet: FusedResNet,
    HybridViT: FusedHybridViT,
    ViT: FusedViT,
}
# Compiled for a TPU, the other forms move more bytes: docs/development/performance_devices.md.
_TPU: dict[type[nn.Module], type[nn.Module]] = {
    ResNet: ConvFusedResNet,
    HybridViT: ConvFusedHybridViT,
}


def apply(module: nn.Module, choice: str, platform: str, dtype: Any) -> nn.Module:
    """Returns the fused form of a model, or the model where there is none or it is off.

    Args:
      module: a model.
      choice: ``on``, ``off``, or ``auto``: on where it was measured as faster.
      platform: ``cpu``, ``gpu`` or ``tpu``.
      dtype: of the computation; there are fused forms for bfloat16 only.
    """
    if choice == "auto":
        kind = jax.local_devices()[0].device_kind if platform == jax.default_backend() else ""
        choice = "on" if any(kind.startswith(start) for start in MEASURED) else "off"
    if choice == "off" or dtype != jnp.bfloat16:
        return module
    return fuse(module, platform)


def fuse(module: nn.Module, platform: str) -> nn.Module:
    """Returns the fused form of a model for a platform, or the model if there is none."""
    form = (_TPU if platform == "tpu" else _ALL).get(type(module))
    if form is None:
        return module
    options = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    return form(**options)
