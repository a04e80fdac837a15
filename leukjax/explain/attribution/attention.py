"""Where a transformer's class token looks: attention rollout, and attention weighted by gradients.

Tokens are the class token and then the places of a square feature map in reading order; maps are
float32[n, p, p].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leukjax.explain.attribution.network import Kind, Network, score, side


def rollout(weights: Sequence[Float[Array, "n h t t"]]) -> Float[Array, "n p p"]:
    """Attention rollout (Abnar & Zuidema 2020): the product over blocks of (A + 1) / 2.

    A is the mean over heads; the identity stands for the shortcut. It knows no class and no values:
    it says where a network could have looked, not what it made of it.

    Args:
      weights: of each block, first to last; softmaxed over the last axis.
    """
    tokens = weights[0].shape[-1]
    flow = jnp.eye(tokens)
    for each in weights:
        flow = (each.mean(1) + jnp.eye(tokens)) / 2 @ flow
    return _of_class_token(flow)


def gradient_weighted(
    weights: Sequence[Float[Array, "n h t t"]], gradients: Sequence[Float[Array, "n h t t"]]
) -> Float[Array, "n p p"]:
    """Relevance of each place for a class (Chefer et al. 2021, ICCV, equations 5 and 6).

    R = 1 at first; at each block R <- R + mean over heads of relu(dscore/dA * A) times R.
    """
    flow = jnp.eye(weights[0].shape[-1])
    for each, gradient in zip(weights, gradients, strict=True):
        flow = flow + jnp.maximum(each * gradient, 0).mean(1) @ flow
    return _of_class_token(flow)


def attended(
    network: Network, images: Float[Array, "n h w 3"]
) -> tuple[Float[Array, "n h t t"], ...]:
    """Attention of each block."""
    return network.seen(images)["attention"]


def attended_with_gradients(
    network: Network, images: Float[Array, "n h w 3"], targets: Int[Array, " n"], kind: Kind
) -> tuple[tuple[Array, ...], list[Array]]:
    """Attention of each block, and the gradient of each image's score by it."""
    shapes = jax.eval_shape(lambda: attended(network, images))
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    def total(added: list[Array]) -> tuple[Array, tuple[Array, ...]]:
        given = {f"block{i}": {"attn": {"attention": each}} for i, each in enumerate(added)}
        logits, kept = network.module.apply(
            {**network.variables, "perturbations": given},
            images,
            train=False,
            mutable=["intermediates"],
        )
        weights = kept["intermediates"]["attention"]
        return score(logits.astype(jnp.float32), targets, kind).sum(), weights

    gradients, weights = jax.grad(total, has_aux=True)(zeros)
    return weights, gradients


def _of_class_token(flow: Float[Array, "n t t"]) -> Float[Array, "n p p"]:
    rows = side(flow.shape[-1] - 1)
    return flow[:, 0, 1:].reshape(-1, rows, rows)
