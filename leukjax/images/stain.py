"""Stain normalisation: each image gets the stain statistics of the training images.

It is done on the devices, before augmentation and before mean and standard deviation, so that every
command that uses the network does the same. On a black background the exactly black pixels are not
counted and stay black; on a bright one every pixel counts (Macenko leaves pale pixels out itself).
An image with too few pixels to measure, or without two stains, is left as it is.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from leukjax.errors import UserError

SAMPLE = 256  # training images to which the target is fitted

_FEWEST = 16  # pixels to measure
_DARKEST = 1 / 255  # no logarithm of 0; one step of uint8
# Ruderman's decorrelated colours (Reinhard et al. 2001).
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([1 / 3**0.5, 1 / 6**0.5, 1 / 2**0.5]) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
_SMALLEST_SPREAD = 1e-3  # of a colour; below it an image has no texture to rescale
# Optical density that a stained pixel has in at least one channel. Common code for tissue asks
# it of every channel, which leaves out nuclei in Giemsa: they absorb hardly any blue.
_PALE = 0.15
_TAIL = 0.01  # of angles on each side, and of concentrations, that are not used
_SMALLEST_SINE = 1e-3  # squared, between the two stains


@dataclasses.dataclass(frozen=True)
class Stain:
    """What is compiled in.

    Attributes:
      method: "reinhard" or "macenko".
      black: the background of the images is exactly black.
    """

    method: Literal["reinhard", "macenko"]
    black: bool


def normalize(
    images: Float[Array, "n h w 3"], target: Float[Array, "2 4"], stain: Stain
) -> Float[Array, "n h w 3"]:
    """Returns images with the stain statistics of `target`; values in [0, 1].

    Args:
      images: values in [0, 1].
      target: as `measure` returns them for one image.
      stain: static.
    """
    measured, valid = measure(images, stain)
    convert = _to_reinhard if stain.method == "reinhard" else _to_macenko
    changed = jnp.clip(convert(images, measured, target), 0, 1)
    inside = _inside(images, stain).reshape(images.shape[:3])
    return jnp.where((inside & valid[:, None, None])[..., None], changed, images)


def fit(images: Iterable[UInt8[np.ndarray, "n s s 3"]], stain: Stain) -> Float[np.ndarray, "2 4"]:
    """Returns the target: the median of each statistic over training images.

    Args:
      images: batches of prepared images.
      stain: how to measure them.

    Raises:
      UserError: no image can be measured.
    """
    measure_all = jax.jit(lambda batch: measure(batch.astype(jnp.float32) / 255, stain))
    measured = [jax.device_get(measure_all(batch)) for batch in images]
    values = np.concatenate([values[valid] for values, valid in measured]).astype(np.float64)
    if not len(values):
        raise UserError(
            f"--config.data.stain={stain.method}: no training image has {_FEWEST} stained pixels "
            "of two stains; set data.stain=none"
        )
    target = np.median(values, axis=0)
    if stain.method == "macenko":
        target[:, :3] /= np.linalg.norm(target[:, :3], axis=1, keepdims=True)
    return target


def measure(
    images: Float[Array, "n h w 3"], stain: Stain
) -> tuple[Float[Array, "n 2 4"], Bool[Array, " n"]]:
    """Returns the stain statistics of each image, and whether it can be measured.

    reinhard: a row of means and one of standard deviations of the three decorrelated colours, and a
    0. macenko: for each of the two stains, the one that absorbs more red first, the unit vector of
    its optical density in red, green and blue, and its 99th percentile concentration.
    """
    measured = _reinhard if stain.method == "reinhard" else _macenko
    values, valid = measured(images, _inside(images, stain))
    return jnp.where(valid[:, None, None], values, 0), valid


def _inside(images: Float[Array, "n h w 3"], stain: Stain) -> Bool[Array, "n p"]:
    inside = (images > 0).any(-1) if stain.black else jnp.ones(images.shape[:3], bool)
    return inside.reshape(images.shape[0], -1)


def _mean(values: Float[Array, "n p k"], counted: Bool[Array, "n p"]) -> Float[Array, "n 1 k"]:
    total = jnp.where(counted[..., None], values, 0).sum(1, keepdims=True)
    return total / jnp.maximum(counted.sum(1), 1)[:, None, None]


def _linear(values: Float[Array, "*n i"], matrix: np.ndarray) -> Float[Array, "*n o"]:
    return jnp.einsum("...i,oi->...o", values, matrix.astype(np.float32), precision="highest")


# Reinhard, Ashikhmin, Gooch & Shirley 2001: Color transfer between images.


def _to_lab(images: Float[Array, "n h w 3"]) -> Float[Array, "n p 3"]:
    pixels = jnp.maximum(images, _DARKEST).reshape(images.shape[0], -1, 3)
    return _linear(jnp.log10(_linear(pixels, _LMS)), _LAB)


def _reinhard(
    images: Float[Array, "n h w 3"], inside: Bool[Array, "n p"]
) -> tuple[Float[Array, "n 2 4"], Bool[Array, " n"]]:
    lab = _to_lab(images)
    mean = _mean(lab, inside)
    spread = jnp.sqrt(_mean(jnp.square(lab - mean), inside))
    values = jnp.pad(jnp.concatenate([mean, spread], 1), ((0, 0), (0, 0), (0, 1)))
    return values, (inside.sum(1) >= _FEWEST) & (spread > _SMALLEST_SPREAD).all((1, 2))


def _to_reinhard(
    images: Float[Array, "n h w 3"], statistics: Float[Array, "n 2 4"], target: Float[Array, "2 4"]
) -> Float[Array, "n h w 3"]:
    statistics, target = statistics[..., None, :3], target[:, :3]
    scale = target[1] / jnp.maximum(statistics[:, 1], _SMALLEST_SPREAD)
    lab = (_to_lab(images) - statistics[:, 0]) * scale + target[0]
    # Bounded, so that no target makes infinities that cancel.
    lms = 10 ** jnp.clip(_linear(lab, np.linalg.inv(_LAB)), -6, 2)
    return _linear(lms, np.linalg.inv(_LMS)).reshape(images.shape)


# Macenko et al. 2009: A method for normalizing histology slides for quantitative analysis.


def _density(images: Float[Array, "n h w 3"]) -> Float[Array, "n p 3"]:
    return -jnp.log10(jnp.maximum(images, _DARKEST)).reshape(images.shape[0], -1, 3)


def _macenko(
    images: Float[Array, "n h w 3"], inside: Bool[Array, "n p"]
) -> tuple[Float[Array, "n 2 4"], Bool[Array, " n"]]:
    density = _density(images)
    stained = inside & (density >= _PALE).any(-1)
    centre = _mean(density, stained)[:, 0]
    centred = jnp.where(stained[..., None], density - centre[:, None], 0)
    covariance = jnp.einsum("npi,npj->nij", centred, centred, precision="highest")
    normal = _smallest_axis(covariance)
    # Two directions of the plane, the first near the mean, so that no angle is beyond +-90 degrees.
    first = centre - normal * (centre * normal).sum(-1, keepdims=True)
    length = jnp.linalg.norm(first, axis=-1, keepdims=True)
    first = first / jnp.maximum(length, 1e-6)
    second = jnp.cross(normal, first)
    along, across = ((density * axis[:, None]).sum(-1) for axis in (first, second))
    angles = jnp.arctan2(across, along)
    low, high = (_quantile(angles, stained, share)[:, None] for share in (_TAIL, 1 - _TAIL))
    stains = jnp.stack([jnp.cos(a) * first + jnp.sin(a) * second for a in (low, high)], 1)
    stains = jnp.where((stains[:, 0, 0] < stains[:, 1, 0])[:, None, None], stains[:, ::-1], stains)
    amounts = _amounts(density, stains)
    most = jnp.stack([_quantile(amounts[..., k], inside, 1 - _TAIL) for k in range(2)], -1)
    apart = 1 - jnp.square((stains[:, 0] * stains[:, 1]).sum(-1)) > _SMALLEST_SINE
    # Two stains explain the density: it varies, and is in their plane.
    spread = jnp.trace(covariance, axis1=1, axis2=2) > _SMALLEST_SPREAD**2 * stained.sum(1)
    in_plane = length[:, 0] > 0.5 * jnp.linalg.norm(centre, axis=-1)
    enough = (stained.sum(1) >= _FEWEST) & (most > _SMALLEST_SPREAD).all(-1)
    valid = enough & apart & spread & in_plane
    return jnp.concatenate([stains, most[..., None]], -1), valid


def _to_macenko(
    images: Float[Array, "n h w 3"], statistics: Float[Array, "n 2 4"], target: Float[Array, "2 4"]
) -> Float[Array, "n h w 3"]:
    amounts = jnp.maximum(
        _amounts(_density(images), statistics[..., :3]), 0
    )  # no stain is negative
    amounts = amounts * (target[:, 3] / jnp.maximum(statistics[..., 3], _SMALLEST_SPREAD))[:, None]
    return 10 ** -_linear_rows(amounts, target[:, :3]).reshape(images.shape)


def _linear_rows(
    amounts: Float[Array, "n p 2"], stains: Float[Array, "2 3"]
) -> Float[Array, "n p 3"]:
    return amounts[..., :1] * stains[0] + amounts[..., 1:] * stains[1]


def _amounts(
    density: Float[Array, "n p 3"], stains: Float[Array, "n 2 3"]
) -> Float[Array, "n p 2"]:
    """Least-squares amounts of two stains, unit vectors, in each pixel."""
    first, second = ((density * stains[:, None, k]).sum(-1) for k in range(2))
    cosine = (stains[:, 0] * stains[:, 1]).sum(-1)[:, None]
    pair = jnp.stack([first - cosine * second, second - cosine * first], -1)
    return pair / jnp.maximum(1 - jnp.square(cosine), _SMALLEST_SINE)[..., None]


def _smallest_axis(matrix: Float[Array, "n 3 3"]) -> Float[Array, "n 3"]:
    """Unit eigenvector of the smallest eigenvalue of symmetric matrices, such as a covariance.

    By repeated squaring of the adjugate, whose largest eigenvalue belongs to it: other than
    `jnp.linalg.eigh` this is exported for every platform.
    """
    a, b, c = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    power = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], 1)
    for _ in range(10):
        power = power / jnp.maximum(jnp.trace(power, axis1=1, axis2=2), 1e-30)[:, None, None]
        power = jnp.einsum("nij,njk->nik", power, power, precision="highest")
    longest = jnp.argmax(jnp.square(power).sum(1), axis=-1)
    axis = jnp.take_along_axis(power, longest[:, None, None], axis=2)[..., 0]
    return axis / jnp.maximum(jnp.linalg.norm(axis, axis=-1, keepdims=True), 1e-30)


def _quantile(
    values: Float[Array, "n p"], counted: Bool[Array, "n p"], share: float
) -> Float[Array, " n"]:
    """Quantile of the counted values of each row, interpolated as `numpy.quantile` does."""
    ordered = jnp.sort(jnp.where(counted, values, jnp.inf), axis=-1)
    place = share * jnp.maximum(counted.sum(-1) - 1, 0).astype(jnp.float32)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(counted.sum(-1) - 1, 0))
    below, above = (jnp.take_along_axis(ordered, i[:, None], -1)[:, 0] for i in (low, high))
    return below + (place - low) * (above - below)
