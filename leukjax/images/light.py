"""Light and stain: changes of colour."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leukjax.images.noise import per_image

# Weights of red, green and blue in Pillow's grey (ITU-R 601-2).
GREY = np.array([0.299, 0.587, 0.114], np.float32)

# Optical densities of methylene blue (azure) and eosin in red, green and blue, as measured for
# Giemsa by Landini's Colour Deconvolution (ImageJ), and a third direction at right angles to both.
_AZURE = np.array([0.834750233, 0.513556283, 0.196330403])
_EOSIN = np.array([0.092789, 0.954111, 0.283111])
_RESIDUE = np.cross(_AZURE, _EOSIN)
STAINS = np.stack([v / np.linalg.norm(v) for v in (_AZURE, _EOSIN, _RESIDUE)]).astype(np.float32)


def brightness(
    images: Float[Array, "n h w 3"], factor: Float[Array, "#n"]
) -> Float[Array, "n h w 3"]:
    """Multiplies by `factor` and clips: Pillow's ImageEnhance.Brightness."""
    return jnp.clip(images * per_image(factor), 0, 1)


def contrast(
    images: Float[Array, "n h w 3"],
    factor: Float[Array, "#n"],
    inside: Bool[Array, "n h w 1"],
) -> Float[Array, "n h w 3"]:
    """Scales by `factor` about the mean grey: Pillow's ImageEnhance.Contrast.

    The mean is taken over `inside` and rounded to a grey level, as in Pillow.
    """
    weight = inside.astype(jnp.float32)
    total = (images @ GREY)[..., None] * weight
    count = jnp.maximum(weight.sum(axis=(1, 2, 3), keepdims=True), 1)
    mean = jnp.floor(255 * total.sum(axis=(1, 2, 3), keepdims=True) / count + 0.5) / 255
    return jnp.clip(mean + per_image(factor) * (images - mean), 0, 1)


def saturate(
    images: Float[Array, "n h w 3"], amount: Float[Array, "#n"]
) -> Float[Array, "n h w 3"]:
    """Adds `amount` to the saturation of HSV; hue and value stay the same.

    With value V the largest channel and S = (V - min) / V, a channel is V (1 - S d) where d is 0
    for the largest and 1 for the smallest. Grey has no hue; as in scikit-image it counts as red.
    """
    value = images.max(axis=-1, keepdims=True)
    spread = value - images.min(axis=-1, keepdims=True)
    saturation = jnp.clip(spread / jnp.maximum(value, 1e-6) + per_image(amount), 0, 1)
    distance = jnp.where(
        spread > 0, (value - images) / jnp.maximum(spread, 1e-6), jnp.array([0.0, 1, 1])
    )
    return value * (1 - saturation * distance)


def stain(
    images: Float[Array, "n h w 3"], azure: Float[Array, "#n"], eosin: Float[Array, "#n"]
) -> Float[Array, "n h w 3"]:
    """Scales the amount of each stain in optical density, where stains add (Beer-Lambert law).

    OD = -log10(intensity) is split into azure, eosin and a residue (Ruifrok & Johnston 2001,
    Anal Quant Cytol Histol 23:291), the two amounts are multiplied by exp(azure) and exp(eosin),
    and the sum is converted back. Perturbing stains and not colours follows Tellez et al. 2018,
    doi 10.1109/TMI.2018.2820199.
    """
    # One step of uint8 is the darkest level that can be distinguished.
    density = -jnp.log10(jnp.maximum(images, 1 / 255))
    amounts = jnp.einsum("nhwc,cs->nhws", density, np.linalg.inv(STAINS), precision="highest")
    ones = jnp.ones_like(per_image(azure))
    factors = jnp.concatenate([jnp.exp(per_image(azure)), jnp.exp(per_image(eosin)), ones], axis=-1)
    density = jnp.einsum("nhws,sc->nhwc", amounts * factors, STAINS, precision="highest")
    return jnp.clip(10**-density, 0, 1)


def illuminate(
    images: Float[Array, "n h w 3"], slope: Float[Array, "#n"], angle: Float[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """Multiplies by 1 + `slope` u, which varies along a line, and clips.

    u increases from -1 to 1 across the image in the direction `angle` (radians from the row), so
    that the mean over a square image stays the same.
    """
    height, width = images.shape[1:3]
    row = jnp.linspace(-1, 1, height)[:, None]
    column = jnp.linspace(-1, 1, width)[None, :]
    sine, cosine = jnp.sin(angle)[:, None, None], jnp.cos(angle)[:, None, None]
    along = (sine * row + cosine * column) / (jnp.abs(sine) + jnp.abs(cosine))
    return jnp.clip(images * (1 + per_image(slope) * along[..., None]), 0, 1)
