"""The heat map of an answer: where in the image the runs find it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float32, Int, UInt8

from leukjax.apply.model import Model
from leukjax.images.normalize import standardize, to_float


class Heat:
    """Makes heat maps of a number of runs.

    Attributes:
      title: of the method, for people.
      runs: how many the map is the mean of: those that see the same pixels as the first.
    """

    def __init__(self, members: Sequence[Model]):
        """Choose the method."""
        self.title = "Gradient × input"
        self._rows = [i for i, member in enumerate(members) if member.recipe == members[0].recipe]
        self._members = [members[row] for row in self._rows]
        self.runs = len(self._rows)

    def maps(
        self, columns: Sequence[UInt8[np.ndarray, "n s s 3"]], targets: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n s s"]:
        """Maps in [0, 1] for up to `batch_size` images, for a class each.

        Each run's map is divided by its largest value before the mean.
        """
        total: Any = 0.0
        for row, member in zip(self._rows, self._members, strict=True):
            size = member.batch_size
            images = np.zeros((size, *columns[row].shape[1:]), np.uint8)
            images[: len(targets)] = columns[row]
            classes = np.zeros(size, np.int32)
            classes[: len(targets)] = targets
            found = _maps(member.module, member.variables,
                          tuple(np.asarray(member.preprocessing[name], np.float32)
                                for name in ("mean", "std")), images, classes)  # fmt: skip
            total = total + np.asarray(found)[: len(targets)]
        return np.asarray(total / self.runs, np.float32)


@functools.partial(jax.jit, static_argnames="module")
def _maps(
    module: nn.Module, variables: dict, statistics: tuple, images: Array, targets: Array
) -> Array:
    def score(normalized: Array) -> Array:
        logits: Any = module.apply(variables, normalized, train=False)
        return jnp.take_along_axis(logits, targets[:, None], 1).sum()

    normalized = standardize(to_float(images), *statistics)
    product = jnp.abs(jax.grad(score)(normalized) * normalized).sum(-1)
    width = max(1, images.shape[1] // 12) * 2 + 1
    soft = nn.avg_pool(product[..., None], (width, width), padding="SAME")[..., 0]
    return soft / jnp.maximum(soft.max((1, 2), keepdims=True), 1e-30)
