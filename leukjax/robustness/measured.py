"""What the robustness suite did to one run."""

import dataclasses
from pathlib import Path

from leukjax.metrics.robustness import Curve, Relative
from leukjax.report.provenance import About
from leukjax.robustness import predictions


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run and what the suite did to it.

    Attributes:
        run: its folder.
        name: for tables and figures.
        about: what was scored.
        curves: one a distortion and background, in the order of the suite.
        relative: next to the reference, in the order of `curves`; empty without a reference.
        places: where the predictions of each case lie.
        found: the images.
    """

    run: Path
    name: str
    about: About
    curves: list[Curve]
    relative: list[Relative]
    places: dict[predictions.Case, Path]
    found: predictions.Material
