"""Heads: their protocol, and that nothing but training and validation units reaches them."""

import dataclasses

import numpy as np
import planted
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from leukjax.probe import bags, heads


def scaled(problem):
    x = problem.features.astype(np.float64)
    return StandardScaler().fit(x[problem.train]).transform(x)


def test_logistic_regression_follows_the_protocol():
    problem, test = planted.problem(*planted.images(classes=3), classes=3)
    fitted = heads.HEADS["logistic"].fit(problem)
    x = scaled(problem)
    expected = LogisticRegression(C=12 * 3 / 100, max_iter=1000)
    expected.fit(x[problem.train], problem.labels[problem.train])
    np.testing.assert_allclose(fitted.predict(test), expected.predict_proba(x[test]), atol=1e-6)
    assert (fitted.setting, fitted.chosen_by) == ("C = 0.36", heads.FIXED)


def test_validation_chooses_the_strength():
    problem, test = planted.problem(*planted.images(count=60, width=40, shift=0.2))
    fitted = heads.HEADS["logistic_val"].fit(problem)
    x, losses = scaled(problem), {}
    for strength in heads.STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(x[problem.train], problem.labels[problem.train])
        losses[strength] = log_loss(
            problem.labels[problem.val], model.predict_proba(x[problem.val])
        )
    best = min(losses, key=losses.get)
    assert best < 100  # the weakest penalty is not the best here
    assert (fitted.setting, fitted.chosen_by) == (f"C = {best:g}", heads.BY_LOSS)
    expected = LogisticRegression(C=best, max_iter=1000)
    expected.fit(x[problem.train], problem.labels[problem.train])
    # Begun at the solution of a smaller C, it ends within the tolerance of the optimizer.
    np.testing.assert_allclose(fitted.predict(test), expected.predict_proba(x[test]), atol=2e-3)


def test_nearest_neighbours():
    problem, test = planted.problem(*planted.images())
    x = scaled(problem)
    for name, count in (("knn1", 1), ("knn20", 20)):
        expected = KNeighborsClassifier(count).fit(x[problem.train], problem.labels[problem.train])
        probabilities = heads.HEADS[name].fit(problem).predict(test)
        np.testing.assert_array_equal(probabilities, expected.predict_proba(x[test]))
    few = dataclasses.replace(problem, train=problem.train[:7])
    assert heads.HEADS["knn20"].fit(few).setting == "k = 7"


@pytest.mark.parametrize("name", [*heads.HEADS, *bags.HEADS])
def test_test_units_do_not_reach_the_head(name):
    features, labels = planted.images(count=60)
    tokens = np.stack([features, -features], axis=1).astype(np.float16)
    problem, test = planted.problem(features, labels, tokens=tokens)
    features, tokens = features.copy(), tokens.copy()
    features[test], tokens[test] = 1e3, 7
    other, _ = planted.problem(features, labels, tokens=tokens)
    head = (heads.HEADS | bags.HEADS)[name]
    both = [head.fit(p).predict(problem.val) for p in (problem, other)]
    np.testing.assert_array_equal(*both)


def test_a_class_without_training_images_gets_no_probability():
    features, labels = planted.images(classes=3)
    labels[:180] = np.where(labels[:180] == 1, 0, labels[:180])
    problem, test = planted.problem(features, labels, classes=3)
    for name in ("logistic", "knn20"):
        probabilities = heads.HEADS[name].fit(problem).predict(test)
        assert (probabilities[:, 1] == 0).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_attention_finds_the_token_that_tells_the_class():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 240)
    tokens = rng.normal(size=(240, 9, 8))
    place = rng.integers(0, 9, 240)
    tokens[np.arange(240), place, 0] = 6  # marks the token, in all images
    tokens[np.arange(240), place, 1] = 4 * labels - 2
    tokens = tokens.astype(np.float16)
    problem, test = planted.problem(tokens.mean(axis=1).astype(np.float32), labels, tokens=tokens)
    first, second = (heads.HEADS["attentive"].fit(problem) for _ in range(2))
    np.testing.assert_array_equal(first.predict(test), second.predict(test))
    assert roc_auc_score(labels[test], first.predict(test)[:, 1]) > 0.97
    assert first.epoch > 1
