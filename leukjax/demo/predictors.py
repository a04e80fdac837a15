"""Predictions for the page: probability, range, abstention, out-of-distribution score, heat map."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

from leukjax.demo.heatmaps import Heatmaps
from leukjax.demo.options import Options
from leukjax.errors import UserError
from leukjax.metrics.predictions import mean
from leukjax.metrics.thresholds import ConfidenceThreshold, is_confident
from leukjax.predict import out_of_distribution
from leukjax.predict.out_of_distribution import FeatureDistance
from leukjax.predict.predictor import NOT_FINITE, Predictor, Prepared, load


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
      probabilities: of each class.
      low, high: smallest and largest probability of each class over `PagePredictor.range_over`.
      abstained: the largest probability is below the confidence threshold.
      distance: out-of-distribution score (`FeatureDistance.score`), mean over the runs; None if it
        is not available.
      heatmap: in [0, 1], for the class with the largest probability.
    """

    probabilities: Float[np.ndarray, " c"]
    low: Float32[np.ndarray, " c"]
    high: Float32[np.ndarray, " c"]
    abstained: bool
    distance: float | None
    heatmap: Float32[np.ndarray, "s s"]


@dataclasses.dataclass(frozen=True)
class PagePredictor:
    """A `Predictor` with what the page shows besides probabilities. Made by `load_predictor`.

    Attributes:
      predictor: one run or an ensemble.
      threshold: confidence below which the page abstains; None = it never does.
      distances: one for each run, or none.
      heatmaps: computes the heat maps.
    """

    predictor: Predictor
    threshold: ConfidenceThreshold | None
    distances: tuple[FeatureDistance, ...]
    heatmaps: Heatmaps

    @property
    def tta(self) -> bool:
        """Whether probabilities are means over the eight views."""
        return self.predictor.tta

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.predictor.classes

    @property
    def range_over(self) -> str:
        """Source of low and high: ``views`` of a single run, or ``members`` of an ensemble."""
        return "views" if len(self.predictor.members) == 1 else "members"

    def prepare(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Prepared:
        """Prepares an image for each run."""
        return self.predictor.prepare(rgb)

    def predict(self, images: Sequence[Prepared]) -> list[Prediction]:
        """Returns predictions for up to `batch_size` prepared images."""
        columns = [np.stack(column) for column in zip(*images, strict=True)]
        views = self.range_over == "views"
        with_views = dataclasses.replace(self.predictor, tta=self.tta or views)
        outputs = with_views.submit(columns)()
        use_mean = self.tta or not views
        by_member = [o.probabilities if use_mean else o.views[0] for o in outputs]
        samples = outputs[0].views if views else np.stack(by_member)
        probabilities = mean(by_member)
        if not np.isfinite(probabilities).all():
            raise UserError(NOT_FINITE)
        distances = [d.score(o.features) for d, o in zip(self.distances, outputs, strict=False)]
        heatmaps = self.heatmaps.maps(columns, probabilities.argmax(1))
        least = self.threshold.confidence if self.threshold else 0.0
        return [
            Prediction(
                probabilities=probabilities[row],
                low=samples[:, row].min(0),
                high=samples[:, row].max(0),
                abstained=not is_confident(probabilities[row], least),
                distance=float(np.mean(distances, 0)[row]) if distances else None,
                heatmap=heatmaps[row],
            )
            for row in range(len(images))
        ]


def load_predictor(runs: Sequence[str], options: Options) -> PagePredictor:
    """Loads the runs.

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
    return PagePredictor(predictor, threshold, distances, Heatmaps(predictor))
