"""Predictions on another data set than that of the runs, and the runs' own test beside them."""

import dataclasses
from collections.abc import Mapping, Sequence

from leukjax.data.class_map import Mapped
from leukjax.data.dataset import Dataset
from leukjax.data.records import Records
from leukjax.errors import UserError
from leukjax.metrics.external import ExternalTest, external_test
from leukjax.metrics.predictions import Predictions
from leukjax.predict import recorded
from leukjax.predict.member import Member, Outputs


@dataclasses.dataclass(frozen=True, eq=False)
class ExternalPredictions:
    """Predictions on another data set. Made by `Predictor.external_predictions`.

    Attributes:
      predictions: labelled with the classes of the runs.
      mapped: the images, and what their data set calls their classes.
      ours_of: the class map that was used: their class -> ours, "" = left out.
      outputs: of each member, in the order of the predictions.
      records: the prepared images of the first member.
      positive: the positive class of the runs; "" above two classes.
      own_predictions: on the runs' own test; None where `no_own` says why.
      no_own: reason, else "".
    """

    predictions: Predictions
    mapped: Mapped
    ours_of: Mapping[str, str]
    outputs: Sequence[Outputs]
    records: Records
    positive: str
    own_predictions: Predictions | None
    no_own: str

    def test(self, threshold: float | None = None) -> ExternalTest:
        """Scores the predictions beside those of the runs' own test.

        Args:
          threshold: of the positive class; None = the class with the largest probability.
        """
        return external_test(
            self.predictions,
            self.mapped.theirs,
            self.mapped.left_out,
            self.own_predictions,
            positive=self.positive,
            threshold=threshold,
            no_own=self.no_own,
            name=f"external test on {self.records.name}",
            notes=notes_of(self.records),
        )


def own_test(members: Sequence[Member], *, tta: bool) -> tuple[Predictions | None, str]:
    """Returns what runs predicted on their own test; or None, and the reason."""
    if tta:
        return None, "it was predicted without tta"
    try:
        return recorded.predictions(members, "test"), ""
    except UserError as error:
        return None, str(error)


def notes_of(data: Dataset | Records) -> list[str]:
    """Returns what every score on a data set must state."""
    notes = []
    if data.synthetic:
        notes.append("SYNTHETIC data: these scores say nothing about real cells.")
    if not data.subjects_known:
        notes.append("No subjects known: each image is its own; intervals may be too narrow.")
    return notes
