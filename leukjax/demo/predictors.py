"""What the runs say of prepared images: probability, spread, abstention, unlikeness, heat map."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt8

from leukjax.demo.heatmaps import Heat
from leukjax.demo.options import Options
from leukjax.errors import UserError
from leukjax.metrics.predictions import mean
from leukjax.metrics.selective import Threshold, answers
from leukjax.predict import selective
from leukjax.predict.out_of_distribution import Unlikeness
from leukjax.predict.predict_files import unlikeness_kept
from leukjax.predict.predictor import NOT_FINITE, Model, load
from leukjax.predict.test_time_augmentation import dihedral

Prepared = tuple[UInt8[np.ndarray, "s s 3"], ...]  # as each run sees it


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
      probabilities: of each class.
      low, high: the least and the largest probability of each class over `Judges.over`.
      abstained: the largest probability is below the confidence from which on there are answers.
      unlikeness: `Unlikeness.of`, mean over the runs; None where it is not known.
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
      members: the runs.
      tta: probabilities are means over the eight views.
      threshold: from which confidence on there are answers; None = always.
      likes: one for each run, or none.
      heat: makes the heat maps.
    """

    members: tuple[Model, ...]
    tta: bool
    threshold: Threshold | None
    likes: tuple[Unlikeness, ...]
    heat: Heat

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.members[0].classes

    @property
    def batch_size(self) -> int:
        """Images that are answered together at most."""
        return self.members[0].batch_size

    @property
    def over(self) -> str:
        """What low and high are taken over: ``views`` of one run, or ``members`` of several."""
        return "views" if len(self.members) == 1 else "members"

    def prepare(self, rgb: UInt8[np.ndarray, "h w 3"]) -> Prepared:
        """An image as each run sees it; runs of one recipe share it."""
        ready: dict[tuple, np.ndarray] = {}
        for member in self.members:
            if member.recipe not in ready:
                ready[member.recipe] = member.preprocess(rgb)
        return tuple(ready[member.recipe] for member in self.members)

    def answer(self, images: Sequence[Prepared]) -> list[Answer]:
        """An answer for each of up to `batch_size` images."""
        columns = [np.stack(column) for column in zip(*images, strict=True)]
        looks, features = [], []
        for member, column in zip(self.members, columns, strict=True):
            seen = self._views(column)
            found = member.answers(seen.reshape(-1, *column.shape[1:]))
            looks.append(found.probabilities.reshape(*seen.shape[:2], -1))
            features.append(found.features[: len(column)])  # the first view is the image itself
        by_view = np.stack(looks)  # [members, views, n, c]
        by_member = by_view.mean(1) if self.tta else by_view[:, 0]
        each = by_view[0] if self.over == "views" else by_member
        probabilities = mean(list(by_member))
        if not np.isfinite(probabilities).all():
            raise UserError(NOT_FINITE)
        unlike = [like.of(own) for like, own in zip(self.likes, features, strict=False)]
        heat = self.heat.maps(columns, probabilities.argmax(1))
        least = self.threshold.confidence if self.threshold else 0.0
        return [
            Answer(
                probabilities=probabilities[row],
                low=each[:, row].min(0),
                high=each[:, row].max(0),
                abstained=not answers(probabilities[row], least),
                unlikeness=float(np.mean(unlike, 0)[row]) if unlike else None,
                heat=heat[row],
            )
            for row in range(len(images))
        ]

    def _views(self, images: UInt8[np.ndarray, "n s s 3"]) -> UInt8[np.ndarray, "v n s s 3"]:
        if self.over == "members" and not self.tta:
            return images[None]
        # Of one shape, however many images there are: one compilation.
        padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        return np.asarray(dihedral(jnp.asarray(padded)))[:, : len(images)]


def appoint(runs: Sequence[str], options: Options) -> Judges:
    """Load the runs.

    Raises:
      UserError: as in `model.load` and `confidence.choose`.
    """
    loaded = load(
        runs,
        options.step,
        tta=options.tta,
        calibrated=options.calibrated,
        batch_size=options.batch_size,
    )
    threshold = None
    if options.max_error is not None:
        threshold = selective.choose(loaded.members, options.max_error)
    # The views are looked at one by one here.
    members = tuple(dataclasses.replace(member, tta=False) for member in loaded.members)
    return Judges(members, options.tta, threshold, tuple(unlikeness_kept(members)), Heat(members))
