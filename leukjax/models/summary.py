"""The structure of a model: its layers with their parameters and FLOPs, and groups of parameters.

Everything follows from shapes: nothing is compiled or computed.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from leukjax.models.transformer import Attention

# First module of a parameter's path, in the order of the forward pass; a number in it orders
# further.
_ORDER = (
    r"stem_(?:conv|norm)",
    r"(?:conv|norm)(\d+)",
    r"(?:layer|stage)(\d+)_\d+",
    r"embedding|cls_token|pos_embed|reg_token",
    r"block(\d+)",
    r"norm|hidden",
    r"fc|head|classifier|logits",
)
_UNKNOWN = _ORDER.index(r"block(\d+)")  # where modules with other names are


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer.

    Attributes:
      path: names of the modules that contain it and its own, joined by "/".
      shape: of its output for one image.
      parameters: number of trained parameters.
      flops: of a forward pass per image; a multiplication with its addition counts as two.
    """

    path: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """All layers that have parameters or multiply matrices, in the order of the forward pass.

    FLOPs are those of convolutions and matrix products, as usual; the rest is a few per cent.
    """

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Number of trained parameters of the model."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass per image."""
        return sum(row.flops for row in self.rows)

    def text(self) -> str:
        """Returns a table for a terminal: one line per block, and the totals."""
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
    """Returns the layers of a model for images of ``image_size`` pixels per side."""
    rows: dict[str, Row] = {}  # a layer that is called twice has its parameters once

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            path = "/".join(context.module.path)
            row = _row(path, context.module, args, output)
            if row and path in rows:
                rows[path] = dataclasses.replace(row, flops=rows[path].flops + row.flops)
            elif row:
                rows[path] = row
        return output

    def init() -> Any:
        with nn.intercept_methods(record):
            images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
            return module.init(jax.random.key(0), images, train=False)

    params = jax.eval_shape(init).get("params", {})
    held = [
        Row(name, leaf.shape[1:], leaf.size, 0) for name, leaf in params.items() if _is_array(leaf)
    ]
    return Summary((*held, *rows.values()))


def _row(path: str, layer: nn.Module, args: Any, output: Any) -> Row | None:
    """None for the model itself, and for a module without parameters of its own."""
    if not path:
        return None
    if isinstance(layer, Attention):
        # Scores, and the mixture of the values: each tokens x tokens x features.
        tokens, features = args[0].shape[1:]
        return Row(path, (tokens, features), 0, 2 * 2 * tokens * tokens * features)
    params = layer.variables.get("params", {})
    held = {name: leaf for name, leaf in params.items() if _is_array(leaf)}
    if not held:
        return None
    shape = output.shape[1:] if _is_array(output) else ()
    flops = 0
    if "kernel" in held and shape:
        features = getattr(layer, "features", held["kernel"].shape[-1])
        outputs = math.prod(features) if isinstance(features, tuple) else features
        flops = 2 * held["kernel"].size * (math.prod(shape) // outputs)
    return Row(path, shape, sum(leaf.size for leaf in held.values()), flops)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")


def layer_groups(paths: Iterable[str], order: Sequence[str] = _ORDER) -> dict[str, int]:
    """Groups parameters by depth, for freezing and for learning rates that depend on depth.

    Groups are the stem, each stage of a ResNet, the embedding of the tokens, each transformer
    block, what follows them, and last the head. Modules with names of which nothing is known are
    one group each, in natural order of their names.

    Args:
      paths: of all parameters of a model, as in ``layer1_0/conv1/kernel``.
      order: regular expressions for the first module of a path, from the images to the head.

    Returns:
      The group of each parameter, counted from 0 at the images.
    """
    keys = {path: _position(path.split("/")[0], order) for path in paths}
    groups = {key: number for number, key in enumerate(sorted(set(keys.values())))}
    return {path: groups[key] for path, key in keys.items()}


def _position(module: str, order: Sequence[str]) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    for number, expression in enumerate(order):
        match = re.fullmatch(expression, module)
        if match:
            return number, int(match[1]) if match.re.groups else 0, ()
    parts = re.findall(r"(\D*)(\d*)", module)  # branch2, branch10
    return _UNKNOWN, -1, tuple((text, int(digits or 0)) for text, digits in parts)
