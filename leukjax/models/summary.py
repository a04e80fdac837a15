"""A model's layers, parameters and FLOPs, from shapes alone: nothing is compiled or computed."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from leukjax.models.transformer import Attention


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
      path: names of the modules down to it, joined by "/".
      shape: of its output for one image.
      parameters: number of trained numbers.
      flops: of a forward pass an image; a multiplication with its addition counts as two.
    """

    path: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """All layers that hold parameters or multiply matrices, in the order of the forward pass.

    FLOPs are those of convolutions and matrix products, as usual; the rest is a few per cent.
    """

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Trained numbers of the model."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Of a forward pass an image."""
        return sum(row.flops for row in self.rows)

    def text(self) -> str:
        """A table for a terminal: a line a block, and the totals."""
        blocks: dict[str, list[Row]] = {}
        for row in self.rows:
            blocks.setdefault(row.path.split("/")[0], []).append(row)
        lines = [("layer", "output", "parameters", "MFLOPs")]
        for name, rows in blocks.items():
            total = Summary(tuple(rows))
            shape = " x ".join(str(size) for size in rows[-1].shape)
            lines.append((name, shape, f"{total.parameters:,}", f"{total.flops / 1e6:,.1f}"))
        lines.append(("total", "", f"{self.parameters:,}", f"{self.flops / 1e6:,.1f}"))
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        return "\n".join(
            f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}  {flops:>{widths[3]}}"
            for name, shape, count, flops in lines
        )


def table(module: nn.Module, image_size: int) -> Summary:
    """The layers of a model for images of ``image_size`` pixels a side."""
    rows: list[Row] = []

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and layer.path:
            rows.extend(_rows(layer, args, output))
        return output

    def init() -> Any:
        with nn.intercept_methods(record):
            images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
            return module.init(jax.random.key(0), images, train=False)

    params = jax.eval_shape(init)["params"]
    own = [
        Row(name, leaf.shape[1:], leaf.size, 0) for name, leaf in params.items() if _is_array(leaf)
    ]
    return Summary((*own, *rows))


def _rows(layer: nn.Module, args: Any, output: Any) -> list[Row]:
    """None for a module that only holds others."""
    path = "/".join(layer.path)
    if isinstance(layer, Attention):
        # Scores, and the mixture of the values: each tokens x tokens x features.
        tokens, features = args[0].shape[1:]
        return [Row(path, (tokens, features), 0, 2 * 2 * tokens * tokens * features)]
    held = dict(layer.variables.get("params", {}))
    if not held or not all(_is_array(leaf) for leaf in held.values()):
        return []
    flops = 0
    if "kernel" in held:
        features = layer.features
        outputs = math.prod(features) if isinstance(features, tuple) else features
        flops = 2 * held["kernel"].size * (output[0].size // outputs)
    parameters = sum(leaf.size for leaf in held.values())
    return [Row(path, output.shape[1:], parameters, flops)]


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")
