import numpy as np
import pytest
import toy
from scipy.stats import chi2
from sklearn.metrics import confusion_matrix

from leukjax.metrics import mcnemar

MEMBER = np.unique(toy.SUBJECTS, return_inverse=True)[1]
RIGHT = [(p > 0.5) == toy.LABELS for p in (toy.P1, toy.P2_CALLED)]


def test_the_toys_counts():
    counts = mcnemar.discordant(*RIGHT, MEMBER)
    assert counts.first_only.tolist() == [0, 0, 1, 1, 1, 0]
    assert counts.second_only.tolist() == [1, 0, 0, 0, 0, 0]
    assert counts.images.tolist() == [3, 2, 4, 3, 2, 2]


@pytest.mark.parametrize(
    ("test", "statistic", "p"),
    [
        (mcnemar.obuchowski, 0.8333333333, 0.3613104286),
        (mcnemar.durkalski, 1.0519480519, 0.3050588593),
        (mcnemar.yang, 0.9235209235, 0.3365521878),
        (mcnemar.independent_images, 1.0, chi2.sf(1, 1)),
    ],
)
def test_the_toys_statistics(test, statistic, p):
    found = test(mcnemar.discordant(*RIGHT, MEMBER))
    # One unit of the last printed digit.
    assert found.statistic == pytest.approx(statistic, abs=1e-10)
    assert found.p == pytest.approx(p, abs=1e-10)


def test_independent_images_are_the_textbooks_mcnemar():
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 300)) < [[0.8], [0.7]]
    found = mcnemar.independent_images(mcnemar.discordant(a, b, rng.integers(0, 9, 300)))
    table = confusion_matrix(a, b)
    off = table[0, 1], table[1, 0]
    assert found.statistic == pytest.approx((off[0] - off[1]) ** 2 / sum(off))


@pytest.mark.parametrize("test", [mcnemar.obuchowski, mcnemar.durkalski, mcnemar.yang])
def test_repeating_images_within_groups_changes_only_the_test_of_independent_images(test):
    rng = np.random.default_rng(4)
    a, b = rng.random((2, 60)) < [[0.8], [0.6]]
    member = np.sort(rng.integers(0, 12, 60))
    once = mcnemar.discordant(a, b, member)
    thrice = mcnemar.discordant(*(np.repeat(x, 3) for x in (a, b, member)))
    assert test(thrice).statistic == pytest.approx(test(once).statistic)
    naive = mcnemar.independent_images
    assert naive(thrice).statistic == pytest.approx(3 * naive(once).statistic)


def test_models_that_never_differ_cannot_be_tested():
    alike = np.array([True, False, True])
    found = mcnemar.yang(mcnemar.discordant(alike, alike, np.arange(3)))
    assert np.isnan(found.statistic)
    assert np.isnan(found.p)
