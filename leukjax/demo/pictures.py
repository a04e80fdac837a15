"""Pictures inside the page: what the network sees, and its heat map upon it."""

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# From cold to hot; the lightness grows, so that it is told apart without colours, too.
_HEAT = np.array([(60, 20, 110), (170, 40, 110), (225, 95, 60), (250, 170, 50), (255, 240, 150)])
_LUMA = np.array([0.299, 0.587, 0.114])


def data_uri(image: UInt8[np.ndarray, "s s 3"]) -> str:
    """A PNG that needs no further request."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def warmed(
    image: UInt8[np.ndarray, "s s 3"], heat: Float[np.ndarray, "s s"]
) -> UInt8[np.ndarray, "s s 3"]:
    """The image in grey, covered by colour where the heat, in [0, 1], is large."""
    heat = np.clip(heat, 0, 1)
    place = heat * (len(_HEAT) - 1)
    stops = np.arange(len(_HEAT))
    colour = np.stack([np.interp(place, stops, channel) for channel in _HEAT.T], axis=-1)
    grey = (image @ _LUMA)[..., None]
    cover = (0.1 + 0.75 * heat)[..., None]
    return np.rint((1 - cover) * grey + cover * colour).astype(np.uint8)
