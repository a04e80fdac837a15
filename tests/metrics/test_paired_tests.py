"""Clustered McNemar, DeLong and Obuchowski tests, against printed examples and definitions."""

import numpy as np
import oracles
import pytest
import toy
from oracles import clustered_auroc
from scipy.stats import chi2, norm
from sklearn.metrics import confusion_matrix, roc_auc_score

from leukjax.metrics.paired_tests import clustered_mcnemar, discordant, mcnemar, paired_auroc

MEMBER = np.unique(toy.SUBJECTS, return_inverse=True)[1]
RIGHT = [(p > 0.5) == toy.LABELS for p in (toy.P1, toy.P2_CALLED)]


def test_discordant_counts_of_the_toy_data():
    counts = discordant(*RIGHT, MEMBER)
    assert counts.first_only.tolist() == [0, 0, 1, 1, 1, 0]
    assert counts.second_only.tolist() == [1, 0, 0, 0, 0, 0]
    assert counts.images.tolist() == [3, 2, 4, 3, 2, 2]


@pytest.mark.parametrize(
    ("test", "statistic", "p"),
    [
        (oracles.obuchowski_mcnemar, 0.8333333333, 0.3613104286),
        (oracles.durkalski_mcnemar, 1.0519480519, 0.3050588593),
        (clustered_mcnemar, 0.9235209235, 0.3365521878),
        (mcnemar, 1.0, chi2.sf(1, 1)),
    ],
)
def test_statistics_of_the_toy_data(test, statistic, p):
    result = test(discordant(*RIGHT, MEMBER))
    # One unit of the last printed digit.
    assert result.statistic == pytest.approx(statistic, abs=1e-10)
    assert result.p == pytest.approx(p, abs=1e-10)


def test_mcnemar_is_that_of_the_textbook():
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 300)) < [[0.8], [0.7]]
    result = mcnemar(discordant(a, b, rng.integers(0, 9, 300)))
    table = confusion_matrix(a, b)
    off = table[0, 1], table[1, 0]
    assert result.statistic == pytest.approx((off[0] - off[1]) ** 2 / sum(off))


@pytest.mark.parametrize(
    "test", [oracles.obuchowski_mcnemar, oracles.durkalski_mcnemar, clustered_mcnemar]
)
def test_repeating_images_within_groups_changes_only_the_test_of_independent_images(test):
    rng = np.random.default_rng(4)
    a, b = rng.random((2, 60)) < [[0.8], [0.6]]
    member = np.sort(rng.integers(0, 12, 60))
    once = discordant(a, b, member)
    thrice = discordant(*(np.repeat(x, 3) for x in (a, b, member)))
    assert test(thrice).statistic == pytest.approx(test(once).statistic)
    assert mcnemar(thrice).statistic == pytest.approx(3 * mcnemar(once).statistic)


def test_models_that_never_differ_cannot_be_tested():
    right = np.array([True, False, True])
    result = clustered_mcnemar(discordant(right, right, np.arange(3)))
    assert np.isnan(result.statistic)
    assert np.isnan(result.p)


def delong(is_class, probability):
    """DeLong 1988 from its definition."""
    x, y = probability[is_class], probability[~is_class]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return psi.mean(axis=1).var(ddof=1) / len(x) + psi.mean(axis=0).var(ddof=1) / len(y)


@pytest.mark.parametrize(
    ("labels", "p", "auroc", "variance"),
    [
        (toy.LABELS, toy.P1, 0.8412698413, 0.0023231822893486497),
        (toy.LABELS, toy.P2, 0.6984126984, 0.004313093900251515),
        (toy.MIXED, toy.P1, 0.4375, 0.008935546875),
        (toy.MIXED, toy.P2, 0.34375, 0.01812744140625),
    ],
)
def test_auroc_of_the_toy_data(labels, p, auroc, variance):
    result = clustered_auroc(labels == 1, p, MEMBER)
    assert result.value == pytest.approx(auroc, abs=5e-11)
    assert result.variance == pytest.approx(variance, rel=1e-12)


def test_variances_of_the_mra_example():
    # 36 patients, 65 arteries: 29 diseased in 23 patients, 36 healthy in 27. The components are
    # not printed, so this checks the formula that `clustered_auroc` ends with.
    for s10, s01, s11, variance in (
        (0.0013151307, 0.0022375873, 0.0051785478, 1.1742512691570881e-4),
        (0.0009284122, 0.0022598583, -0.0005015760, 9.382718189655172e-5),
    ):
        assert s10 / 29 + s01 / 36 + 2 * s11 / (29 * 36) == pytest.approx(variance, rel=1e-12)


def random_case(seed):
    rng = np.random.default_rng(seed)
    return rng.random(40) < 0.5, np.round(rng.random(40), 1), rng.integers(0, 12, 40)


@pytest.mark.parametrize("seed", range(5))
def test_one_image_per_group_is_delong(seed):
    is_class, p, _ = random_case(seed)
    result = clustered_auroc(is_class, p, np.arange(40))
    assert result.value == pytest.approx(roc_auc_score(is_class, p))
    assert result.variance == pytest.approx(delong(is_class, p), rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_repeating_every_image_within_its_group_changes_nothing(seed):
    is_class, p, member = random_case(seed)
    once = clustered_auroc(is_class, p, member)
    thrice = clustered_auroc(*(np.repeat(a, 3) for a in (is_class, p, member)))
    assert thrice.value == pytest.approx(once.value)
    assert thrice.variance == pytest.approx(once.variance, rel=1e-10)
    assert thrice.df == pytest.approx(once.df)
    assert delong(*(np.repeat(a, 3) for a in (is_class, p))) < delong(is_class, p) / 2


def test_one_group_of_a_class_has_no_variance():
    is_class = np.array([True, True, False, False])
    result = clustered_auroc(is_class, np.array([0.9, 0.2, 0.3, 0.1]), np.array([0, 0, 1, 2]))
    assert result.value == 0.75
    assert np.isnan(result.variance)


@pytest.mark.parametrize(
    ("labels", "covariance", "z"),
    [
        (toy.LABELS, 0.0022460539323369095, 3.0851232733086666),
        (toy.MIXED, 0.009228515625, 1.0105823052798228),
    ],
)
def test_paired_auroc_of_the_toy_data(labels, covariance, z):
    result = paired_auroc(labels == 1, toy.P1, toy.P2, MEMBER)
    assert result.covariance == pytest.approx(covariance, rel=1e-12)
    assert result.z == pytest.approx(z, rel=1e-12)


def test_p_of_the_toy_data_and_delong():
    result = paired_auroc(toy.LABELS == 1, toy.P1, toy.P2, MEMBER)
    assert result.difference == pytest.approx(0.1428571429, abs=5e-11)
    assert result.error == pytest.approx(0.04630516520785069, rel=1e-12)
    assert result.p == pytest.approx(0.0020346780271444666, rel=1e-10)
    delong_test = paired_auroc(toy.LABELS == 1, toy.P1, toy.P2, np.arange(16))
    assert delong_test.error == pytest.approx(0.1010152544552211, rel=1e-12)
    assert delong_test.z == pytest.approx(1.4142135623730951, rel=1e-12)
    assert delong_test.p == pytest.approx(0.15729920705028502, rel=1e-10)


def test_covariance_and_p_of_the_mra_example():
    between, crossed = (0.0008484357, 0.0019241250), 0.0028648340 - 0.0015136931
    covariance = between[0] / 29 + between[1] / 36 + crossed / (29 * 36)
    assert covariance == pytest.approx(8.399851637931036e-5, rel=1e-12)
    error = np.sqrt(1.1742512691570881e-4 + 9.382718189655172e-5 - 2 * covariance)
    assert error == pytest.approx(0.0065768743, abs=5e-11)
    # The difference is printed with two digits: .8271 needs .00144 of the .00135 to .00145.
    assert 2 * norm.sf(0.00145 / error) < 0.8271 < 2 * norm.sf(0.00135 / error)


def test_a_model_against_itself_has_no_z():
    result = paired_auroc(toy.LABELS == 1, toy.P1, toy.P1, MEMBER)
    assert result.difference == 0
    assert np.isnan(result.z)
    assert np.isnan(result.p)
