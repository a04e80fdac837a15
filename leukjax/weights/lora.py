"""LoRA (Hu et al. 2022, ICLR): fine-tunes a transformer by low-rank updates of frozen matrices.

The kernel W[inputs, outputs] of each matrix in `TARGETS` becomes W + (alpha / rank) A B, with
A[inputs, rank] and B[rank, outputs]. B starts at 0, so the first step computes what the published
weights compute. Only A, B and the head are trained. The rest, the *base*, is frozen: it has no
gradient, the optimizer keeps no state for it, and checkpoints leave it out. It is read from
``init.weights``, whose checksum the run records (`leukjax.weights.base`).
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from leukjax.errors import UserError
from leukjax.models.summary import layer_groups

TARGETS = ("attn/qkv", "attn/proj", "fc1", "fc2", "w12", "w3")  # the last two: SwiGLU

_TARGET = re.compile(rf"(^|/)({'|'.join(TARGETS)})/kernel$")
_A, _B = "lora_a", "lora_b"
_KEY = 2**32 - 2  # of the initialisation; a module's own keys come from its names


@dataclasses.dataclass(frozen=True)
class Lora:
    """Sizes of the updates.

    Attributes:
      rank: of each update; 0: no LoRA, everything is trained.
      alpha: the updates are multiplied by alpha / rank.
    """

    rank: int = 0
    alpha: float = 0.0

    @classmethod
    def of(cls, options: ConfigDict) -> "Lora":
        """From ``config.optimizer``; an alpha of 0 means twice the rank."""
        return cls(options.lora_rank, options.lora_alpha or 2.0 * options.lora_rank)

    @property
    def scale(self) -> float:
        """The factor of the updates."""
        return self.alpha / self.rank if self.rank else 0.0

    def split(self, params: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Returns what is frozen and what is trained of the parameters of a model.

        Args:
          params: of the model.
          key: for A, which is uniform in ±1 / sqrt(inputs), as in the authors' code.

        Returns:
          The base: the parameters without the head; {} at rank 0. And the head with A and B beside
          each kernel in `TARGETS`; `params` at rank 0.

        Raises:
          UserError: the model has no such kernel.
        """
        if not self.rank:
            return {}, params
        flat = traverse_util.flatten_dict(params, sep="/")
        groups = layer_groups(flat)
        head = max(groups.values())
        base = {path: value for path, value in flat.items() if groups[path] != head}
        trained = {path: value for path, value in flat.items() if groups[path] == head}
        targets = sorted(path for path in base if _TARGET.search(path))
        if not targets:
            raise UserError(
                f"--config.optimizer.lora_rank={self.rank}: the model has no {', '.join(TARGETS)}; "
                "LoRA is for transformers: set 0, or freeze layers (optimizer.freeze_stages)"
            )
        key = jax.random.fold_in(key, _KEY)
        for number, path in enumerate(targets):
            inputs, *outputs = base[path].shape
            bound = 1 / math.sqrt(inputs)
            place = path.removesuffix("kernel")
            trained[place + _A] = jax.random.uniform(
                jax.random.fold_in(key, number), (inputs, self.rank), jnp.float32, -bound, bound
            )
            trained[place + _B] = jnp.zeros((self.rank, *outputs), jnp.float32)
        return tuple(traverse_util.unflatten_dict(part, sep="/") for part in (base, trained))

    def shapes(self, params: Any) -> tuple[Any, Any]:
        """Returns the shapes of what `split` returns, from those of the parameters."""
        return jax.eval_shape(lambda tree: self.split(tree, jax.random.key(0)), params)


ALL_TRAINED = Lora()


def merge(base: Any, trained: Any, scale: float) -> Any:
    """Returns the parameters of the model from what `Lora.split` returned, after training.

    No gradient is computed for the base.
    """
    flat = traverse_util.flatten_dict(trained, sep="/")
    merged = traverse_util.flatten_dict(jax.lax.stop_gradient(base), sep="/")
    for path, value in flat.items():
        place, _, leaf = path.rpartition("/")
        if leaf == _B:
            update = jnp.tensordot(flat[f"{place}/{_A}"], value, 1)
            kernel = f"{place}/kernel"
            merged[kernel] = merged[kernel] + scale * update
        elif leaf != _A:
            merged[path] = value
    return traverse_util.unflatten_dict(merged, sep="/")
