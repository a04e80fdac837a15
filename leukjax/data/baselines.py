"""What a model has to beat: the larger class, and the size of the cell."""

import dataclasses

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukjax.data.manifest import Manifest
from leukjax.data.split import Split

_RULES = {
    "black": "area above black",
    "bright": "area darker than Otsu's threshold",
}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A trivial model's predictions, in the form of a real one's, to be scored alike.

    Attributes:
      name: "larger class" or "cell area alone".
      description: what it is, for the table's caption.
      probabilities: part ("val", "test") -> float64[n, classes], rows as in `Split.rows(part)`.
    """

    name: str
    description: str
    probabilities: dict[str, Float[np.ndarray, "n c"]]


def baselines(manifest: Manifest, split: Split, background: str = "black") -> list[Baseline]:
    """Fits the baselines on the training part and applies them to the others.

    The larger class predicts the training part's class frequencies for every image. The area model
    is a logistic regression (maximum likelihood, unweighted as the default loss of training, with
    scikit-learn's L2 penalty C = 1) on the standardised share of foreground.

    Args:
      manifest: the images, with their areas.
      split: their parts; training must hold every class.
      background: `Source.background`: which rule gave the area; for the description.
    """
    train = split.rows("train")
    labels, classes = manifest.label[train], len(manifest.classes)
    frequencies = np.bincount(labels, minlength=classes) / len(labels)
    larger = manifest.classes[int(frequencies.argmax())]
    area = manifest.area[:, None].astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(area[train], labels)
    parts = {part: split.rows(part) for part in ("val", "test")}
    return [
        Baseline(
            "larger class",
            f"every image called {larger}",
            {part: np.tile(frequencies, (len(rows), 1)) for part, rows in parts.items()},
        ),
        Baseline(
            "cell area alone",
            f"logistic model on one number, the {_RULES[background]} as a share of the image",
            {part: model.predict_proba(area[rows]) for part, rows in parts.items()},
        ),
    ]
