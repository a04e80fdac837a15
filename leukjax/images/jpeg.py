"""The loss of JPEG compression, computed on arrays.

Entropy coding is lossless: the loss is the rounding of colours, the subsampling of the colour
channels, and the rounding of cosine coefficients. All of it is array arithmetic and runs on the
device in batches (ITU-T T.81; constants of libjpeg).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Annex K of T.81, as scaled by libjpeg.
_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# RGB to YCbCr, as in JFIF.
_TO_YCC = np.array([
    [0.299, 0.587, 0.114],
    [-0.168735892, -0.331264108, 0.5],
    [0.5, -0.418687589, -0.081312411],
], np.float32)  # fmt: skip

_FREQUENCY, _POSITION = np.mgrid[:8, :8]
_COSINES = (np.cos((2 * _POSITION + 1) * _FREQUENCY * np.pi / 16) / 2).astype(np.float32)
_COSINES[0] /= np.sqrt(2)


def tables(quality: int) -> Float[np.ndarray, "2 8 8"]:
    """Returns the quantisation tables of brightness and colour, for a quality of 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    both = np.stack([_LUMA, _CHROMA])
    return np.clip((both * scale + 50) // 100, 1, 255).astype(np.float32)


def compress(
    images: Float[Array, "n h w 3"], steps: Float[Array, "2 8 8"]
) -> Float[Array, "n h w 3"]:
    """Returns images in [0, 1] after JPEG compression with these tables (4:2:0).

    Equal to libjpeg within one or two grey levels; libjpeg computes in integers and rounds some
    coefficients in the other direction.
    """
    height, width = images.shape[1:3]
    padding = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    pixels = jnp.pad(jnp.round(255 * images), padding, mode="edge")
    ycc = jnp.round(_product(pixels, _TO_YCC.T))  # zero-centred colour; brightness 0 to 255
    luma = _quantise(ycc[..., :1] - 128, steps[0]) + 128
    n, rows, columns, _ = ycc.shape
    halved = ycc[..., 1:].reshape(n, rows // 2, 2, columns // 2, 2, 2).mean(axis=(2, 4))
    chroma = _quantise(jnp.round(halved), steps[1])
    # The padding is removed first: the filter repeats the last pixel of the image.
    chroma = chroma[:, : -(-height // 2), : -(-width // 2)]
    chroma = _double(_double(chroma, axis=1), axis=2)[:, :height, :width]
    luma = luma[:, :height, :width]
    ycc = jnp.concatenate([jnp.clip(luma, 0, 255), jnp.clip(chroma, -128, 127)], axis=-1)
    rgb = _product(ycc, np.linalg.inv(_TO_YCC).T)
    return jnp.clip(jnp.round(rgb), 0, 255) / 255


def compress_as_if_larger(
    images: Float[Array, "n h w 3"], steps: Float[Array, "2 8 8"], factor: int
) -> Float[Array, "n h w 3"]:
    """Compresses as if the image were `factor` times as large.

    Blocks have 8 pixels at any image size. The image is enlarged (linearly) and compressed, and the
    *change* is averaged down and added, so that the enlargement does not blur it.
    """
    if factor == 1:
        return compress(images, steps)
    n, height, width, channels = images.shape
    large = jax.image.resize(
        images, (n, height * factor, width * factor, channels), "linear", precision="highest"
    )
    change = compress(large, steps) - large
    change = change.reshape(n, height, factor, width, factor, channels).mean(axis=(2, 4))
    return jnp.clip(images + change, 0, 1)


def _quantise(
    channels: Float[Array, "n h w c"], steps: Float[Array, "8 8"]
) -> Float[Array, "n h w c"]:
    n, height, width, c = channels.shape
    blocks = channels.reshape(n, height // 8, 8, width // 8, 8, c)
    coefficients = jnp.einsum(
        "ur,narbsc,vs->nabuvc", _COSINES, blocks, _COSINES, precision="highest"
    )
    step = steps[..., None]
    coefficients = jnp.round(coefficients / step) * step
    blocks = jnp.einsum(
        "ur,nabuvc,vs->narbsc", _COSINES, coefficients, _COSINES, precision="highest"
    )
    return jnp.round(blocks.reshape(n, height, width, c))


def _double(channels: Float[Array, "n h w c"], axis: int) -> Float[Array, "..."]:
    """Doubles the length by a triangle filter: 3/4 of the nearest and 1/4 of the next pixel."""
    size = channels.shape[axis]
    before = jnp.take(channels, np.maximum(np.arange(size) - 1, 0), axis=axis)
    after = jnp.take(channels, np.minimum(np.arange(size) + 1, size - 1), axis=axis)
    pair = jnp.stack([3 * channels + before, 3 * channels + after], axis=axis + 1) / 4
    shape = list(channels.shape)
    shape[axis] *= 2
    return pair.reshape(shape)


def _product(pixels: Float[Array, "n h w 3"], matrix: np.ndarray) -> Float[Array, "n h w 3"]:
    return jnp.einsum("nhwc,cd->nhwd", pixels, matrix, precision="highest")
