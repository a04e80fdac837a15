"""What every table and figure must say about where its numbers come from."""

import dataclasses

from ml_collections import ConfigDict

from leukjax.models.registry import describe


def model_name(model: ConfigDict) -> str:
    """Returns a model's name for readers, from the section `model` of its config."""
    return describe(model)


@dataclasses.dataclass(frozen=True)
class About:
    """The predictions behind a table or a figure.

    Attributes:
        data: name of the data set.
        part: which part was scored, as "test".
        classes: names, in the order of the probabilities.
        positive: the class that precision, recall, specificity, F1 and AUROC speak of.
        synthetic: the images are drawn.
        leaky: subjects (or duplicates) are on both sides of the split.
        subjects_known: False: every image had to be taken for a subject of its own.
    """

    data: str
    part: str
    classes: tuple[str, ...]
    positive: str
    synthetic: bool = False
    leaky: bool = False
    subjects_known: bool = True

    def marks(self) -> list[str]:
        """The warnings that belong beside every score, as short titles."""
        marks = []
        if self.synthetic:
            marks.append("SYNTHETIC data")
        if self.leaky:
            marks.append("LEAKY image split")
        if not self.subjects_known:
            marks.append("no subjects known")
        return marks

    def warnings(self) -> list[str]:
        """The same as sentences."""
        sentences = []
        if self.synthetic:
            sentences.append(
                "SYNTHETIC data: the cells are drawn; these scores say nothing about real ones."
            )
        if self.leaky:
            sentences.append(
                "LEAKY image split: cells of one subject are on both sides; these scores are too"
                " high."
            )
        if not self.subjects_known:
            sentences.append(
                "No subjects known: every image counts as its own, so intervals may be too narrow."
            )
        return sentences
