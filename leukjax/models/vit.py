"""Vision transformers (Dosovitskiy et al. 2021) as timm and DINOv2 (Oquab et al. 2023) build them.

Square patches, a class token, learned positions and pre-norm blocks with an exact GELU. DINOv2 adds
LayerScale, its giant SwiGLU, and its later models four registers (Darcet et al. 2024). Foundation
models of blood cells (DinoBloom, RedDino) and of tissue (UNI) have these architectures. Parameters
are named after timm's (``block0/attn/qkv`` is ``blocks.0.attn.qkv``).
"""

import functools
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, DTypeLike, Float

from leukjax.errors import UserError
from leukjax.models import initializers
from leukjax.models.layers import (
    add_perturbation,
    check_options,
    dot_general,
    run_block,
    stochastic_depth_rates,
)
from leukjax.models.registry import register_model, register_preset
from leukjax.models.tokens import add_tokens
from leukjax.models.transformer import TransformerBlock


class Variant(NamedTuple):
    """Sizes of a vision transformer, and the parts that it has."""

    patch: int  # pixels per side
    width: int  # features of a token
    depth: int  # transformer blocks
    heads: int
    mlp: str = "gelu"  # or swiglu
    layer_scale: float = 0.0  # initial factor of the branches; 0: none
    registers: int = 0


# The letter is the width, the number the patch.
VARIANTS = {
    "tiny": Variant(8, 192, 6, 3),  # for images of 48 to 96 px
    "s16": Variant(16, 384, 12, 6),
    "b16": Variant(16, 768, 12, 12),
    "l16": Variant(16, 1024, 24, 16),
    "s14": Variant(14, 384, 12, 6, layer_scale=1e-5),
    "b14": Variant(14, 768, 12, 12, layer_scale=1e-5),
    "l14": Variant(14, 1024, 24, 16, layer_scale=1e-5),
    "g14": Variant(14, 1536, 40, 24, "swiglu", layer_scale=1e-5),
    "s14_reg4": Variant(14, 384, 12, 6, layer_scale=1e-5, registers=4),
    "b14_reg4": Variant(14, 768, 12, 12, layer_scale=1e-5, registers=4),
    "l14_reg4": Variant(14, 1024, 24, 16, layer_scale=1e-5, registers=4),
    "g14_reg4": Variant(14, 1536, 40, 24, "swiglu", layer_scale=1e-5, registers=4),
    "uni": Variant(16, 1024, 24, 16, layer_scale=1e-5),
    "uni2_h": Variant(14, 1536, 24, 24, "swiglu", layer_scale=1e-5, registers=8),
}

POOLS = ("class", "mean", "both")


def stride(variant: str) -> int:
    """Returns the number of pixels along one side of an image that become one token."""
    return VARIANTS[variant].patch


class PatchEmbedding(nn.Module):
    """One linear map of all pixels of each patch."""

    patch: int
    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p q d"]:
        count, height, width, channels = images.shape
        side, rows, columns = self.patch, height // self.patch, width // self.patch
        shape = (side, side, channels, self.features)
        kernel = self.param("kernel", initializers.fan_in, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = images.astype(self.dtype).reshape(count, rows, side, columns, side, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows, columns, side * side * channels)
        kernel = kernel.astype(self.dtype).reshape(-1, self.features)
        return dot_general(x, kernel, (((3,), (0,)), ((), ()))) + bias.astype(self.dtype)


class ViT(nn.Module):
    """Images to logits; position embeddings tie the parameters to one image size.

    Attributes:
      num_classes: number of logits.
      variant: a key of `VARIANTS`.
      pool: input of the head, after the last normalisation: ``class`` token, ``mean`` of the patch
        tokens, or ``both``, concatenated (DINOv2's linear probes).
      dropout: rate after the position embeddings, in the transformer blocks and before the head.
      stochastic_depth: rate of the last transformer block, growing linearly from 0.
      gelu_tanh: the tanh approximation of GELU; timm and DINOv2 compute it exactly.
      dtype: of matrix products; parameters, statistics, softmax, head: float32.
      remat: recompute the inside of each block in the backward pass, to save memory.
    """

    num_classes: int
    variant: str = "tiny"
    pool: str = "class"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    gelu_tanh: bool = False
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    transformer_block: ClassVar[type[TransformerBlock]] = TransformerBlock

    def __post_init__(self) -> None:
        check_options(self, variant=VARIANTS, pool=POOLS, gelu_tanh=(True, False))
        super().__post_init__()

    @property
    def description(self) -> str:
        """Human-readable name, for reports."""
        return f"ViT ({self.variant})"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w 3"], *, train: bool) -> Float[Array, "n c"]:
        variant = VARIANTS[self.variant]
        _check_size(self.variant, images.shape[1:3])
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        x = PatchEmbedding(variant.patch, variant.width, self.dtype, name="embedding")(images)
        grid = x.shape[1:3]
        x = dropout(add_tokens(self, x, variant.registers))
        for number, drop in enumerate(stochastic_depth_rates(self.stochastic_depth, variant.depth)):
            block = self.transformer_block(
                variant.heads,
                self.dropout,
                drop,
                self.gelu_tanh,
                self.dtype,
                variant.mlp,
                variant.layer_scale,
                name=f"block{number}",
            )
            if number == variant.depth - 1 and not train and self.pool != "mean":
                x, weights = block(x, train=False, expose=functools.partial(self._expose, grid))
            else:
                x, weights = run_block(block, x, train=train, remat=self.remat)
            if weights is not None:
                self.sow("intermediates", "attention", weights)
        pooled = self._pooled(x, grid)
        self.sow("intermediates", "pooled", pooled)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")
        logits = head(dropout(pooled))
        self.sow("intermediates", "logits", logits)
        return logits

    def _expose(self, grid: tuple[int, ...], x: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Sows patch tokens as ``feature_map``: the last ones that the score depends on.

        The class token reads them in the attention of the last block, after a normalisation. Before
        it, the gradient of a token would be orthogonal to the token, and their product 0.
        """
        first = x.shape[1] - grid[0] * grid[1]
        patches = x[:, first:].reshape(x.shape[0], *grid, -1)
        exposed = add_perturbation(self, "feature_map", patches)
        self.sow("intermediates", "feature_map", exposed)
        if exposed is patches:
            return x
        return jnp.concatenate([x[:, :first], exposed.reshape(x[:, first:].shape)], axis=1)

    def _pooled(self, x: Float[Array, "n t d"], grid: tuple[int, ...]) -> Float[Array, "n f"]:
        """Returns the input of the head, and sows the normalised ``patch_tokens`` as a map."""
        norm = nn.LayerNorm(epsilon=1e-6, name="norm")
        token, patches = norm(x[:, 0]), norm(x[:, x.shape[1] - grid[0] * grid[1] :])
        if self.pool == "mean":
            patches = self._expose(grid, patches)
        self.sow("intermediates", "patch_tokens", patches.reshape(x.shape[0], *grid, -1))
        if self.pool == "class":
            return token
        mean = jnp.mean(patches, axis=1)
        return mean if self.pool == "mean" else jnp.concatenate([token, mean], axis=-1)


def _check_size(variant: str, sizes: tuple[int, ...]) -> None:
    """Raises UserError if patches do not divide the images."""
    patch, size = stride(variant), min(sizes)
    if any(side % patch for side in sizes):
        below = size // patch * patch
        fix = f"{below} or {below + patch}" if below else str(patch)
        raise UserError(
            f"image_size={size}: not a multiple of {patch}, the side of a patch of the vit "
            f"{variant}; give {fix}"
        )


def _register_presets() -> None:
    sizes = {"small": "s", "base": "b", "large": "l", "giant": "g"}
    names = {"vit_tiny_patch8": "tiny", "uni": "uni", "uni2_h": "uni2_h"}
    for size, letter in sizes.items():
        if letter != "g":
            names[f"vit_{size}_patch16_224"] = f"{letter}16"
            names[f"reddino_{size}"] = f"{letter}14"
        names[f"vit_{size}_patch14_dinov2"] = f"{letter}14"
        names[f"vit_{size}_patch14_reg4_dinov2"] = f"{letter}14_reg4"
        names[f"dinobloom_{letter}"] = f"{letter}14"
    for name, variant in names.items():
        register_preset(name, "vit", variant=variant)


register_model("vit", ViT)
_register_presets()
