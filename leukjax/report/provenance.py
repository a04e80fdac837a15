"""What every table and figure must state about the origin of its numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class About:
    """The predictions behind a table or a figure.

    Attributes:
      data: name of the data set.
      part: the part of the split that was evaluated, such as "test".
      classes: names, in the order of the probabilities.
      positive: the class of precision, recall, specificity, F1 and AUROC; "" above two classes.
      synthetic: the images are computer-generated.
      leaky: subjects (or duplicates) are in more than one part of the split.
      subjects_known: False if each image had to be taken as its own subject.
      rare: classes that parts may lack, because they have few groups; scores are given without them
        too.
      groups: value of ``split.groups``: the rule that made the groups.
    """

    data: str
    part: str
    classes: tuple[str, ...]
    positive: str
    synthetic: bool = False
    leaky: bool = False
    subjects_known: bool = True
    rare: tuple[str, ...] = ()
    groups: str = "auto"

    def _groups(self) -> str:
        if self.groups.startswith("blocks:"):
            size = self.groups.removeprefix("blocks:")
            return (
                f"no subjects are known, and each {size} consecutive images of a folder count as"
                f" one group (split.groups={self.groups})"
            )
        return "nearly identical images are of one group (split.groups=near_duplicates)"

    def marks(self) -> list[str]:
        """Returns the warnings that belong beside every score, as short titles."""
        marks = []
        if self.synthetic:
            marks.append("SYNTHETIC data")
        if self.leaky:
            marks.append("LEAKY split")
        if not self.subjects_known:
            marks.append("no subjects known")
        if self.groups != "auto":
            marks.append(f"ASSUMED groups ({self.groups})")
        return marks

    def warnings(self) -> list[str]:
        """Returns the same warnings as sentences."""
        sentences = []
        if self.synthetic:
            sentences.append(
                "SYNTHETIC data: the cells are computer-generated; these scores do not transfer to"
                " real cells."
            )
        if self.leaky:
            sentences.append(
                "LEAKY split: training and test contain cells of the same subjects; these"
                " scores are too high."
            )
        if self.groups != "auto":
            sentences.append(
                f"ASSUMPTION: {self._groups()}. If cells of one subject are in several"
                " groups, scores are too high and intervals too narrow."
            )
        elif not self.subjects_known:
            sentences.append(
                "No subjects known: each image counts as its own subject, so intervals may be too"
                " narrow."
            )
        return sentences
