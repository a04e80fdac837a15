"""Two models on the same images: how far apart, how sure, and by which test.

The unit is the group, as in `intervals`. Seeds of a model are no further subjects: average their
probabilities, or their scores by fold, before coming here.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from leukjax.metrics import clustered, confusion, mcnemar
from leukjax.metrics.jackknife import ZERO, Estimate, NoIntervalError, bounds, jackknife
from leukjax.metrics.obuchowski import paired_auroc
from leukjax.metrics.scores import predicted_class

EXACT_GROUPS = 16  # up to so many groups all swaps are tried
DRAWS = 10_000  # random swaps above that
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
# For contrast only: with cells of few subjects they find differences that are not there.
INDEPENDENT = ("mcnemar", "delong")
SCORES = ("accuracy", "balanced_accuracy", "weighted_f1", "auroc")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score of two models, compared by one test.

    Attributes:
        score: a name of `intervals.NAMES`.
        test: a key of `TESTS`.
        difference: the first model's score less the second's; None if either is undefined.
        low, high: its 95 % interval over groups (jackknife); None where there is none.
        error, df: standard error of the difference and its degrees of freedom; None likewise.
        statistic: of the test; that of a permutation is the difference itself.
        p: two-sided; None where the test cannot be made, and `reason` says why.
        groups: number of groups, or of folds.
        reason: why something is missing, else empty.
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
    """Every test that applies to two models on the same images.

    The paired cluster permutation for each score; for accuracy the clustered McNemar test, and
    McNemar's for contrast; for the AUROC of two classes Obuchowski's, and DeLong's for contrast.

    Args:
        labels: class indices.
        first, second: probabilities by each model, a row an image.
        groups: name of each image's group.
        positive: index of the positive class; without meaning above two classes.
        scores: names of `intervals.NAMES`.
        draws, seed: of the permutation above `EXACT_GROUPS` groups.
    """
    one, two = (clustered.group(labels, p, groups) for p in (first, second))
    found = []
    for name in scores:
        base = difference(name, one, two, positive)
        found.append(_permuted(base, one, two, positive, draws, seed))
        if base.difference is None:
            continue
        if name == "accuracy":
            right = [predicted_class(p) == labels for p in (first, second)]
            for test, member in (
                ("clustered_mcnemar", one.member),
                ("mcnemar", np.arange(len(labels))),
            ):
                counts = mcnemar.discordant(right[0], right[1], member)
                how = mcnemar.independent_images if test in INDEPENDENT else mcnemar.yang
                chi = how(counts)
                found.append(_tested(base, test, chi.statistic, chi.p, "the two never differ"))
        elif name == "auroc" and first.shape[1] == 2:
            is_class = labels == positive
            for test, member in (("obuchowski", one.member), ("delong", np.arange(len(labels)))):
                pair = paired_auroc(is_class, first[:, positive], second[:, positive], member)
                why = "fewer than two groups of a class, or no spread"
                found.append(_tested(base, test, pair.z, pair.p, why))
    return found


def difference(
    name: str, first: clustered.Grouped, second: clustered.Grouped, positive: int
) -> Comparison:
    """The paired difference of a score with its interval over groups, and no test yet.

    The jackknife leaves a group out of both models at once, so what the two have in common (hard
    subjects) cancels.
    """
    one, two = (clustered.statistic(name, data, positive) for data in (first, second))
    whole = np.ones((1, first.groups))
    value = float(one(whole)[0] - two(whole)[0])
    empty = Comparison(name, "", None, None, None, None, None, None, None, first.groups)
    if np.isnan(value):
        return dataclasses.replace(empty, reason="the score of one of the two is undefined")
    empty = dataclasses.replace(empty, difference=value)
    try:
        estimate = jackknife(lambda weights: one(weights) - two(weights), first, value)
    except NoIntervalError as none:
        return dataclasses.replace(empty, reason=str(none))
    if estimate.error < ZERO:
        why = "the difference is the same whichever group is left out"
        return dataclasses.replace(empty, reason=why)
    low, high = bounds(Estimate(value, estimate.error, estimate.df), *_reach(name))
    return dataclasses.replace(
        empty, low=low, high=high, error=float(estimate.error), df=float(estimate.df)
    )


def permutation_p(
    name: str,
    first: clustered.Grouped,
    second: clustered.Grouped,
    positive: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """p of the paired cluster permutation, two-sided.

    If the models were alike, swapping their outputs for a whole group would change nothing but
    chance. Up to 16 groups all 2^G swaps are made; above, `draws` of them at random, and
    p = (b + 1) / (draws + 1) with b swaps whose difference is at least as large (Phipson & Smyth
    2010, Stat Appl Genet Mol Biol 9:39). A swap that leaves the score undefined counts as large.
    NaN if the score is undefined to begin with.
    """
    groups = first.groups
    # Both models in one table, each group twice; swapping a group is swapping two weights.
    both = clustered.Grouped(
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.probabilities, second.probabilities]),
        np.concatenate([first.member, second.member + groups]),
        np.concatenate([first.stratum, second.stratum]),
        first.single_class,
    )
    score = clustered.statistic(name, both, positive)

    def differences(swap: np.ndarray) -> np.ndarray:
        kept = ~swap
        one = np.concatenate([kept, swap], axis=1).astype(np.float64)
        two = np.concatenate([swap, kept], axis=1).astype(np.float64)
        return score(one) - score(two)

    observed = abs(differences(np.zeros((1, groups), bool))[0])
    if np.isnan(observed):
        return np.nan
    exact = groups <= EXACT_GROUPS
    # Swapping all groups turns the sign alone: the first one can stay.
    total = 2 ** max(groups - 1, 0) if exact else draws
    rng = np.random.default_rng(seed)
    rows = max(1, clustered.CHUNK // len(both.labels))
    large = 0
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        if exact:
            swap = (np.arange(start, stop)[:, None] >> np.arange(groups)) & 1 == 1
        else:
            swap = rng.random((stop - start, groups)) < 0.5
        # Equal but for rounding counts as equal; NaN as large.
        large += int((~(np.abs(differences(swap)) < observed - ZERO)).sum())
    return large / total if exact else (large + 1) / (draws + 1)


def least_p(groups: int, draws: int = DRAWS) -> float:
    """The smallest p that the paired cluster permutation of `groups` groups can give.

    With all swaps it is 2 / 2^G: the observed difference and its mirror image. With random ones it
    is 1 / (draws + 1), however many groups there are.
    """
    return 2.0 ** (1 - groups) if groups <= EXACT_GROUPS else 1 / (draws + 1)


def resampled_t(
    score: str,
    first: Float[np.ndarray, " k"],
    second: Float[np.ndarray, " k"],
    test_share: float,
) -> Comparison:
    """The corrected resampled t test (Nadeau & Bengio 2003, Machine Learning 52:239).

    Folds share training images, so their differences vary together: the variance of the mean is
    (1 / k + n_test / n_train) times that of the differences, with k - 1 degrees of freedom.

    Args:
        score: its name.
        first, second: the score of each model in each fold, averaged over seeds.
        test_share: test images over training images of a fold.
    """
    change, k = np.asarray(first) - np.asarray(second), len(first)
    test = "corrected_resampled_t"
    empty = Comparison(score, test, None, None, None, None, None, None, None, k)
    if np.isnan(change).any():
        return dataclasses.replace(empty, reason="the score is undefined in a fold")
    empty = dataclasses.replace(empty, difference=float(change.mean()))
    if k < 2 or change.std() < ZERO:
        return dataclasses.replace(empty, reason="one fold only, or no spread over folds")
    estimate = Estimate(
        float(change.mean()), float(np.sqrt((1 / k + test_share) * change.var(ddof=1))), k - 1
    )
    low, high = bounds(estimate, *_reach(score))
    t = estimate.value / estimate.error
    return dataclasses.replace(
        empty,
        low=low,
        high=high,
        error=estimate.error,
        df=float(k - 1),
        statistic=float(t),
        p=float(2 * stats.t.sf(abs(t), k - 1)),
    )


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p adjusted for their number, step-down (Holm 1979, Scand J Statist 6:65).

    None (a test that could not be made) stays None and counts for nothing.
    """
    made = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, i) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - rank) * value))
        adjusted[i] = largest
    return adjusted


def _permuted(base: Comparison, one, two, positive: int, draws: int, seed: int) -> Comparison:
    if base.difference is None:
        return dataclasses.replace(base, test="cluster_permutation")
    p = permutation_p(base.score, one, two, positive, draws, seed)
    return dataclasses.replace(base, test="cluster_permutation", statistic=base.difference, p=p)


def _tested(base: Comparison, test: str, statistic: float, p: float, why: str) -> Comparison:
    if np.isnan(p):
        return dataclasses.replace(base, test=test, reason=base.reason or why)
    return dataclasses.replace(base, test=test, statistic=statistic, p=p)


def _reach(name: str) -> tuple[float, float]:
    """What a difference of a score can be."""
    if name in (*confusion.NAMES, "auroc", "average_precision"):
        return (-2.0, 2.0) if name == "mcc" else (-1.0, 1.0)
    return -np.inf, np.inf
