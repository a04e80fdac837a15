import itertools

import numpy as np
import pytest
import toy
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from leukjax.metrics import clustered
from leukjax.metrics.comparisons import (
    INDEPENDENT,
    compare,
    detectable,
    difference,
    groups_needed,
    holm,
    power,
    power_table,
    resampled_t,
)
from leukjax.metrics.paired_tests import permutation_p

PROBABILITIES = toy.columns(toy.P1), toy.columns(toy.P2_CALLED)
PAIR = [clustered.group(toy.LABELS, p, toy.SUBJECTS) for p in PROBABILITIES]


@pytest.mark.parametrize(
    ("score", "value", "p"),
    [("auroc", 0.1428571429, 4 / 64), ("weighted_f1", 0.1375, 24 / 64)],
)
def test_permutations_of_the_toy_data(score, value, p):
    assert permutation_p(score, *PAIR, 1) == p
    assert difference(score, *PAIR, 1).difference == pytest.approx(value, abs=5e-11)


def swapped_by_hand(score, labels, first, second, subjects):
    """p over all swaps, in a loop."""
    names = np.unique(subjects)
    observed = abs(score(labels, first) - score(labels, second))
    large = 0
    for swap in itertools.product([False, True], repeat=len(names)):
        exchanged = np.isin(subjects, names[list(swap)])
        a, b = np.where(exchanged, second, first), np.where(exchanged, first, second)
        large += abs(score(labels, a) - score(labels, b)) >= observed - 1e-12
    return large / 2 ** len(names)


@pytest.mark.parametrize("labels", [toy.LABELS, toy.MIXED], ids=["pure", "mixed"])
@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "auroc"])
def test_the_permutation_is_that_of_whole_groups(labels, name):
    by_sklearn = {
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p > 0.5),
        "f1": lambda y, p: f1_score(y, p > 0.5),
        "auroc": roc_auc_score,
    }[name]
    pair = [clustered.group(labels, p, toy.SUBJECTS) for p in PROBABILITIES]
    expected = swapped_by_hand(by_sklearn, labels, toy.P1, toy.P2_CALLED, toy.SUBJECTS)
    assert permutation_p(name, *pair, 1) == expected


def many_subjects(rng, gap, subjects=20, cells=12):
    """Two models of equal or different skill, on subjects that differ in difficulty."""
    member = np.repeat(np.arange(subjects), cells)
    labels = member % 2
    hard = rng.normal(size=subjects)[member]
    ps = []
    for skill in (1.0 + gap, 1.0):
        effect = rng.normal(size=subjects)[member]
        x = skill * (labels - 0.5) * 2 + hard + 0.7 * effect + rng.normal(size=len(member))
        ps.append(toy.columns(stats.norm.cdf(x)))
    return labels, ps, member


def test_above_16_groups_swaps_are_random_and_p_is_never_0():
    labels, ps, member = many_subjects(np.random.default_rng(0), gap=9.0)
    pair = [clustered.group(labels, p, member) for p in ps]
    p = permutation_p("accuracy", *pair, 1, draws=999)
    assert p >= 1 / 1000
    assert p < 0.01
    assert p * 1000 == pytest.approx(round(p * 1000))
    assert p == permutation_p("accuracy", *pair, 1, draws=999)


@pytest.mark.parametrize("groups", [13, 16])
def test_random_swaps_agree_with_all_swaps(groups, monkeypatch):
    labels, ps, member = many_subjects(np.random.default_rng(1), 0.2, subjects=groups)
    pair = [clustered.group(labels, p, member) for p in ps]
    exact = permutation_p("accuracy", *pair, 1)
    monkeypatch.setattr("leukjax.metrics.paired_tests.EXACT_GROUPS", 0)
    sampled = permutation_p("accuracy", *pair, 1, draws=10_000)
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 10_000))


def test_the_difference_of_a_model_with_itself_is_0():
    result = compare(toy.LABELS, *PROBABILITIES[:1], *PROBABILITIES[:1], toy.SUBJECTS, 1)
    assert {c.difference for c in result} == {0.0}
    by_test = {c.test: c.p for c in result if c.score in ("auroc", "accuracy")}
    assert by_test["cluster_permutation"] == 1
    assert by_test["obuchowski"] is None
    assert by_test["clustered_mcnemar"] is None
    assert all(c.reason for c in result)


def test_every_test_that_applies_and_no_other():
    result = compare(toy.LABELS, *PROBABILITIES, toy.SUBJECTS, 1)
    assert [(c.score, c.test) for c in result] == [
        ("accuracy", "cluster_permutation"),
        ("accuracy", "clustered_mcnemar"),
        ("accuracy", "mcnemar"),
        ("balanced_accuracy", "cluster_permutation"),
        ("weighted_f1", "cluster_permutation"),
        ("auroc", "cluster_permutation"),
        ("auroc", "obuchowski"),
        ("auroc", "delong"),
    ]
    p = {(c.score, c.test): c.p for c in result}
    assert p["auroc", "obuchowski"] == pytest.approx(0.0020346780271444666)
    assert p["auroc", "delong"] == pytest.approx(0.15729920705028502)
    assert p["accuracy", "clustered_mcnemar"] == pytest.approx(0.3365521878, abs=5e-11)
    assert p["accuracy", "mcnemar"] == pytest.approx(stats.chi2.sf(1, 1))
    assert {"mcnemar", "delong"} == set(INDEPENDENT)


def test_three_classes_have_no_obuchowski():
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    first, second = (rng.dirichlet([1, 1, 1], 60) for _ in range(2))
    result = compare(labels, first, second, np.arange(60) // 4, 0, scores=("auroc",))
    assert [c.test for c in result] == ["cluster_permutation"]
    expected = roc_auc_score(labels, first, multi_class="ovr") - roc_auc_score(
        labels, second, multi_class="ovr"
    )
    assert result[0].difference == pytest.approx(expected)


def test_common_effects_cancel_from_the_interval():
    labels, ps, member = many_subjects(np.random.default_rng(2), gap=0.5, subjects=30)
    pair = [clustered.group(labels, p, member) for p in ps]
    result = difference("accuracy", *pair, 1)
    means = [np.bincount(member, (p[:, 1] > 0.5) == labels) / np.bincount(member) for p in ps]
    change = means[0] - means[1]
    assert result.difference == pytest.approx(change.mean())
    # Groups of equal size: the jackknife is the t interval by class.
    variance = sum((change[c::2].var(ddof=1) / 15) * 0.25 for c in (0, 1))
    assert result.error == pytest.approx(np.sqrt(variance * 15 / 14), rel=1e-9)
    unpaired = np.sqrt(sum(m.var(ddof=1) / 30 for m in means))
    assert result.error < unpaired


def test_the_permutation_keeps_its_level_and_mcnemar_does_not():
    rng = np.random.default_rng(6)
    result = dict.fromkeys(("cluster_permutation", "clustered_mcnemar", "mcnemar"), 0)
    studies = 300
    for _ in range(studies):
        labels, ps, member = many_subjects(rng, gap=0.0, subjects=10, cells=30)
        for comparison in compare(labels, *ps, member, 1, scores=("accuracy",)):
            result[comparison.test] += comparison.p <= 0.05
    # 99.9 % of binomials of 300 trials at 5 % are in 4 to 29.
    assert 4 <= result["cluster_permutation"] <= 29
    assert 4 <= result["clustered_mcnemar"] <= 29
    assert result["mcnemar"] > 60


def test_corrected_resampled_t_by_hand():
    a, b = np.array([0.9, 0.8, 0.85, 0.95, 0.7]), np.array([0.85, 0.82, 0.8, 0.9, 0.6])
    result = resampled_t("accuracy", a, b, 1 / 3)
    d = a - b
    t = d.mean() / np.sqrt((1 / 5 + 1 / 3) * d.var(ddof=1))
    assert result.statistic == pytest.approx(t)
    assert result.p == pytest.approx(2 * stats.t.sf(t, 4))
    half = stats.t.isf(0.025, 4) * d.mean() / t
    assert (result.low, result.high) == pytest.approx((d.mean() - half, d.mean() + half))
    naive = stats.ttest_rel(a, b)
    assert result.p > naive.pvalue
    # Without shared training images it is the paired t test.
    assert resampled_t("accuracy", a, b, 0.0).p == pytest.approx(naive.pvalue)


def test_holm_by_hand():
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, None, 0.06, 0.02], abs=1e-12
    )
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_undefined_score_has_a_reason():
    all_positive = np.tile([0.2, 0.8], (16, 1))
    all_negative = all_positive[:, ::-1]
    result = compare(toy.LABELS, all_negative, all_positive, toy.SUBJECTS, 1, scores=("precision",))
    assert result[0].p is None
    assert "undefined" in result[0].reason


def test_power_is_the_share_of_studies_that_find_the_difference():
    rng = np.random.default_rng(0)
    groups = 12
    sample = rng.normal(0.8, 1.0, (20_000, groups))
    share = (stats.ttest_1samp(sample, 0, axis=1).pvalue <= 0.05).mean()
    expected = power(0.8, 1 / np.sqrt(groups), groups - 1)
    assert share == pytest.approx(expected, abs=0.012)
    assert power(0.0, 1.0, 5) == pytest.approx(0.05)


def test_detectable_is_the_inverse_of_power():
    for df in (2, 5.5, 40):
        assert power(detectable(0.03, df), 0.03, df) == pytest.approx(0.8)


def test_the_power_table_covers_more_groups():
    rows = power_table(0.03, 11, 12)
    assert [row.groups for row in rows] == [10, 12, 20, 50, 100, 200, 500]
    assert (np.diff([row.detectable for row in rows]) < 0).all()
    assert rows[1].detectable == pytest.approx(detectable(0.03, 11))
    assert rows[0].least_p == 2 / 2**10
    # Above 16 groups 10,000 random swaps give no p below 1 / 10,001.
    assert [row.least_p for row in rows[2:]] == [1 / 10_001] * 5
    assert power_table(0.03, 3, 4)[0].least_p > 0.05  # four groups can never be significant


def test_groups_needed_are_just_enough():
    needed = groups_needed(0.02, 0.03, 11, 12)
    error = [0.03 / np.sqrt(n / 12) for n in (needed - 1, needed)]
    df = [11 * n / 12 for n in (needed - 1, needed)]
    too_low, enough = (power(0.02, e, d) for e, d in zip(error, df, strict=True))
    assert too_low < 0.8 <= enough
    assert groups_needed(0.0, 0.03, 11, 12) is None
