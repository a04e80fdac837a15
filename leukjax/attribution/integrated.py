"""Integrated gradients: a share of the score for every pixel, which sum up to all of it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leukjax.attribution.network import Kind, Network, score


def integrated_gradients(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    baseline: Float[Array, "#n #h #w 3"],
    kind: Kind,
    steps: int,
    power: int = 1,
) -> Float[Array, "n h w"]:
    """Integrated gradients (Sundararajan et al. 2017, equation 1), summed over channels.

    (x - b) times the mean gradient of the score on the straight way from the baseline b to the
    image x. *Completeness*: the sum over pixels is score(x) - score(b), up to the error of the
    integral, which is taken by Gauss and Legendre's rule.

    Args:
      baseline: normalised, as the images are; see `pixel_baseline`.
      steps: points on the way, each a forward and a backward pass.
      power: places on the way are taken to this power, so that more lie near the baseline. A
        GroupNorm has next to no spread to divide by in an image of one colour, and the score leaves
        it in a jump: 1 misses that, 4 does not.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places, weights = (nodes + 1) / 2, weights / 2
    weights = weights * power * places ** (power - 1)
    way = jnp.asarray(places**power, jnp.float32), jnp.asarray(weights, jnp.float32)
    baseline = jnp.broadcast_to(baseline, images.shape)

    @jax.grad
    def gradient(at: Array) -> Array:
        return score(network.logits(at), targets, kind).sum()

    def add(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = step
        return total + weight * gradient(baseline + place * (images - baseline)), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(images), way)
    return ((images - baseline) * mean).sum(-1)


BASELINES = ("mean", "black", "blurred")


def pixel_baseline(
    name: str, mean: Float[Array, " 3"], std: Float[Array, " 3"]
) -> Float[Array, "1 1 1 3"]:
    """The normalised colour that stands for "nothing there".

    Args:
      name: ``mean``: the mean colour of the training cells, which is 0 after normalisation: one
        colour, neither cell nor background. ``black``: what a black background looks like;
        dark pixels of the cell then count little because they are dark. (``blurred``, an image and
        no colour, is `curves.blurred`.)
      mean, std: of the normalisation, in [0, 1].
    """
    colour = jnp.zeros(3) if name == "mean" else (0 - jnp.asarray(mean)) / jnp.asarray(std)
    return colour.reshape(1, 1, 1, 3).astype(jnp.float32)
