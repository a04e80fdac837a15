"""ResNet blocks whose last 1x1 convolution is fused with its normalisation in training."""

import functools
from typing import Any

from jaxtyping import Array, Float

from leukjax.models.fused.conv_norm import Pointwise, pays_by_image
from leukjax.models.fused.norms import FusedNorm
from leukjax.models.layers import Conv, StandardizedConv
from leukjax.models.norms import BatchNorm
from leukjax.models.resnet import EXPANSION, Block


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

    def add_residual(
        self, x: Array, y: Array, last: functools.partial[Any], *, train: bool
    ) -> Float[Array, "n p q o"]:
        """Returns the end of the block."""
        if not (train and self.bottleneck and self._fuses(y)):
            return super().add_residual(x, y, last, train=train)
        features = self.width * EXPANSION
        conv = functools.partial(_POINTWISE[self.conv.func], **self.conv.keywords)
        if x.shape != (*y.shape[:3], features):
            factors = conv(features, (1, 1), self.strides, name="downsample_conv")(x)
            x = self.norm(name="downsample_norm")(factors, train=True)
        return self.last_norm(conv(features, (1, 1), name="conv3")(y), x, train=True)

    def _fuses(self, y: Float[Array, "n h w c"]) -> bool:
        """Whether this block's normalisation has a fused form that pays."""
        norm: Any = self.norm.func
        if not issubclass(norm, FusedNorm) or self.norm.keywords.get("frozen"):
            return False
        return issubclass(norm, BatchNorm) or pays_by_image(y)
