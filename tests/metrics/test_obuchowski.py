import numpy as np
import pytest
import toy
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from leukjax.metrics.obuchowski import clustered_auroc, paired_auroc

MEMBER = np.unique(toy.SUBJECTS, return_inverse=True)[1]


def delong(is_class, probability):
    """DeLong 1988 straight from its definition."""
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
def test_the_toy(labels, p, auroc, variance):
    found = clustered_auroc(labels == 1, p, MEMBER)
    assert found.value == pytest.approx(auroc, abs=5e-11)
    assert found.variance == pytest.approx(variance, rel=1e-12)


def test_the_sums_of_the_mra_example_make_its_variances():
    # 36 patients, 65 arteries: 29 diseased in 23 patients, 36 healthy in 27. The components are
    # not printed, so this holds the formula that `clustered_auroc` ends with.
    for s10, s01, s11, variance in (
        (0.0013151307, 0.0022375873, 0.0051785478, 1.1742512691570881e-4),
        (0.0009284122, 0.0022598583, -0.0005015760, 9.382718189655172e-5),
    ):
        assert s10 / 29 + s01 / 36 + 2 * s11 / (29 * 36) == pytest.approx(variance, rel=1e-12)


def random_case(seed):
    rng = np.random.default_rng(seed)
    return rng.random(40) < 0.5, np.round(rng.random(40), 1), rng.integers(0, 12, 40)


@pytest.mark.parametrize("seed", range(5))
def test_one_image_a_group_is_delong(seed):
    is_class, p, _ = random_case(seed)
    found = clustered_auroc(is_class, p, np.arange(40))
    assert found.value == pytest.approx(roc_auc_score(is_class, p))
    assert found.variance == pytest.approx(delong(is_class, p), rel=1e-10)


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
    found = clustered_auroc(is_class, np.array([0.9, 0.2, 0.3, 0.1]), np.array([0, 0, 1, 2]))
    assert found.value == 0.75
    assert np.isnan(found.variance)


@pytest.mark.parametrize(
    ("labels", "covariance", "z"),
    [
        (toy.LABELS, 0.0022460539323369095, 3.0851232733086666),
        (toy.MIXED, 0.009228515625, 1.0105823052798228),
    ],
)
def test_the_toys_pairs(labels, covariance, z):
    found = paired_auroc(labels == 1, toy.P1, toy.P2, MEMBER)
    assert found.covariance == pytest.approx(covariance, rel=1e-12)
    assert found.z == pytest.approx(z, rel=1e-12)


def test_the_toys_p_and_delongs():
    found = paired_auroc(toy.LABELS == 1, toy.P1, toy.P2, MEMBER)
    assert found.difference == pytest.approx(0.1428571429, abs=5e-11)
    assert found.error == pytest.approx(0.04630516520785069, rel=1e-12)
    assert found.p == pytest.approx(0.0020346780271444666, rel=1e-10)
    delongs = paired_auroc(toy.LABELS == 1, toy.P1, toy.P2, np.arange(16))
    assert delongs.error == pytest.approx(0.1010152544552211, rel=1e-12)
    assert delongs.z == pytest.approx(1.4142135623730951, rel=1e-12)
    assert delongs.p == pytest.approx(0.15729920705028502, rel=1e-10)


def test_the_sums_of_the_mra_example_make_its_covariance_and_test():
    between, crossed = (0.0008484357, 0.0019241250), 0.0028648340 - 0.0015136931
    covariance = between[0] / 29 + between[1] / 36 + crossed / (29 * 36)
    assert covariance == pytest.approx(8.399851637931036e-5, rel=1e-12)
    error = np.sqrt(1.1742512691570881e-4 + 9.382718189655172e-5 - 2 * covariance)
    assert error == pytest.approx(0.0065768743, abs=5e-11)
    # The difference is printed with two digits: .8271 needs .00144 of the .00135 to .00145.
    assert 2 * norm.sf(0.00145 / error) < 0.8271 < 2 * norm.sf(0.00135 / error)


def test_a_model_against_itself_has_no_z():
    found = paired_auroc(toy.LABELS == 1, toy.P1, toy.P1, MEMBER)
    assert found.difference == 0
    assert np.isnan(found.z)
    assert np.isnan(found.p)
