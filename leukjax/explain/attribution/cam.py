"""Class activation maps: what a layer of a convolutional network gives, weighted by gradients.

All take the output A[n, p, q, k] of a layer and G = d score / d A, and give maps float32[n, p, q]
of the layer's own size, at least 0. `network.tapped` makes A and G.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def grad_cam(
    output: Float[Array, "n p q k"], gradient: Float[Array, "n p q k"]
) -> Float[Array, "n p q"]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): relu of sum_k mean_pq(G_k) A_k."""
    weights = gradient.mean((1, 2), keepdims=True)
    return jnp.maximum((weights * output).sum(-1), 0)


def grad_cam_plus_plus(
    output: Float[Array, "n p q k"], gradient: Float[Array, "n p q k"], epsilon: float = 0.0
) -> Float[Array, "n p q"]:
    """Grad-CAM++ (Chattopadhay et al. 2018, equations 10, 11 and 19).

    The weight of channel k is the sum over places of alpha relu(G), with
    alpha = G^2 / (2 G^2 + sum_pq(A) G^3): where a network ends in exp(score), these are its second
    and third derivatives.

    Args:
      epsilon: added to the denominator. pytorch-grad-cam adds 1e-6, and so lets the size of the
        gradients decide: behind a mean over 49 places G^2 is often smaller than that. 0 needs none:
        after a ReLU the denominator is at least 2 G^2.
    """
    total = output.sum((1, 2), keepdims=True)
    # Divided by G^2, so that the squares of small gradients are not lost to float32.
    square = jnp.where(gradient != 0, gradient**2, 1)
    below = 2 + total * gradient + epsilon / square
    alpha = jnp.where((gradient != 0) & (below != 0), 1 / jnp.where(below == 0, 1, below), 0)
    weights = (alpha * jnp.maximum(gradient, 0)).sum((1, 2), keepdims=True)
    return jnp.maximum((weights * output).sum(-1), 0)


def hires_cam(
    output: Float[Array, "n p q k"], gradient: Float[Array, "n p q k"]
) -> Float[Array, "n p q"]:
    """HiResCAM (Draelos & Carin 2020): relu of sum_k G_k A_k, place by place.

    Before the ReLU it sums up to the score (less the bias) where only a linear layer follows, of
    the map itself or of its mean; Grad-CAM, which averages the gradient first, only in the latter
    case.
    """
    return jnp.maximum((gradient * output).sum(-1), 0)
