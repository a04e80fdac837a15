import itertools
import time
import tracemalloc

import numpy as np
import pytest
import toy
from sklearn import metrics as sk

from leukjax.metrics import clustered, confusion
from leukjax.metrics.scores import scores


def every_resample():
    """All 27 x 27 stratified resamples of the toy's six subjects, as weights."""
    draws = list(itertools.product(range(3), repeat=3))
    return np.array(
        [np.bincount([*a, *(3 + i for i in b)], minlength=6) for a in draws for b in draws]
    )


@pytest.mark.parametrize(
    ("name", "p", "mean", "sd", "low", "high"),
    [
        ("auroc", [toy.P1], 0.8455518802, 0.0448968258, 0.77142857, 0.94642857),
        ("auroc", [toy.P1, toy.P2], 0.1471540743, 0.0414610786, 0.07407407, 0.22916667),
        ("weighted_f1", [toy.P1], None, 0.0601139888, 0.64705882, 0.86785714),
        ("accuracy", [toy.P1], None, 0.0596178201, None, None),
    ],
)
def test_the_toys_729_resamples(name, p, mean, sd, low, high):
    values = [
        clustered.statistic(name, clustered.group(toy.LABELS, toy.columns(x), toy.SUBJECTS), 1)(
            every_resample()
        )
        for x in p
    ]
    values = values[0] if len(values) == 1 else values[0] - values[1]
    assert len(values) == 729
    if mean is not None:
        assert values.mean() == pytest.approx(mean, abs=1e-9)
    assert values.std() == pytest.approx(sd, abs=1e-9) or values.std(ddof=1) == pytest.approx(
        sd, abs=1e-9
    )
    if low is not None:
        np.testing.assert_allclose(np.quantile(values, [0.025, 0.975]), [low, high], atol=5e-9)


def random_predictions(seed, classes, ties=False, mixed=False, n=200):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 14, n)
    labels = rng.integers(0, classes, n) if mixed else groups % classes
    p = rng.dirichlet(np.ones(classes), n) + 0.5 * np.eye(classes)[labels]
    if ties:
        p = np.round(p, 1) + 0.01
    return labels, p / p.sum(axis=1, keepdims=True), groups


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repetitions(classes, ties):
    """Each statistic under weights equals the plain score of the images repeated so often."""
    labels, p, groups = random_predictions(0, classes, ties)
    data = clustered.group(labels, p, groups)
    weights = np.random.default_rng(1).integers(0, 3, (8, data.groups))
    names = [str(i) for i in range(classes)]
    for name in ("loss", "brier", "auroc", *confusion.NAMES):
        result = clustered.statistic(name, data, 1)(weights)
        for row, value in zip(weights, result, strict=True):
            again = np.repeat(np.arange(len(labels)), row[data.member])
            expected = scores(labels[again], p[again], names, "1").values[name]
            if classes > 2 and len(set(labels[again].tolist())) < classes:
                # The plain score is a mean over the classes that are left.
                if name in ("balanced_accuracy", "auroc"):
                    assert np.isnan(value), name
            elif expected is None:
                assert np.isnan(value), name
            else:
                assert value == pytest.approx(expected, abs=1e-9), name


def test_a_score_without_a_grouped_form_is_an_error():
    labels, p, groups = random_predictions(0, 2)
    with pytest.raises(ValueError, match="ece"):
        clustered.statistic("ece", clustered.group(labels, p, groups), 1)


def test_strata_are_classes_unless_a_group_holds_several():
    pure = clustered.group(*random_predictions(0, 3))
    assert pure.single_class
    assert set(pure.stratum) == {0, 1, 2}
    mixed = clustered.group(*random_predictions(0, 3, mixed=True))
    assert not mixed.single_class
    assert set(mixed.stratum) == {0}


def test_resamples_draw_whole_groups_by_stratum():
    data = clustered.group(*random_predictions(0, 2))
    weights = np.concatenate(list(clustered.resamples(data, 3000, seed=0)))
    assert weights.shape == (3000, data.groups)
    for stratum in (0, 1):
        mine = weights[:, data.stratum == stratum]
        np.testing.assert_array_equal(mine.sum(axis=1), mine.shape[1])
        # Multinomial: mean 1, variance 1 - 1/n.
        np.testing.assert_allclose(mine.mean(axis=0), 1, atol=0.08)
        np.testing.assert_allclose(mine.var(axis=0), 1 - 1 / mine.shape[1], atol=0.12)
    again = np.concatenate(list(clustered.resamples(data, 3000, seed=0)))
    np.testing.assert_array_equal(weights, again)


def test_leaving_out_gives_each_group_once():
    data = clustered.group(*random_predictions(0, 2))
    weights = clustered.without_each(data) @ np.eye(data.groups)
    np.testing.assert_array_equal(weights == 0, np.eye(data.groups))
    # The others of the class make up for the one that is left out.
    for stratum in (0, 1):
        mine = data.stratum == stratum
        np.testing.assert_allclose(weights[:, mine].sum(axis=1), mine.sum())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_leaving_out_equals_the_matrix_of_its_weights(classes, mixed, ties):
    """The closed forms give what the weights give when they are written out."""
    labels, p, groups = random_predictions(2, classes, ties, mixed)
    groups[labels == 0] %= 2 if not mixed else 14  # a class with few groups
    data = clustered.group(labels, p, groups)
    without = clustered.without_each(data)
    matrix = without @ np.eye(data.groups)
    for name in ("loss", "brier", "auroc", "average_precision", *confusion.NAMES):
        score = clustered.statistic(name, data, 1)
        np.testing.assert_allclose(score(without), score(matrix), rtol=1e-12, err_msg=name)


def test_leaving_out_the_only_group_of_a_class_leaves_rank_scores_undefined():
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 2])
    data = clustered.group(labels, toy.columns(np.array([0.1, 0.6, 0.5, 0.9, 0.8])), groups)
    for name in ("auroc", "average_precision"):
        value = clustered.statistic(name, data, 1)(clustered.without_each(data))
        np.testing.assert_array_equal(np.isnan(value), [True, False, False], err_msg=name)


def test_leaving_out_each_of_20000_groups_needs_no_matrix_of_them():
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    p = 1 / (1 + np.exp(-(labels + rng.normal(size=20_000))))
    data = clustered.group(labels, toy.columns(p), np.arange(20_000))
    tracemalloc.start()
    values = clustered.statistic("auroc", data, 1)(clustered.without_each(data))
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 40e6  # the matrix takes 3.2e9
    # The jackknife's variance of independent images is DeLong's, up to (n - 1) / n.
    change = values - sk.roc_auc_score(labels, p)
    variance = delong(labels == 1, p)
    assert (change**2).sum() == pytest.approx(variance, rel=1e-3)


def delong(is_class, p):
    """The variance of DeLong et al. (1988, Biometrics 44:837)."""
    ours, rest = p[is_class], p[~is_class]
    v10 = np.searchsorted(np.sort(rest), ours) / len(rest)
    v01 = 1 - np.searchsorted(np.sort(ours), rest) / len(ours)
    return v10.var(ddof=1) / len(ours) + v01.var(ddof=1) / len(rest)


def test_ten_thousand_resamples_of_15000_images_take_under_5_seconds():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 101, 15_000)
    labels = groups % 2
    p = 1 / (1 + np.exp(-(labels + rng.normal(size=15_000))))
    data = clustered.group(labels, toy.columns(p), groups)
    start = time.perf_counter()
    values = clustered.evaluate(
        clustered.statistic("auroc", data, 1), clustered.resamples(data, 10_000, seed=0)
    )
    assert time.perf_counter() - start < 5
    assert values.mean() == pytest.approx(sk.roc_auc_score(labels, p), abs=0.005)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("held", [(0,), (1,), (0, 1)], ids=str)
def test_undefined_is_the_same_with_groups_and_without(held, classes):
    """Average precision was 1.0 where no image was of the rest, and undefined in `scores`."""
    rng = np.random.default_rng(0)
    labels = rng.choice(held, 12)
    p = rng.dirichlet(np.ones(classes), 12)
    names = tuple("abc"[:classes])
    data = clustered.group(labels, p, np.arange(12) // 2)
    plain = scores(labels, p, names, "b").values
    for name in (*confusion.NAMES, "auroc", "average_precision", "loss", "brier"):
        value = clustered.statistic(name, data, 1)(np.ones((1, data.groups)))[0]
        if plain[name] is None:
            assert np.isnan(value), name
        else:
            assert value == pytest.approx(plain[name]), name


def test_a_resample_without_the_rest_has_no_average_precision():
    data = clustered.group(
        np.array([1, 1, 0]), toy.columns(np.array([0.9, 0.4, 0.6])), np.arange(3)
    )
    ap = clustered.statistic("average_precision", data, 1)
    assert np.isnan(ap(np.array([[1.0, 1, 0], [0, 0, 1.0]]))).all()
    assert ap(np.ones((1, 3)))[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
