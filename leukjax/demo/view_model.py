"""Predictions and runs in the words and numbers of the page."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from leukjax.demo import heatmaps
from leukjax.demo.predictors import PagePredictor, Prediction, Prepared

_SPACE = "\N{NO-BREAK SPACE}"


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """One class: its probability and the range of it, in [0, 1]."""

    name: str
    probability: float
    low: float
    high: float

    @property
    def text(self) -> str:
        return percent(self.probability)

    @property
    def range(self) -> str:
        low, high = percent(self.low), percent(self.high)
        return low if low == high else f"{low} to {high}"


@dataclasses.dataclass(frozen=True)
class ImageView:
    """One image on the page.

    Attributes:
      name: of the file, as sent by the browser.
      predicted: class with the largest probability; "" if the page abstains.
      likeliest: class with the largest probability, also if it abstains.
      rows: one per class, the likeliest first.
      picture, heatmap: data URIs.
      reason: why it abstains; "" if it does not.
      distance: out-of-distribution score, see `Prediction`.
      conversions: what was converted.
      error: why there is no prediction, in one line; "" if there is one.
    """

    name: str
    predicted: str = ""
    likeliest: str = ""
    rows: tuple[ClassRow, ...] = ()
    picture: str = ""
    heatmap: str = ""
    reason: str = ""
    distance: float | None = None
    conversions: tuple[str, ...] = ()
    error: str = ""

    @property
    def unlike(self) -> bool | None:
        """Whether it is unlike the training images; None if that is not measured."""
        return None if self.distance is None else self.distance > 1

    def as_json(self) -> dict[str, Any]:
        """Returns the content for programs, without the pictures."""
        return {
            "name": self.name,
            "predicted": self.predicted,
            "abstained": bool(self.reason),
            "probabilities": {row.name: row.probability for row in self.rows},
            "low": {row.name: row.low for row in self.rows},
            "high": {row.name: row.high for row in self.rows},
            "unlikeness": self.distance,
            "conversions": list(self.conversions),
            "error": self.error,
            "unlike": self.unlike,
        }


def image_view(
    name: str,
    prepared: Prepared,
    conversions: tuple[str, ...],
    prediction: Prediction,
    predictor: PagePredictor,
) -> ImageView:
    """Returns what the page shows of an image."""
    order = np.argsort(-prediction.probabilities, kind="stable").tolist()
    rows = tuple(
        ClassRow(
            predictor.classes[index],
            float(prediction.probabilities[index]),
            float(prediction.low[index]),
            float(prediction.high[index]),
        )
        for index in order
    )
    reason = ""
    if prediction.abstained and predictor.threshold:
        reason = (
            f"The largest probability, {rows[0].text}, is below the confidence threshold of "
            f"{percent(predictor.threshold.confidence)}."
        )
    return ImageView(
        name=name,
        predicted="" if prediction.abstained else rows[0].name,
        likeliest=rows[0].name,
        rows=rows,
        picture=heatmaps.data_uri(prepared[0]),
        heatmap=heatmaps.data_uri(heatmaps.overlay(prepared[0], prediction.heatmap)),
        reason=reason,
        distance=prediction.distance,
        conversions=conversions,
    )


def percent(share: float) -> str:
    """Returns a percentage with one decimal; never rounded to 0 % or 100 %."""
    if 0 < share < 0.001:
        return f"<{_SPACE}0.1{_SPACE}%"
    if 0.999 < share < 1:
        return f">{_SPACE}99.9{_SPACE}%"
    return f"{100 * share:.1f}{_SPACE}%"


def as_json(images: Sequence[ImageView]) -> bytes:
    """Returns the JSON document for all images of a request."""
    content = {"answers": [image.as_json() for image in images]}
    return json.dumps(content, allow_nan=False).encode()
