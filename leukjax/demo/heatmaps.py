"""Heat maps of predictions: where in the image the runs find evidence for the predicted class."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image

from leukjax.explain import explainer
from leukjax.explain.methods import METHODS, Settings, defaults
from leukjax.explain.network import choose_layer, form_of
from leukjax.predict.member import Member
from leukjax.predict.predictor import Predictor

# From cold to hot; the lightness increases, so that it can be read without colours too.
_COLOURS = np.array([(60, 20, 110), (170, 40, 110), (225, 95, 60), (250, 170, 50), (255, 240, 150)])
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class _Explained:
    """A member of the predictor, with its method and settings."""

    index: int
    model: Member
    method: str
    settings: Settings


class Heatmaps:
    """Computes heat maps of an ensemble, each member with the fastest method for its network.

    Grad-CAM for convolutional networks, gradient-weighted attention for transformers: one forward
    and one backward pass. `leukjax.explain` offers slower and more precise methods.

    Attributes:
      title: names of the methods.
      runs: number of runs in the mean: those with the same preprocessing as the first.
    """

    def __init__(self, predictor: Predictor):
        """Chooses methods and layers."""
        first = predictor.members[0]
        self._members = [
            _explained(index, member)
            for index, member in enumerate(predictor.members)
            if member.recipe == first.recipe
        ]
        names = dict.fromkeys(METHODS[member.method].title for member in self._members)
        self.title = ", ".join(names)
        self.runs = len(self._members)

    def maps(
        self, columns: Sequence[UInt8[np.ndarray, "n s s 3"]], targets: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n s s"]:
        """Returns maps in [0, 1] for up to `batch_size` images and a class for each.

        The map of each run is divided by its largest value before the mean.
        """
        total: Any = 0.0
        for m in self._members:
            images = columns[m.index]
            maps = explainer.explain(m.model, images, targets, m.method, m.settings).maps
            maps = np.maximum(explainer.to_image_size(maps, images.shape[1]), 0)
            total = total + maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-30)
        return np.asarray(total / self.runs, np.float32)


def _explained(index: int, model: Member) -> _Explained:
    network = explainer.network_of(model)
    method = defaults(form_of(network, model.image_size))[0]
    settings = Settings()
    if METHODS[method].of_layer:
        layer = choose_layer(network, model.image_size)
        settings = dataclasses.replace(settings, layer=layer)
    return _Explained(index, model, method, settings)


def data_uri(image: UInt8[np.ndarray, "s s 3"]) -> str:
    """Returns a PNG image as a data URI, which needs no further request."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def overlay(
    image: UInt8[np.ndarray, "s s 3"], heatmap: Float[np.ndarray, "s s"]
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the image in grey, covered by colour where the heat map in [0, 1] is large."""
    heatmap = np.clip(heatmap, 0, 1)
    stops = np.arange(len(_COLOURS))
    position = heatmap * (len(_COLOURS) - 1)
    colour = np.stack([np.interp(position, stops, channel) for channel in _COLOURS.T], axis=-1)
    grey = (image @ _LUMA)[..., None]
    opacity = (0.1 + 0.75 * heatmap)[..., None]
    return np.rint((1 - opacity) * grey + opacity * colour).astype(np.uint8)
