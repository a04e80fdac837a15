import numpy as np
import pytest
import toy
from sklearn.metrics import roc_auc_score

from leukjax.metrics.obuchowski import clustered_auroc

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
