"""Coverage of the intervals in thousands of simulated studies."""

import numpy as np
import oracles
import pytest
import toy
from scipy import stats

from leukjax.metrics import clustered
from leukjax.metrics.external import bootstrap, drop
from leukjax.metrics.intervals import interval

DRAWS = 4000


def study(rng, numbers=(13, 15)):
    """13 + 15 subjects whose accuracies and numbers of cells vary (statistics.md)."""
    parts = []
    for label, (subjects, mean, sd, cells) in enumerate(
        [(numbers[0], 0.898, 0.097, 94), (numbers[1], 0.711, 0.182, 43)]
    ):
        size = mean * (1 - mean) / sd**2 - 1
        accuracy = rng.beta(mean * size, (1 - mean) * size, subjects)
        n = np.maximum(1, np.round(cells * rng.lognormal(0, 0.8, subjects))).astype(int)
        member = np.repeat(np.arange(subjects), n)
        right = rng.random(len(member)) < accuracy[member]
        predicted = np.where(right, label, 1 - label)
        parts.append((np.full(len(member), label), 0.1 + 0.8 * predicted, member + 100 * label))
    labels, p, member = (np.concatenate(c) for c in zip(*parts, strict=True))
    return clustered.group(labels, toy.columns(p), member)


def test_the_jackknife_covers_and_independent_images_do_not():
    rng = np.random.default_rng(0)
    truth = (0.898 + 0.711) / 2
    holds = dict.fromkeys(("jackknife", "group_means", "independent_images"), 0)
    for _ in range(DRAWS):
        data = study(rng)
        for method in holds:
            result = oracles.interval("balanced_accuracy", data, 1, method)
            holds[method] += result.low <= truth <= result.high
    print(
        {method: number / DRAWS for method, number in holds.items()}
    )  # docs/benchmarks/reproducibility.md
    assert 0.92 <= holds["jackknife"] / DRAWS <= 0.97
    assert 0.92 <= holds["group_means"] / DRAWS <= 0.97
    assert holds["independent_images"] / DRAWS < 0.6


def test_the_interval_of_an_external_difference_covers():
    """Two independent studies of one truth, of 12 and 28 groups (docs/howto/evaluate.md)."""
    rng, draws = np.random.default_rng(2), 1000
    holds = {"mover": 0, "bootstrap": 0}
    for _ in range(draws):
        data = [study(rng, (6, 6)), study(rng)]
        scores = [clustered.statistic("balanced_accuracy", each, 1) for each in data]
        resampled = bootstrap(scores, data, draws=200)
        found = drop(*(interval("balanced_accuracy", each, 1) for each in data), 40, resampled)
        holds["mover"] += found.low <= 0 <= found.high
        holds["bootstrap"] += found.bootstrap[0] <= 0 <= found.bootstrap[1]
    print({method: number / draws for method, number in holds.items()})
    assert 0.93 <= holds["mover"] / draws <= 0.98
    assert holds["bootstrap"] / draws < 0.93


@pytest.mark.slow
def test_the_jackknife_of_recall_accuracy_and_auroc_covers():
    """Subjects' probabilities differ by a normal effect; AUROC has a closed form."""
    rng = np.random.default_rng(1)
    shift, spread = 1.0, 0.7
    effect = np.sqrt(1 + spread**2)
    truth = {
        "auroc": stats.norm.cdf(shift / (np.sqrt(2) * effect)),
        "recall": stats.norm.cdf(shift / 2 / effect),
        "specificity": stats.norm.cdf(shift / 2 / effect),
        "balanced_accuracy": stats.norm.cdf(shift / 2 / effect),
    }
    holds = dict.fromkeys(truth, 0)
    for _ in range(DRAWS):
        cells = np.repeat([30, 20], [13, 15]) * rng.lognormal(0, 0.8, 28)
        member = np.repeat(np.arange(28), np.maximum(1, np.round(cells)).astype(int))
        labels = (member >= 13).astype(int)
        x = shift * (labels - 0.5) + spread * rng.normal(size=28)[member]
        p = stats.norm.cdf(x + rng.normal(size=len(member)))
        data = clustered.group(labels, toy.columns(p), member)
        for name, value in truth.items():
            result = interval(name, data, 1)
            holds[name] += result.low <= value <= result.high
    for name, number in holds.items():
        assert 0.92 <= number / DRAWS <= 0.97, name
