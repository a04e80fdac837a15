"""Integrated gradients: a share of the score for every pixel, which sum up to all of it.

They do so only where the integral is computed closely enough; `incompleteness` says how far it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leukjax.explain.attribution.network import Kind, Network, score


def integrated_gradients(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    baseline: Float[Array, "#n #h #w 3"],
    kind: Kind,
    steps: int,
    power: int = 1,
    part: tuple[Float[Array, ""] | float, Float[Array, ""] | float] = (0.0, 1.0),
) -> Float[Array, "n h w"]:
    """Integrated gradients (Sundararajan et al. 2017, equation 1), summed over channels.

    (x - b) times the mean gradient of the score on the straight way from the baseline b to the
    image x. *Completeness*: the sum over pixels is score(x) - score(b), up to the error of the
    integral, which is taken by Gauss and Legendre's rule.

    Args:
      baseline: normalised, as the images are; see `pixel_baseline`.
      steps: points on the way, each a forward and a backward pass.
      part: start and end of the stretch of the way that is integrated over, before `power`; the sum
        over stretches is the whole.
      power: places on the way are taken to this power, so that more lie near the baseline. A
        GroupNorm has next to no spread to divide by in an image of one colour, and the score leaves
        it in a jump: 1 misses that, 4 does not.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    start, length = part[0], part[1] - part[0]
    places = start + length * jnp.asarray((nodes + 1) / 2, jnp.float32)
    shares = length * jnp.asarray(weights / 2, jnp.float32) * power * places ** (power - 1)
    way = places**power, shares
    baseline = jnp.broadcast_to(baseline, images.shape)

    @jax.grad
    def gradient(at: Array) -> Array:
        return score(network.logits(at), targets, kind).sum()

    def add(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = step
        return total + weight * gradient(baseline + place * (images - baseline)), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(images), way)
    return ((images - baseline) * mean).sum(-1)


# An error of completeness up to this share of the score's change is tolerated.
TOLERANCE = 0.05
# Where the score changes by less than this (in log-odds) there is nothing to explain, and rounding
# would be compared with nothing.
LEAST_CHANGE = 1e-3


def incompleteness(
    totals: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    baseline_scores: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Error of completeness as a share of the score's change.

    Args:
      totals: sum of each map over its pixels.
      scores, baseline_scores: of the image and of the baseline.
    """
    change = np.asarray(scores, np.float64) - np.asarray(baseline_scores, np.float64)
    return np.abs(totals - change) / np.maximum(np.abs(change), LEAST_CHANGE)


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
