"""Occlusion: how much the score drops when a window of the image is covered."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leukjax.explain.attribution.network import Kind, Network, score


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
      window: pixels a side of a window.
      stride: pixels between windows, at most `window`; the last of a row may reach beyond.
    """
    height, width = images.shape[1:3]
    tops, lefts = (jnp.arange(_count(n, window, stride)) * stride for n in (height, width))
    corners = jnp.stack(jnp.meshgrid(tops, lefts, indexing="ij"), -1).reshape(-1, 2)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    whole = score(network.logits(images), targets, kind)

    def add(sums: tuple[Array, Array], corner: Int[Array, "2"]) -> tuple[tuple[Array, Array], None]:
        drops, times = sums
        down, right = rows - corner[0], columns - corner[1]
        mask = (down >= 0) & (down < window) & (right >= 0) & (right < window)
        covered = jnp.where(mask[..., None], baseline, images)
        drop = whole - score(network.logits(covered), targets, kind)
        return (drops + drop[:, None, None] * mask, times + mask), None

    start = jnp.zeros(images.shape[:3]), jnp.zeros((height, width))
    (drops, times), _ = jax.lax.scan(add, start, corners)
    return drops / times


def window_for(size: int) -> tuple[int, int]:
    """Window and stride for images of `size` pixels a side: a sixth of it, and half of that."""
    window = max(2, round(size / 6))
    return window, max(1, window // 2)


def _count(size: int, window: int, stride: int) -> int:
    return -(-max(size - window, 0) // stride) + 1
