"""leukjax trains, compares and applies classifiers of leukaemia cells in JAX."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

# JAX takes seconds to import, and most of what users ask of the package needs none of it.
if TYPE_CHECKING:
    from leukjax.predict.predictor import Predictor

__version__ = "0.1.0"


def load(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    step: int | str = "best",
    **options: Any,
) -> "Predictor":
    """Loads a trained run; a list of them is an ensemble.

    `leukjax.predict.predictor.load` documents the options. For example::

        import leukjax
        model = leukjax.load("runs/resnet50-cnmc")
        probabilities = model.predict(["cell.bmp"])
    """
    from leukjax.predict import predictor

    return predictor.load(runs, step, **options)
