"""What the runs say of prepared images: probability, spread, abstention, unlikeness, heat map."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

from leukjax.demo.heatmaps import Heat
from leukjax.demo.options import Options
from leukjax.errors import UserError
from leukjax.metrics.predictions import mean
from leukjax.metrics.thresholds import ConfidenceThreshold, is_confident
from leukjax.predict import out_of_distribution
from leukjax.predict.member import Member
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import NOT_FINITE, Predictor, Prepared, load


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
      probabilities: of each class.
      low, high: the least and the largest probability of each class over `Judges.over`.
      abstained: the largest probability is below the confidence from which on there are answers.
      unlikeness: `FeatureDistance.score`, mean over the runs; None where it is not known.
      heat: in [0, 1], for the class with the largest probability.
    """

    probabilities: Float[np.ndarray, " c"]
    low: Float32[np.ndarray, " c"]
    high: Float32[np.ndarray, " c"]
    abstained: bool
    unlikeness: float | None
    heat: Float32[np.ndarray, "s s"]


@dataclasses.dataclass(frozen=True)
class Judges:
    """The runs that answer. Made by `appoint`.

    Attributes:
      predictor: the runs.
      tta: probabilities are means over the eight views.
      threshold: from which confidence on there are answers; None = always.
      likes: one for each run, or none.
      heat: makes the heat maps.
    """

    predictor: Predictor
    tta: bool
    threshold: ConfidenceThreshold | None
    likes: tuple[FeatureDistance, ...]
    heat: Heat

    @property
    def members(self) -> tuple[Member, ...]:
        """The runs."""
        return self.predictor.members

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.members[0].classes

    @property
    def batch_size(self) -> int:
        """Images that are answered together at most."""
        return self.predictor.batch_size

    @property
    def over(self) -> str:
        """What low and high are taken over: ``views`` of one run, or ``members`` of several."""
        return "views" if len(self.members) == 1 else "members"

    def prepare(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Prepared:
        """An image as each run sees it; runs of one recipe share it."""
        return self.predictor.prepare(rgb)

    def answer(self, images: Sequence[Prepared]) -> list[Answer]:
        """An answer for each of up to `batch_size` images."""
        columns = [np.stack(column) for column in zip(*images, strict=True)]
        with_views = self.tta or self.over == "views"
        outputs = dataclasses.replace(self.predictor, tta=with_views).submit(columns)()
        use_views = self.tta or not with_views
        by_member = [o.probabilities if use_views else o.views[0] for o in outputs]
        each = outputs[0].views if self.over == "views" else np.stack(by_member)
        probabilities = mean(by_member)
        if not np.isfinite(probabilities).all():
            raise UserError(NOT_FINITE)
        unlike = [like.score(o.features) for like, o in zip(self.likes, outputs, strict=False)]
        heat = self.heat.maps(columns, probabilities.argmax(1))
        least = self.threshold.confidence if self.threshold else 0.0
        return [
            Answer(
                probabilities=probabilities[row],
                low=each[:, row].min(0),
                high=each[:, row].max(0),
                abstained=not is_confident(probabilities[row], least),
                unlikeness=float(np.mean(unlike, 0)[row]) if unlike else None,
                heat=heat[row],
            )
            for row in range(len(images))
        ]


def appoint(runs: Sequence[str], options: Options) -> Judges:
    """Load the runs.

    Raises:
      UserError: as in `load` and `Predictor.choose_threshold`.
    """
    predictor = load(
        runs,
        options.step,
        tta=options.tta,
        calibrated=options.calibrated,
        batch_size=options.batch_size,
    )
    threshold = None
    if options.max_error is not None:
        threshold = predictor.choose_threshold(options.max_error)
    distances = tuple(out_of_distribution.read_all(predictor))
    return Judges(predictor, options.tta, threshold, distances, Heat(predictor.members))
