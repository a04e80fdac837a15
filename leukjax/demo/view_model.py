"""An answer in the words and numbers of the page."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from leukjax.demo import pictures
from leukjax.demo.predictors import Answer, Judges, Prepared

_GAP = "\N{NO-BREAK SPACE}"


@dataclasses.dataclass(frozen=True)
class Bar:
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
class Shown:
    """One image on the page.

    Attributes:
      name: of the file, as the browser gave it.
      predicted: class with the largest probability; "" where there is no answer.
      likeliest: the same, where it abstains, too.
      bars: one a class, the likeliest first.
      picture, heat: data URIs.
      why_not: why it abstains; "" where it does not.
      unlikeness: as in `Answer`.
      conversions: what was converted.
      error: why there is nothing to show, in a line; "" where there is.
    """

    name: str
    predicted: str = ""
    likeliest: str = ""
    bars: tuple[Bar, ...] = ()
    picture: str = ""
    heat: str = ""
    why_not: str = ""
    unlikeness: float | None = None
    conversions: tuple[str, ...] = ()
    error: str = ""

    @property
    def unlike(self) -> bool | None:
        """Whether it is unlike the training images; None where that is not measured."""
        return None if self.unlikeness is None else self.unlikeness > 1

    def as_json(self) -> dict:
        """The same for programs, without the pictures."""
        return {
            "name": self.name,
            "predicted": self.predicted,
            "abstained": bool(self.why_not),
            "probabilities": {bar.name: bar.probability for bar in self.bars},
            "low": {bar.name: bar.low for bar in self.bars},
            "high": {bar.name: bar.high for bar in self.bars},
            "unlikeness": self.unlikeness,
            "conversions": list(self.conversions),
            "error": self.error,
            "unlike": self.unlike,
        }


def shown(
    name: str, prepared: Prepared, conversions: tuple[str, ...], answer: Answer, judges: Judges
) -> Shown:
    """What the page shows of an image."""
    order = np.argsort(-answer.probabilities, kind="stable").tolist()
    bars = tuple(
        Bar(
            judges.classes[row],
            float(answer.probabilities[row]),
            float(answer.low[row]),
            float(answer.high[row]),
        )
        for row in order
    )
    why_not = ""
    if answer.abstained and judges.threshold:
        why_not = (
            f"The largest probability, {bars[0].text}, is below "
            f"{percent(judges.threshold.confidence)}, from which on there are answers."
        )
    return Shown(
        name=name,
        predicted="" if answer.abstained else bars[0].name,
        likeliest=bars[0].name,
        bars=bars,
        picture=pictures.data_uri(prepared[0]),
        heat=pictures.data_uri(pictures.warmed(prepared[0], answer.heat)),
        why_not=why_not,
        unlikeness=answer.unlikeness,
        conversions=conversions,
    )


def percent(share: float) -> str:
    """With a digit behind the point; never rounded to a certainty that there is not."""
    if 0 < share < 0.001:
        return f"<{_GAP}0.1{_GAP}%"
    if 0.999 < share < 1:
        return f">{_GAP}99.9{_GAP}%"
    return f"{100 * share:.1f}{_GAP}%"


def as_json(images: Sequence[Shown]) -> bytes:
    """All images of a request."""
    content = {"answers": [image.as_json() for image in images]}
    return json.dumps(content, allow_nan=False).encode()
