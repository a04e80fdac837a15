"""Heads for images: logistic regression, nearest neighbours, and attention over tokens.

The protocol is that of DinoBloom (Koch et al. 2024, MICCAI): logistic regression by L-BFGS with C =
features x classes / 100 and at most 1,000 iterations, and 1 and 20 nearest neighbours. Features are
standardised on the training images, and folds do not divide subjects; theirs do.
"""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from leukjax.probe import attention

MAX_ITERATIONS = 1000
# Values of C that validation chooses from, until the loss has risen twice.
STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 3))
FIXED, BY_LOSS = "nothing: it is fixed", "log loss on val"
_TOKENS_AT_ONCE = 256  # images


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a head is fitted to: units (images or subjects), their features, and their parts.

    Attributes:
      features: of all images.
      tokens: of all images, or None.
      members: the images of each unit, as rows of `features`.
      labels: of each unit; -1 = unlabelled.
      classes: number of classes.
      train, val: rows of the units.
      seed: of initial values and orders.
    """

    features: Float32[np.ndarray, "n d"]
    tokens: Float16[np.ndarray, "n t e"] | None
    members: Sequence[Int[np.ndarray, " k"]]
    labels: Int[np.ndarray, " u"]
    classes: int
    train: Int[np.ndarray, " t"]
    val: Int[np.ndarray, " v"]
    seed: int

    @functools.cached_property
    def train_images(self) -> Int[np.ndarray, " k"]:
        """The images of the training units, ascending."""
        return np.sort(np.concatenate([self.members[row] for row in self.train]))

    @functools.cached_property
    def standardized(self) -> Float[np.ndarray, "n d"]:
        """float64 features of all images, with mean 0 and deviation 1 over the training images."""
        mean, std = _statistics(self.features[self.train_images].astype(np.float64))
        return (np.asarray(self.features) - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted head.

    Attributes:
      predict: rows of units -> probabilities, float64[n, c].
      setting: what was fixed or chosen, in words.
      chosen_by: how, in words.
      epoch: that was kept; 0 = it has none.
      weights: rows of units -> the weight of each image of a unit; None = it has none.
    """

    predict: Callable[[np.ndarray], Float[np.ndarray, "n c"]]
    setting: str
    chosen_by: str = FIXED
    epoch: int = 0
    weights: Callable[[np.ndarray], list[np.ndarray]] | None = None


@dataclasses.dataclass(frozen=True)
class Head:
    """A kind of head: what it is called in reports, and how it is fitted."""

    description: str
    fit: Callable[[Problem], Fitted]
    needs_tokens: bool = False


def logistic(
    x: Float[np.ndarray, "u d"], problem: Problem, strengths: Sequence[float]
) -> tuple[LogisticRegression, float]:
    """Fits logistic regressions to the training units, and returns the best on validation.

    Args:
      x: standardised vector of each unit.
      problem: labels and parts.
      strengths: values of C, the inverse of the L2 penalty, ascending. The one with the lowest log
        loss on validation is chosen, the smallest of equal ones; after two values that are worse
        than the best the others are not tried, as they take longest.

    Returns:
      The model and its C.
    """
    best, least, worse = None, np.inf, 0
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():  # the protocol ends there, converged or not
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[problem.train], problem.labels[problem.train])
        given = probabilities(model, x[problem.val], problem.classes)
        likelihood = given[np.arange(len(given)), problem.labels[problem.val]]
        loss = float(-np.log(np.maximum(likelihood, np.finfo(np.float64).eps)).mean())
        worse = worse + 1 if loss >= least else 0
        if best is None or loss < least:
            best, least = (copy.deepcopy(model), strength), loss
        if worse == 2:
            break
    assert best is not None
    return best


def probabilities(
    model: LogisticRegression | KNeighborsClassifier, x: Float[np.ndarray, "n d"], classes: int
) -> Float[np.ndarray, "n c"]:
    """Returns the probabilities of all classes; 0 for those without a training image."""
    table = np.zeros((len(x), classes))
    table[:, model.classes_] = model.predict_proba(x)
    return table


def _logistic(problem: Problem, *, choose: bool) -> Fitted:
    x, fixed = problem.standardized, problem.features.shape[1] * problem.classes / 100
    model, strength = logistic(x, problem, STRENGTHS if choose else (fixed,))
    how = BY_LOSS if choose else FIXED
    return Fitted(
        lambda rows: probabilities(model, x[rows], problem.classes), f"C = {strength:g}", how
    )


def _neighbors(problem: Problem, *, count: int) -> Fitted:
    x = problem.standardized
    used = min(count, len(problem.train))
    model = KNeighborsClassifier(used, algorithm="brute")
    model.fit(x[problem.train], problem.labels[problem.train])
    return Fitted(lambda rows: probabilities(model, x[rows], problem.classes), f"k = {used}")


ATTENTIVE = attention.Training(
    hidden=0, batch_size=32, epochs=50, patience=8, learning_rate=3e-3, weight_decay=1e-2
)


def _attentive(problem: Problem) -> Fitted:
    assert problem.tokens is not None
    tokens = _Tokens(problem.tokens, problem.train_images)
    head = attention.fit(
        tokens,
        problem.labels,
        problem.train,
        problem.val,
        problem.classes,
        ATTENTIVE,
        problem.seed,
    )
    return Fitted(lambda rows: head.predict(rows)[0], f"epoch {head.epoch}", BY_LOSS, head.epoch)


class _Tokens:
    """The tokens of each image, standardised on the training images."""

    def __init__(self, tokens: Float16[np.ndarray, "n t e"], train: np.ndarray) -> None:
        self.shape = (tokens.shape[1], tokens.shape[2])
        self._tokens = tokens
        # In pieces: all tokens may be more than the memory. The variance in a second pass, because
        # the difference of two large sums would lose it.
        pieces = [train[i : i + _TOKENS_AT_ONCE] for i in range(0, len(train), _TOKENS_AT_ONCE)]
        count = len(train) * tokens.shape[1]
        mean = sum(tokens[rows].sum((0, 1), np.float64) for rows in pieces) / count
        squares = sum(
            ((tokens[rows].astype(np.float64) - mean) ** 2).sum((0, 1)) for rows in pieces
        )
        self._mean = np.asarray(mean, np.float32)
        self._std = np.asarray(_positive(np.sqrt(np.asarray(squares) / count)), np.float32)

    def take(
        self, sets: Int[np.ndarray, " b"]
    ) -> tuple[Float32[np.ndarray, "b m d"], Bool[np.ndarray, "b m"]]:
        x = (self._tokens[sets].astype(np.float32) - self._mean) / self._std
        return x, np.ones(x.shape[:2], bool)


def _statistics(x: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), _positive(x.std(axis=0))


def _positive(std: np.ndarray) -> np.ndarray:
    """A feature that is the same for all training images stays as it is."""
    return np.where(std > 0, std, 1.0)


HEADS: dict[str, Head] = {
    "logistic": Head("logistic regression", functools.partial(_logistic, choose=False)),
    "logistic_val": Head(
        "logistic regression, C by validation", functools.partial(_logistic, choose=True)
    ),
    "knn1": Head("nearest neighbour", functools.partial(_neighbors, count=1)),
    "knn20": Head("20 nearest neighbours", functools.partial(_neighbors, count=20)),
    "attentive": Head("attention over tokens", _attentive, needs_tokens=True),
}
