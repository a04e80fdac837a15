"""Compares two models on the same images: difference, interval, tests and statistical power.

The unit is the group, as in `intervals`. Several seeds of a model are not several subjects: average
their probabilities, or their scores by fold, first.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import optimize, stats

from leukjax.metrics import clustered, confusion, paired_tests
from leukjax.metrics.intervals import TAIL, ZERO, Estimate, bounds, statistic_interval
from leukjax.metrics.paired_tests import DRAWS, least_p, paired_auroc, permutation_p
from leukjax.metrics.scores import predicted_class

TESTS = {
    "cluster_permutation": "paired permutation: the two models' outputs are swapped for whole"
    " groups",
    "obuchowski": "Obuchowski's paired z for two clustered AUROCs",
    "clustered_mcnemar": "McNemar's test for clustered images (Yang)",
    "corrected_resampled_t": "t over folds with the variance corrected for shared training images"
    " (Nadeau & Bengio)",
    "mcnemar": "McNemar's test; assumes independent images",
    "delong": "DeLong's test; assumes independent images",
}
# For contrast only: with cells of few subjects they report differences that do not exist.
INDEPENDENT = ("mcnemar", "delong")
SCORES = ("accuracy", "balanced_accuracy", "weighted_f1", "auroc")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score of two models, compared by one test.

    Attributes:
        score: a name of `intervals.NAMES`.
        test: a key of `TESTS`.
        difference: the first model's score minus the second's; None if either is undefined.
        low, high: its 95 % interval over groups (jackknife); None if there is none.
        error, df: standard error of the difference and its degrees of freedom; None if there is
            no interval.
        statistic: of the test; that of a permutation is the difference itself.
        p: two-sided; None where the test cannot be computed (see `reason`).
        groups: number of groups, or of folds.
        reason: why a value is missing; else empty.
    """

    score: str
    test: str
    difference: float | None
    low: float | None
    high: float | None
    error: float | None
    df: float | None
    statistic: float | None
    p: float | None
    groups: int
    reason: str = ""


def compare(
    labels: Int[np.ndarray, " n"],
    first: Float[np.ndarray, "n c"],
    second: Float[np.ndarray, "n c"],
    groups: Shaped[np.ndarray, " n"],
    positive: int,
    scores: Sequence[str] = SCORES,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Comparison]:
    """Returns every test that applies to two models on the same images.

    Each score gets the paired cluster permutation; accuracy also the clustered McNemar test, and
    McNemar's for contrast; the AUROC of two classes also Obuchowski's, and DeLong's for contrast.

    Args:
        labels: class indices.
        first, second: probabilities by each model, one row per image.
        groups: name of each image's group.
        positive: index of the positive class; ignored above two classes.
        scores: names of `intervals.NAMES`.
        draws, seed: of the permutation above `paired_tests.EXACT_GROUPS` groups.
    """
    a, b = (clustered.group(labels, p, groups) for p in (first, second))
    results = []
    for name in scores:
        base = difference(name, a, b, positive)
        results.append(_permutation(base, a, b, positive, draws, seed))
        if base.difference is None:
            continue
        images = np.arange(len(labels))
        if name == "accuracy":
            right = [predicted_class(p) == labels for p in (first, second)]
            for test, member in (("clustered_mcnemar", a.member), ("mcnemar", images)):
                counts = paired_tests.discordant(right[0], right[1], member)
                chi = getattr(paired_tests, test)(counts)
                reason = "the two never differ"
                results.append(_with_test(base, test, chi.statistic, chi.p, reason))
        elif name == "auroc" and first.shape[1] == 2:
            is_class = labels == positive
            for test, member in (("obuchowski", a.member), ("delong", images)):
                pair = paired_auroc(is_class, first[:, positive], second[:, positive], member)
                reason = "fewer than two groups of a class, or no spread"
                results.append(_with_test(base, test, pair.z, pair.p, reason))
    return results


def difference(
    name: str, first: clustered.Grouped, second: clustered.Grouped, positive: int
) -> Comparison:
    """Returns the paired difference of a score with its interval over groups, without a test.

    The jackknife leaves a group out of both models at once, so that effects common to both (hard
    subjects) cancel.
    """
    first_score, second_score = (
        clustered.statistic(name, data, positive) for data in (first, second)
    )
    interval, estimate = statistic_interval(
        lambda weights: first_score(weights) - second_score(weights),
        first,
        _reach(name),
        ("difference", "score of one of the two"),
    )
    return Comparison(
        name,
        "",
        interval.value,
        interval.low,
        interval.high,
        None if estimate is None else float(estimate.error),
        None if estimate is None else float(estimate.df),
        None,
        None,
        first.groups,
        interval.reason,
    )


def resampled_t(
    score: str,
    first: Float[np.ndarray, " k"],
    second: Float[np.ndarray, " k"],
    test_share: float,
) -> Comparison:
    """Returns the corrected resampled t test (Nadeau & Bengio 2003, Machine Learning 52:239).

    Folds share training images, so their differences vary together: the variance of the mean is
    (1 / k + n_test / n_train) times that of the differences, with k - 1 degrees of freedom.

    Args:
        score: its name.
        first, second: the score of each model in each fold, averaged over seeds.
        test_share: test images over training images of a fold.
    """
    change, k = np.asarray(first) - np.asarray(second), len(first)
    missing = Comparison(
        score, "corrected_resampled_t", None, None, None, None, None, None, None, k
    )
    if np.isnan(change).any():
        return dataclasses.replace(missing, reason="the score is undefined in a fold")
    difference = float(change.mean())
    if k < 2 or change.std() < ZERO:
        reason = "one fold only, or no spread over folds"
        return dataclasses.replace(missing, difference=difference, reason=reason)
    error = float(np.sqrt((1 / k + test_share) * change.var(ddof=1)))
    low, high = bounds(Estimate(difference, error, k - 1), *_reach(score))
    t = difference / error
    p = float(2 * stats.t.sf(abs(t), k - 1))
    return Comparison(score, missing.test, difference, low, high, error, float(k - 1), t, p, k)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Returns p adjusted for multiple tests, step-down (Holm 1979, Scand J Statist 6:65).

    None (a test that could not be computed) stays None and is not counted.
    """
    computed = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(computed):
        largest = max(largest, min(1.0, (len(computed) - rank) * value))
        adjusted[i] = largest
    return adjusted


@dataclasses.dataclass(frozen=True)
class Power:
    """A row of the power table.

    Attributes:
        groups: number of groups.
        detectable: smallest true difference that a two-sided test at 5 % finds with the wanted
            power.
        least_p: smallest p that a paired permutation of this number of groups can give; above 0.05
            no difference can be significant.
    """

    groups: int
    detectable: float
    least_p: float


def power(difference: float, error: float, df: float) -> float:
    """Returns the probability that a t test at 5 % finds a true difference with this error."""
    critical = stats.t.isf(TAIL, df)
    shift = abs(difference) / error
    # SciPy gives NaN where the wrong tail is too thin to compute.
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, df, shift))
    return float(stats.nct.sf(critical, df, shift) + wrong_side)


def detectable(error: float, df: float, wanted: float = 0.8) -> float:
    """Returns the smallest true difference that is found with probability `wanted`."""
    most = 2 * stats.t.isf(TAIL, df) + 10
    shift = optimize.brentq(lambda x: power(x, 1.0, df) - wanted, 0.0, most)
    return float(shift * error)


def power_table(
    error: float,
    df: float,
    groups: int,
    others: tuple[int, ...] = (10, 20, 50, 100, 200, 500),
    wanted: float = 0.8,
) -> list[Power]:
    """Returns detectable differences with the study's number of groups, and with others.

    With more such groups the standard error falls with the square root of their number and the
    degrees of freedom grow in proportion. The spread is the one observed in this study; with few
    groups it is known only roughly.

    Args:
        error, df: of the paired difference, see `difference`.
        groups: of this study.
        others: numbers of groups to compare with.
        wanted: the power.
    """
    rows = []
    for number in sorted({groups, *others}):
        factor = number / groups
        smallest = detectable(error / np.sqrt(factor), max(1.0, df * factor), wanted)
        rows.append(Power(number, smallest, least_p(number)))
    return rows


def groups_needed(
    difference: float, error: float, df: float, groups: int, wanted: float = 0.8
) -> int | None:
    """Returns how many such groups show this difference with the wanted power.

    None if a million groups are not enough.
    """

    def enough(number: int) -> bool:
        factor = number / groups
        return power(difference, error / np.sqrt(factor), max(1.0, df * factor)) >= wanted

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > 1_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _permutation(
    base: Comparison, first, second, positive: int, draws: int, seed: int
) -> Comparison:
    if base.difference is None:
        return dataclasses.replace(base, test="cluster_permutation")
    p = permutation_p(base.score, first, second, positive, draws, seed)
    return dataclasses.replace(base, test="cluster_permutation", statistic=base.difference, p=p)


def _with_test(base: Comparison, test: str, statistic: float, p: float, reason: str) -> Comparison:
    if np.isnan(p):
        return dataclasses.replace(base, test=test, reason=base.reason or reason)
    return dataclasses.replace(base, test=test, statistic=statistic, p=p)


def _reach(name: str) -> tuple[float, float]:
    """Smallest and largest possible difference of a score."""
    if name in (*confusion.NAMES, "auroc", "average_precision"):
        return (-2.0, 2.0) if name == "mcc" else (-1.0, 1.0)
    return -np.inf, np.inf
