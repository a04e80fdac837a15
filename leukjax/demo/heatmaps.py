"""The heat map of an answer: where in the image the runs find it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8

from leukjax.explain import explainer
from leukjax.explain.attribution.methods import METHODS, Settings, usual
from leukjax.explain.attribution.network import choose_layer, form_of
from leukjax.predict.member import Member


@dataclasses.dataclass(frozen=True)
class _Member:
    """A run that explains: its place among the members, its method and layer."""

    row: int
    model: Member
    method: str
    settings: Settings


class Heat:
    """Makes heat maps of a number of runs, each by its family's quickest method.

    Grad-CAM for convolutional networks, attention weighted by gradients for the hybrid: one forward
    and one backward pass. `leukjax.explain` has slower ones that see more.

    Attributes:
      title: of the methods, for people.
      runs: how many the map is the mean of: those that see the same pixels as the first.
    """

    def __init__(self, members: Sequence[Member]):
        """Choose methods and layers."""
        self._members = [
            _member(row, member)
            for row, member in enumerate(members)
            if member.recipe == members[0].recipe
        ]
        names = dict.fromkeys(METHODS[member.method].title for member in self._members)
        self.title = ", ".join(names)
        self.runs = len(self._members)

    def maps(
        self, columns: Sequence[UInt8[np.ndarray, "n s s 3"]], targets: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n s s"]:
        """Maps in [0, 1] for up to `batch_size` images, for a class each.

        Each run's map is divided by its largest value before the mean.
        """
        total: Any = 0.0
        for member in self._members:
            images = columns[member.row]
            found = explainer.explain(member.model, images, targets, member.method, member.settings)
            maps = np.maximum(explainer.to_pixels(found.maps, images.shape[1]), 0)
            total = total + maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-30)
        return np.asarray(total / self.runs, np.float32)


def _member(row: int, model: Member) -> _Member:
    network = explainer.network_of(model)
    method = usual(form_of(network, model.image_size))[0]
    settings = Settings()
    if METHODS[method].fits == "convolutional":
        layer = choose_layer(network, model.image_size)
        settings = dataclasses.replace(settings, layer=layer)
    return _Member(row, model, method, settings)
