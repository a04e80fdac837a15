import numpy as np
import oracles
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from leukjax.metrics import clustered
from leukjax.metrics.intervals import NAMES, interval, intervals

TOY = clustered.group(toy.LABELS, toy.columns(toy.P1), toy.SUBJECTS)
T975 = stats.t.ppf(0.975, 5)


def half(score):
    return (score.high - score.low) / 2


@pytest.mark.parametrize(
    ("p", "value", "error"),
    [
        (toy.P1, 0.75, 0.0640434422872475),
        (toy.P2_CALLED, 0.625, 0.11796616305110547),
    ],
)
def test_cr1_of_the_accuracy_of_the_toy_data(p, value, error):
    data = clustered.group(toy.LABELS, toy.columns(p), toy.SUBJECTS)
    result = oracles.interval("accuracy", data, 1, "cr1")
    assert result.value == value
    assert result.groups == 6
    np.testing.assert_allclose(
        [result.low, result.high], [value - T975 * error, min(1, value + T975 * error)], rtol=1e-12
    )


def test_jackknife_of_the_balanced_accuracy_worked_by_hand():
    # Correct images: A 2 of 3, B 2 of 2, C 3 of 4 and D 2 of 3, E 2 of 2, F 1 of 2.
    variance, weight = 0, 0
    for right, images in (((2, 2, 3), (3, 2, 4)), ((2, 2, 1), (3, 2, 2))):
        right, images = np.array(right), np.array(images)
        recall = right.sum() / images.sum()
        without = (right.sum() - right) / (images.sum() - images)
        part = ((without - recall) ** 2).sum() / 4
        variance, weight = variance + part, weight + part**2 / 2
    reach = stats.t.ppf(0.975, variance**2 / weight) * np.sqrt(variance)
    result = interval("balanced_accuracy", TOY, 1)
    value = (7 / 9 + 5 / 7) / 2
    assert result.method == "jackknife"
    assert result.value == pytest.approx(value)
    assert result.low == pytest.approx(value - reach)
    assert result.high == pytest.approx(min(1, value + reach))


def test_jackknife_of_a_mean_is_nearly_the_t_interval():
    labels = np.zeros(12, int)
    p = np.linspace(0.05, 0.95, 12)
    result = interval("loss", clustered.group(labels, toy.columns(p), np.arange(12)), 1)
    loss = -np.log(1 - p)
    # CR3 divides the squares by (n - 1)^2 where the standard error has n (n - 1).
    error = stats.sem(loss) * np.sqrt(12 / 11)
    expected = stats.t.interval(0.95, 11, loss.mean(), error)
    np.testing.assert_allclose([result.low, result.high], np.maximum(expected, 0), rtol=1e-9)


def test_recall_uses_the_groups_of_its_class():
    recall, specificity = (interval(name, TOY, 1) for name in ("recall", "specificity"))
    assert recall.groups == specificity.groups == 3
    inverted_recall = interval("recall", TOY, 0)
    assert (inverted_recall.low, inverted_recall.high) == (specificity.low, specificity.high)


def test_group_means_are_welch():
    result = oracles.interval("balanced_accuracy", TOY, 1, "group_means")
    a, b = np.array([2 / 3, 1, 3 / 4]), np.array([2 / 3, 1, 1 / 2])
    # Welch's interval of the difference of a and 1 - b is twice that of the mean of a and b.
    welch = stats.ttest_ind(a, 1 - b, equal_var=False).confidence_interval(0.95)
    assert result.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert result.low == pytest.approx((welch.low + 1) / 2)
    assert result.high == pytest.approx(min(1, (welch.high + 1) / 2))
    recall = oracles.interval("recall", TOY, 1, "group_means")
    assert recall.low == pytest.approx(stats.t.interval(0.95, 2, a.mean(), stats.sem(a))[0])


def test_obuchowskis_interval_is_on_the_logit_scale():
    result = oracles.interval("auroc", TOY, 1, "obuchowski")
    area = oracles.clustered_auroc(toy.LABELS == 1, toy.P1, TOY.member)
    logit = np.log(area.value / (1 - area.value))
    error = np.sqrt(area.variance) / (area.value * (1 - area.value))
    reach = stats.t.ppf(0.975, area.df) * error
    assert np.log(result.low / (1 - result.low)) == pytest.approx(logit - reach)
    assert np.log(result.high / (1 - result.high)) == pytest.approx(logit + reach)
    assert 0 < result.low < result.value < result.high < 1


def test_independent_images_are_wald():
    result = oracles.interval("accuracy", TOY, 1, "independent_images")
    assert half(result) == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(0.75 * 0.25 / 16))


def many(seed=0, groups=80, images=2000, classes=2, mixed=False):
    rng = np.random.default_rng(seed)
    member = rng.integers(0, groups, images)
    labels = rng.integers(0, classes, images) if mixed else member % classes
    logits = 1.5 * np.eye(classes)[labels] + rng.normal(size=(images, classes))
    logits += 0.7 * rng.normal(size=(groups, classes))[member]
    p = np.exp(logits)
    return labels, p / p.sum(axis=1, keepdims=True), member


@pytest.mark.parametrize("mixed", [False, True])
def test_with_many_groups_all_methods_agree(mixed):
    data = clustered.group(*many(mixed=mixed))
    for name, methods in {
        "accuracy": ("cr1", "group_means", "percentile", "bca"),
        "balanced_accuracy": ("group_means", "percentile", "bca"),
        "weighted_f1": ("percentile", "bca"),
        "f1": ("percentile", "bca"),
        "precision": ("percentile",),
        "mcc": ("percentile",),
        "loss": ("percentile",),
        "auroc": ("obuchowski", "percentile", "bca"),
    }.items():
        default = interval(name, data, 1)
        assert default.groups == 80 or name in ("f1", "precision")
        for method in methods:
            result = oracles.interval(name, data, 1, method, draws=4000)
            assert result.method == method
            # cr1 ignores that the number of groups of each class is fixed.
            assert half(result) == pytest.approx(half(default), rel=0.2), (name, method)
            assert result.low == pytest.approx(default.low, abs=0.25 * 2 * half(default))
    naive = oracles.interval("accuracy", data, 1, "independent_images")
    assert half(naive) < (0.9 if mixed else 0.8) * half(interval("accuracy", data, 1))


def test_bca_of_a_skewed_score_is_skewed_too():
    # Few errors: the sample is skewed towards low values, and so is the interval.
    rng = np.random.default_rng(3)
    member = np.repeat(np.arange(40), 20)
    labels = member % 2
    wrong = rng.random(800) < np.where(rng.random(40) < 0.15, 0.4, 0.01)[member]
    p = np.where(wrong, 1 - labels, labels) * 0.8 + 0.1
    data = clustered.group(labels, toy.columns(p), member)
    plain, bca = (
        oracles.interval("accuracy", data, 1, m, draws=4000) for m in ("percentile", "bca")
    )
    assert bca.low < plain.low
    assert bca.high < plain.high


def test_repeating_images_within_groups_changes_only_the_naive_interval():
    labels, p, member = many(groups=20, images=200)
    once = clustered.group(labels, p, member)
    thrice = clustered.group(*(np.repeat(a, 3, axis=0) for a in (labels, p, member)))
    for name in NAMES:
        a, b = interval(name, once, 1), interval(name, thrice, 1)
        np.testing.assert_allclose([a.low, a.high], [b.low, b.high], atol=1e-9, err_msg=name)
    a, b = (oracles.interval("accuracy", d, 1, "independent_images") for d in (once, thrice))
    assert half(b) < 0.6 * half(a)


def perfect(groups_by_class, cells=4, error=None):
    member = np.repeat(np.arange(sum(groups_by_class)), cells)
    labels = np.repeat(np.repeat([0, 1], groups_by_class), cells)
    p = np.random.default_rng(0).uniform(0.01, 0.3, len(labels)) + 0.6 * labels
    return clustered.group(labels, toy.columns(p), member)


def test_a_perfect_score_has_an_interval_too():
    data = perfect((13, 15))
    by_hand = {
        "accuracy": 28,
        "auroc": 13,
        "balanced_accuracy": 13,
        "recall": 15,
        "specificity": 13,
        "precision": 15,
        "f1": 15,
        "weighted_f1": 13,
        "macro_f1": 13,
    }
    for name, trials in by_hand.items():
        for method in ("jackknife", "percentile"):
            result = oracles.interval(name, data, 1, method, draws=200)
            exact = stats.binomtest(trials, trials).proportion_ci(0.95).low
            assert result.method == "exact"
            assert result.value == result.high == 1
            assert result.low == pytest.approx(exact), name
    assert oracles.interval("auroc", data, 1, "obuchowski").method == "exact"
    inverted = clustered.group(1 - data.labels, data.probabilities, data.member)
    result = interval("auroc", inverted, 1)
    assert (result.value, result.low) == (0, 0)
    assert result.high == pytest.approx(1 - 0.025 ** (1 / 13))
    assert interval("mcc", data, 1).reason


def test_a_missing_interval_has_a_reason():
    one_group = clustered.group(
        np.array([0, 0, 1]), toy.columns(np.array([0.1, 0.7, 0.8])), np.array(["a", "a", "b"])
    )
    result = interval("balanced_accuracy", one_group, 1)
    assert result.value == 0.75
    assert result.low is result.high is None
    assert result.reason == "the score rests on a single group of a class"
    undefined = interval(
        "auroc", clustered.group(np.zeros(3, int), toy.columns(np.full(3, 0.2)), np.arange(3)), 1
    )
    assert undefined.value is None
    assert undefined.reason == "the score is undefined"
    constant = clustered.group(toy.LABELS, toy.columns(np.full(16, 0.7)), toy.SUBJECTS)
    for method in ("jackknife", "percentile", "bca", "obuchowski"):
        result = oracles.interval("auroc", constant, 1, method, draws=100)
        assert result.value == 0.5
        assert result.reason == "the score is the same whichever group is left out", method
    for method in oracles.METHODS:
        name = {"obuchowski": "auroc"}.get(method, "accuracy")
        result = oracles.interval(name, one_group, 1, method, draws=100)
        assert result.low is not None or result.reason


def test_three_classes_in_groups_of_several_classes():
    labels, p, member = many(groups=60, images=900, classes=3, mixed=True)
    result = intervals(labels, p, member.astype(str), ("RBC", "WBC", "Platelets"), "WBC")
    assert set(result) == set(NAMES)
    for name, score in result.items():
        assert score.low < score.value < score.high, name
        assert score.groups == 60
    assert result["auroc"].value == pytest.approx(
        sk.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 10)), min_size=1, max_size=40
    ),
    st.booleans(),
)
def test_intervals_contain_the_value_and_stay_in_range(rows, pure):
    labels, groups, p = (np.array(c) for c in zip(*rows, strict=True))
    labels = np.minimum(groups % 2 if pure else labels, 1)
    data = clustered.group(labels, toy.columns(p / 10), groups)
    for name in NAMES:
        for method in ("jackknife", "percentile"):
            result = oracles.interval(name, data, 1, method, draws=50)
            if result.low is None:
                assert result.reason
            else:
                least, most = {"mcc": (-1, 1), "loss": (0, np.inf), "brier": (0, 2)}.get(
                    name, (0, 1)
                )
                assert least <= result.low <= result.high <= most
                if result.method != "percentile":
                    assert result.low <= result.value <= result.high
            assert 0 <= result.groups <= data.groups
