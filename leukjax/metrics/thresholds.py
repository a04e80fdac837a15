"""An operating point: from which probability of the positive class an image is called positive.

It is chosen on validation and applied to test; chosen on test it would be too good. Thresholds are
float64 and are compared in float64: between two neighbouring float32 numbers there is no third, so
a threshold half-way between them would be rounded to one of them.
"""

import numpy as np
from jaxtyping import Bool, Float

from leukjax.errors import UserError

_RULES = {
    "youden": "largest sensitivity + specificity - 1 on validation (Youden 1950, Cancer 3:32)",
    "sensitivity": "largest with a sensitivity of at least {} on validation",
    "specificity": "smallest with a specificity of at least {} on validation",
}


def describe(criterion: str) -> str:
    """How the threshold is chosen, in words."""
    name, least = check(criterion)
    return _RULES[name].format(least) if name in _RULES else f"{least:g}, as given"


def check(criterion: str) -> tuple[str, float]:
    """Parse a criterion: its name and number; ("fixed", t) where it is the threshold itself.

    Raises:
      UserError: it is none.
    """
    name, equals, text = criterion.partition("=")
    try:
        value = float(text if equals else name) if name != "youden" else 0.0
    except ValueError:
        value = np.nan
    if name == "youden" and not equals:
        return name, value
    if name in ("sensitivity", "specificity") and 0 < value <= 1:
        return name, value
    if not equals and 0 <= value <= 1:
        return "fixed", value
    raise UserError(
        f"--threshold={criterion}: must be youden, sensitivity=X, specificity=X (X above 0, up to "
        "1), or a number in 0 to 1"
    )


def choose(
    criterion: str, is_positive: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> float:
    """The threshold t of a criterion; an image is called positive if its probability is >= t.

    Candidates lie half-way between neighbouring probabilities, so that rounding in another run
    moves no image across; of equally good ones the one nearest to 0.5 is taken.

    Args:
      criterion: "youden", "sensitivity=X", "specificity=X", or a number: the threshold itself.
      is_positive: the truth.
      probability: of the positive class.

    Raises:
      UserError: a criterion of another form, or one class only.
    """
    name, least = check(criterion)
    if name == "fixed":
        return least
    if is_positive.all() or not is_positive.any():
        raise UserError(f"--threshold={criterion}: validation holds one class only; give a number")
    candidates = _between(probability)
    sensitivity = 1 - _share_below(candidates, probability[is_positive])
    specificity = _share_below(candidates, probability[~is_positive])
    if name == "youden":
        good = sensitivity + specificity
        best = candidates[good >= good.max() - 1e-12]
        return float(best[np.abs(best - 0.5).argmin()])
    # Of those that keep the promise, the one that is best in the other respect.
    if name == "sensitivity":
        return float(candidates[sensitivity >= least - 1e-12].max())
    return float(candidates[specificity >= least - 1e-12].min())


def reached(probability: Float[np.ndarray, " n"], threshold: float) -> Bool[np.ndarray, " n"]:
    """Whether each probability is at least the threshold, compared in float64."""
    return probability.astype(np.float64) >= np.float64(threshold)


def _share_below(
    thresholds: Float[np.ndarray, " m"], probability: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " m"]:
    return np.searchsorted(np.sort(probability.astype(np.float64)), thresholds) / len(probability)


def _between(probability: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """0 (all are positive), half-way between neighbours, and just above all (none is)."""
    values = np.unique(probability.astype(np.float64))
    return np.concatenate([[0.0], (values[:-1] + values[1:]) / 2, [np.nextafter(values[-1], 2)]])
