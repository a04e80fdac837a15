"""The tokens of a vision transformer: class token, registers, and embeddings of positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from leukjax.errors import UserError
from leukjax.models import initializers


def add_tokens(
    module: nn.Module, x: Float[Array, "n p q d"], registers: int = 0
) -> Float[Array, "n t d"]:
    """Returns a class token, registers, and a feature map in reading order, with their positions.

    The parameters ``cls_token``, ``pos_embed`` and ``reg_token`` are the module's. Registers have
    no position (Darcet et al. 2024). In a model with registers the class token has none either, as
    in timm: its embedding would only be added to the token itself.

    Raises:
      UserError: the module has position embeddings for a feature map of another size.
    """
    images, rows, columns, features = x.shape
    first = 0 if registers else 1  # whether the class token has a position
    shape = (1, first + rows * columns, features)
    if module.has_variable("params", "pos_embed"):
        known = module.get_variable("params", "pos_embed").shape[1] - first
        if known != rows * columns:
            raise UserError(
                f"image_size: these images give a feature map of {rows} x {columns}, and there "
                f"are position embeddings for {known} tokens; use the image size of the "
                "training, or resize_position_embeddings"
            )
    token = module.param("cls_token", nn.initializers.zeros, (1, 1, features), jnp.float32)
    positions = module.param("pos_embed", initializers.deviation(0.02), shape, jnp.float32)
    positions = positions.astype(x.dtype)
    token = jnp.broadcast_to(token, (images, 1, features)).astype(x.dtype)
    x = x.reshape(images, rows * columns, features)
    if not registers:
        return jnp.concatenate([token, x], axis=1) + positions
    shape = (1, registers, features)
    extra = module.param("reg_token", initializers.deviation(0.02), shape, jnp.float32)
    extra = jnp.broadcast_to(extra, (images, registers, features)).astype(x.dtype)
    return jnp.concatenate([token, extra, x + positions], axis=1)


def position_grid(tokens: int) -> tuple[int, int]:
    """Returns how position embeddings are divided, by their number.

    Returns:
      The number of those before the grid (1 for a class token, or 0), and the side of the square
      grid, 0 if there is none.
    """
    for first in (0, 1):
        side = math.isqrt(max(0, tokens - first))
        if side and side * side == tokens - first:
            return first, side
    return 0, 0


def resize_position_embeddings(
    embeddings: Float[Array, "1 t d"], grid: tuple[int, int], method: str = "bilinear"
) -> Float[Array, "1 u d"]:
    """Resizes position embeddings to a feature map of another size; a class token keeps its own.

    Args:
      embeddings: of the class token if it has one, then of a square grid in reading order.
      grid: rows and columns of the new feature map.
      method: ``bilinear`` or ``bicubic``, with antialiasing where the grid shrinks; ``dinov2``: as
        in the code of DINOv2 (Oquab et al. 2023), bicubic without antialiasing, for a grid that is
        a tenth of a patch larger.
    """
    first, side = position_grid(embeddings.shape[1])
    if (side, side) == grid:
        return embeddings
    token, positions = embeddings[:, :first], embeddings[0, first:].reshape(side, side, -1)
    if method == "dinov2":
        by_row, by_column = (_dinov2_weights(side, size) for size in grid)
        positions = jnp.einsum("ip,jq,pqd->ijd", by_row, by_column, positions)
    else:
        positions = jax.image.resize(positions, (*grid, positions.shape[-1]), method)
    return jnp.concatenate([token, positions.reshape(1, grid[0] * grid[1], -1)], axis=1)


def _dinov2_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Weights of PyTorch's bicubic interpolation: a = -0.75, and edges are repeated."""
    positions = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    nearest = np.floor(positions).astype(int)
    weights = np.zeros((new, old), np.float32)
    for offset in (-1, 0, 1, 2):
        x = np.abs(positions - nearest - offset)
        near = (1.25 * x - 2.25) * x * x + 1
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        columns = np.clip(nearest + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), columns), np.where(x <= 1, near, far))
    return weights
