"""MixUp and CutMix of training images, inside the jitted step.

The partner of an example is the next one of the global batch, and that of the last is the first: in
the order of an epoch, which is a permutation, a random example. Rolling a sharded batch by one
moves one image per device. The partner and the share depend on seed, step and position only, so
that the number of devices changes nothing. Training batches are never padded, so that no partner is
padding.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

# Random quantities of an example; `augment` has the numbers before them.
_SHARE, _CHOICE, _ROW, _COLUMN = range(7, 11)


def partners(x: Shaped[Array, "b *rest"]) -> Shaped[Array, "b *rest"]:
    """Returns the value of each example's partner."""
    return jnp.roll(x, -1, axis=0)


def mix(
    key: PRNGKeyArray,
    images: Float[Array, "b h w c"],
    positions: Int[Array, " b"],
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Mixes each image with its partner's.

    With both options on, each example is mixed by one of them, with probability 1/2.

    Args:
        key: the key of the step (with seed and step folded in).
        images: the whole global batch.
        positions: index of each image in the global batch; it is folded into `key`.
        mixup: lambda is from Beta(mixup, mixup) (Zhang et al. 2018, section 2); 0: off.
        cutmix: as `mixup`, for CutMix (Yun et al. 2019, section 3); 0: off.

    Returns:
        The images, and the share of each image that is its own: lambda, for CutMix after the box
        is clipped to the image.
    """
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)

    def draw(quantity: int) -> Array:
        return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, quantity)))(keys)

    def share(alpha: float) -> Array:
        return jax.vmap(lambda k: jax.random.beta(jax.random.fold_in(k, _SHARE), alpha, alpha))(
            keys
        )

    weights = share(mixup)[:, None, None, None] if mixup else None
    if cutmix:
        outside = outside_box(share(cutmix), draw(_ROW), draw(_COLUMN), images.shape[1:3])
        chosen = (draw(_CHOICE) < 0.5)[:, None, None, None]
        weights = outside if weights is None else jnp.where(chosen, outside, weights)
    assert weights is not None
    return blend(images, weights), weights.mean(axis=(1, 2, 3))


def blend(
    images: Float[Array, "b h w c"], weights: Float[Array, "b #h #w 1"]
) -> Float[Array, "b h w c"]:
    """Returns ``weights * images + (1 - weights) * partners``; a weight of 1 changes no bit."""
    return weights * images + (1 - weights) * partners(images)


def outside_box(
    share: Float[Array, " b"],
    row: Float[Array, " b"],
    column: Float[Array, " b"],
    size: tuple[int, ...],
) -> Float[Array, "b h w 1"]:
    """Returns 0 inside a random box and 1 outside.

    The sides are ``sqrt(1 - share)`` of the image's, in whole pixels, and the box is clipped to
    the image (algorithm A1 of Yun et al. 2019).

    Args:
        share: of the area that is outside, before clipping.
        row: of the centre, in [0, 1) of the height.
        column: of the centre, in [0, 1) of the width.
        size: height and width.
    """

    def inside(length: int, centre: Array) -> Array:
        middle = jnp.floor(centre * length).astype(jnp.int32)[:, None]
        half = (length * jnp.sqrt(1 - share)).astype(jnp.int32)[:, None] // 2
        pixels = jnp.arange(length)
        return (pixels >= middle - half) & (pixels < middle + half)

    height, width = size
    box = inside(height, row)[:, :, None] & inside(width, column)[:, None, :]
    return 1.0 - box[..., None].astype(jnp.float32)
