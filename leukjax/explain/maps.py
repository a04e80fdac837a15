"""Attribution methods as pure functions: class activation maps, attention, gradients, occlusion.

A map is float32[p, q] for each image, larger where the image supports the class. Maps show what a
network uses, not what is true of the cell.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leukjax.explain.network import Kind, Network, score

# Tolerated error of completeness of integrated gradients, as a share of the score's change.
TOLERANCE = 0.05
# A smaller change of the score (in log-odds) is mostly rounding error: there is nothing to explain.
LEAST_CHANGE = 1e-3


# Class activation maps take the output A[n, p, q, k] of a layer and G = d score / d A
# (`network.layer_gradient`), and return maps of the layer's size, at least 0.


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

    The weight of channel k is the sum over positions of alpha relu(G), with
    alpha = G^2 / (2 G^2 + sum_pq(A) G^3): if a network ends in exp(score), these are its second
    and third derivatives.

    Args:
      epsilon: added to the denominator. pytorch-grad-cam adds 1e-6, which makes the result depend
        on the size of the gradients: behind a mean over 49 positions G^2 is often smaller. 0 is
        safe: after a ReLU the denominator is at least 2 G^2.
    """
    total = output.sum((1, 2), keepdims=True)
    # Divided by G^2, so that squares of small gradients do not underflow in float32.
    square = jnp.where(gradient != 0, gradient**2, 1)
    below = 2 + total * gradient + epsilon / square
    alpha = jnp.where((gradient != 0) & (below != 0), 1 / jnp.where(below == 0, 1, below), 0)
    weights = (alpha * jnp.maximum(gradient, 0)).sum((1, 2), keepdims=True)
    return jnp.maximum((weights * output).sum(-1), 0)


def hires_cam(
    output: Float[Array, "n p q k"], gradient: Float[Array, "n p q k"]
) -> Float[Array, "n p q"]:
    """HiResCAM (Draelos & Carin 2020): relu of sum_k G_k A_k at each position.

    Before the ReLU it sums to the score (minus the bias) if only a linear layer follows, of the map
    or of its mean; Grad-CAM, which averages the gradient first, only in the latter case.
    """
    return jnp.maximum((gradient * output).sum(-1), 0)


def rollout(
    weights: Sequence[Float[Array, "n h t t"]], patches: int | None = None, pool: str = "class"
) -> Float[Array, "n p p"]:
    """Attention rollout (Abnar & Zuidema 2020): the product over blocks of (A + 1) / 2.

    A is the mean over heads; the identity represents the shortcut. It depends on neither class nor
    values: it shows where the head can get information from, not how it is used.

    Args:
      weights: of each block, first to last; softmaxed over the last axis. Tokens are the class
        token, registers if there are any, then the patches of a square map in row-major order.
      patches: their number; None: all tokens but the first.
      pool: tokens that the head reads: ``class``, the ``mean`` of the patches, or ``both``.
    """
    tokens = weights[0].shape[-1]
    flow = jnp.eye(tokens)
    for block in weights:
        flow = (block.mean(1) + jnp.eye(tokens)) / 2 @ flow
    return _patch_map(flow, patches, pool)


def gradient_weighted_attention(
    weights: Sequence[Float[Array, "n h t t"]],
    gradients: Sequence[Float[Array, "n h t t"]],
    patches: int | None = None,
    pool: str = "class",
) -> Float[Array, "n p p"]:
    """Relevance of each position for a class (Chefer et al. 2021, ICCV, equations 5 and 6).

    R = 1 at first; at each block R <- R + mean over heads of relu(dscore/dA * A) times R.
    `patches` and `pool` are those of `rollout`.
    """
    flow = jnp.eye(weights[0].shape[-1])
    for block, gradient in zip(weights, gradients, strict=True):
        flow = flow + jnp.maximum(block * gradient, 0).mean(1) @ flow
    return _patch_map(flow, patches, pool)


def _patch_map(
    flow: Float[Array, "n t t"], patches: int | None, pool: str
) -> Float[Array, "n p p"]:
    """The rows of the tokens that the head reads, for the patches alone."""
    patches = patches or flow.shape[-1] - 1
    side = math.isqrt(patches)
    to_patches = flow[:, :, -patches:]
    token, mean = to_patches[:, 0], to_patches[:, -patches:].mean(1)
    read = {"class": token, "mean": mean, "both": (token + mean) / 2}[pool]
    return read.reshape(-1, side, side)


def integrated_gradients(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    baseline: Float[Array, "#n #h #w 3"],
    kind: Kind,
    steps: int,
    power: int = 1,
    segment: tuple[Float[Array, ""] | float, Float[Array, ""] | float] = (0.0, 1.0),
) -> Float[Array, "n h w"]:
    """Integrated gradients (Sundararajan et al. 2017, equation 1), summed over channels.

    (x - b) times the mean gradient of the score on the straight path from the baseline b to the
    image x. *Completeness*: the sum over pixels is score(x) - score(b), up to the error of the
    Gauss-Legendre rule (`incompleteness`).

    Args:
      baseline: normalised like the images; see `pixel_baseline`.
      steps: points on the path; each is a forward and a backward pass.
      power: positions on the path are raised to this power, so that more are near the baseline.
        In an image of one colour a GroupNorm divides by almost no variance, and the score jumps
        near the baseline: 1 misses that, 4 does not.
      segment: start and end of the integrated segment of the path, before `power`; the sum over
        segments is the whole.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    start, length = segment[0], segment[1] - segment[0]
    positions = start + length * jnp.asarray((nodes + 1) / 2, jnp.float32)
    shares = length * jnp.asarray(weights / 2, jnp.float32) * power * positions ** (power - 1)
    baseline = jnp.broadcast_to(baseline, images.shape)

    @jax.grad
    def gradient(point: Array) -> Array:
        return score(network.logits(point), targets, kind).sum()

    def add(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        position, weight = step
        return total + weight * gradient(baseline + position * (images - baseline)), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(images), (positions**power, shares))
    return ((images - baseline) * mean).sum(-1)


def incompleteness(
    totals: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    baseline_scores: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Returns the error of completeness as a share of the score's change.

    Args:
      totals: sum of each map over its pixels.
      scores, baseline_scores: of the image and of the baseline.
    """
    change = np.asarray(scores, np.float64) - np.asarray(baseline_scores, np.float64)
    return np.abs(totals - change) / np.maximum(np.abs(change), LEAST_CHANGE)


def pixel_baseline(
    name: str, mean: Float[Array, " 3"], std: Float[Array, " 3"]
) -> Float[Array, "1 1 1 3"]:
    """Returns a normalised colour that carries no information.

    Args:
      name: ``mean``: the mean colour of the training cells, which is 0 after normalisation: neither
        cell nor background. ``black``: the colour of a black background; dark pixels of the cell
        then count little because they are dark. (``blurred`` is an image: `explainer.blurred`.)
      mean, std: of the normalisation, in [0, 1].
    """
    colour = jnp.zeros(3) if name == "mean" else (0 - jnp.asarray(mean)) / jnp.asarray(std)
    return colour.reshape(1, 1, 1, 3).astype(jnp.float32)


def occlusion(
    network: Network,
    images: Float[Array, "n h w 3"],
    targets: Int[Array, " n"],
    baseline: Float[Array, "#n #h #w 3"],
    kind: Kind,
    window: int,
    stride: int,
) -> Float[Array, "n h w"]:
    """Occlusion (Zeiler & Fergus 2014): at each pixel the mean drop over the windows that cover it.

    Args:
      baseline: what windows are covered with, normalised.
      window: side of a window in pixels.
      stride: pixels between windows, at most `window`; the last of a row may reach beyond.
    """
    height, width = images.shape[1:3]
    tops, lefts = (jnp.arange(_count(n, window, stride)) * stride for n in (height, width))
    corners = jnp.stack(jnp.meshgrid(tops, lefts, indexing="ij"), -1).reshape(-1, 2)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    clean = score(network.logits(images), targets, kind)

    def add(sums: tuple[Array, Array], corner: Int[Array, "2"]) -> tuple[tuple[Array, Array], None]:
        drops, counts = sums
        down, right = rows - corner[0], columns - corner[1]
        mask = (down >= 0) & (down < window) & (right >= 0) & (right < window)
        covered = jnp.where(mask[..., None], baseline, images)
        drop = clean - score(network.logits(covered), targets, kind)
        return (drops + drop[:, None, None] * mask, counts + mask), None

    start = jnp.zeros(images.shape[:3]), jnp.zeros((height, width))
    (drops, counts), _ = jax.lax.scan(add, start, corners)
    return drops / counts


def window_for(size: int) -> tuple[int, int]:
    """Returns window and stride for images of `size` pixels a side: a sixth, and half of that."""
    window = max(2, round(size / 6))
    return window, max(1, window // 2)


def _count(size: int, window: int, stride: int) -> int:
    return -(-max(size - window, 0) // stride) + 1
