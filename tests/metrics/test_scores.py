import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from leukjax.metrics import clustered, confusion
from leukjax.metrics.evaluation import score
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import (
    NAMES,
    MixedSubjectsError,
    predicted_class,
    scores,
    subject_table,
)

BINARY = ("HEM", "ALL")
THREE = ("RBC", "WBC", "Platelets")


def predictions(seed, n=300, classes=2, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.2 * (labels[:, None] == np.arange(classes))
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_two_classes_as_scikit_learn(seed, ties):
    labels, p = predictions(seed, ties=ties)
    for positive, name in enumerate(BINARY):
        result = scores(labels, p, BINARY, name).values
        predicted, is_class = predicted_class(p), labels == positive
        options = {"average": "binary", "pos_label": positive}
        expected = {
            "loss": sk.log_loss(labels, p),
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "precision": sk.precision_score(labels, predicted, **options),
            "recall": sk.recall_score(labels, predicted, **options),
            "specificity": sk.recall_score(
                labels, predicted, average="binary", pos_label=1 - positive
            ),
            "f1": sk.f1_score(labels, predicted, **options),
            "weighted_f1": sk.f1_score(labels, predicted, average="weighted"),
            "macro_f1": sk.f1_score(labels, predicted, average="macro"),
            "mcc": sk.matthews_corrcoef(labels, predicted),
            "auroc": sk.roc_auc_score(is_class, p[:, positive]),
            "average_precision": sk.average_precision_score(is_class, p[:, positive]),
            "brier": sk.brier_score_loss(is_class, p[:, positive]),
        }
        for key, value in expected.items():
            assert result[key] == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("seed", range(5))
def test_three_classes_as_scikit_learn(seed):
    labels, p = predictions(seed, classes=3)
    result = scores(labels, p, THREE, "WBC")
    predicted = predicted_class(p)
    truth = np.eye(3)[labels]
    expected = {
        "loss": sk.log_loss(labels, p),
        "precision": sk.precision_score(labels, predicted, average="macro"),
        "recall": sk.balanced_accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "weighted_f1": sk.f1_score(labels, predicted, average="weighted"),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "auroc": sk.roc_auc_score(labels, p, multi_class="ovr", average="macro"),
        "average_precision": sk.average_precision_score(truth, p, average="macro"),
        "brier": ((p - truth) ** 2).sum(axis=1).mean(),
    }
    for key, value in expected.items():
        assert result.values[key] == pytest.approx(value, abs=1e-12), key
    for i, name in enumerate(THREE):
        auroc = sk.roc_auc_score(labels == i, p[:, i])
        assert result.by_class[name]["auroc"] == pytest.approx(auroc)
        assert result.by_class[name]["images"] == (labels == i).sum()


def test_calibration_errors_by_hand():
    # Confidences .9 (3 of 4 right) and .6 (1 of 2 right).
    p = np.array([0.9, 0.9, 0.9, 0.1, 0.6, 0.4])
    labels = np.array([1, 1, 0, 0, 1, 1])
    result = scores(labels, np.stack([1 - p, p], 1), BINARY, "ALL").values
    assert result["ece"] == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    # Equal confidences are in one bin, however few images there are.
    assert result["ece_equal_mass"] == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    # With fewer images than bins every second image has its own bin.
    p = np.array([0.95, 0.9, 0.85, 0.2, 0.6, 0.3])
    result = scores(labels, np.stack([1 - p, p], 1), BINARY, "ALL").values
    assert result["ece_equal_mass"] == pytest.approx((0.05 + 0.1 + 0.85 + 0.2 + 0.4 + 0.7) / 6)


def test_equal_mass_parts_no_ties():
    """A constant that is calibrated has no error, in whatever order its images come."""
    labels = (np.arange(50) % 5 > 0).astype(int)  # four fifths
    p = np.full(50, 0.8)
    result = scores(labels, np.stack([1 - p, p], 1), BINARY, "ALL").values
    assert result["ece"] == pytest.approx(0, abs=1e-12)
    assert result["ece_equal_mass"] == pytest.approx(0, abs=1e-12)
    # Two ties and a few images between them: by hand.
    p = np.repeat([0.6, 0.7, 0.8, 0.9], [20, 1, 1, 28])
    labels = (np.random.default_rng(0).random(50) < p).astype(int)
    parts = [abs((p - labels)[p == value].sum()) for value in (0.6, 0.7, 0.8, 0.9)]
    # The single images are in bins 6 of 15 (ranks 20 and 21 of 50); the ties in 2 and 10.
    parts[1:3] = [abs((p - labels)[20:22].sum())]
    result = scores(labels, np.stack([1 - p, p], 1), BINARY, "ALL").values
    assert result["ece_equal_mass"] == pytest.approx(sum(parts) / 50)
    order = np.random.default_rng(1).permutation(50)
    again = scores(labels[order], np.stack([1 - p, p], 1)[order], BINARY, "ALL").values
    assert again["ece_equal_mass"] == pytest.approx(result["ece_equal_mass"], abs=1e-12)


def test_sensitivity_at_95_specificity_by_hand():
    # 20 negatives at .01 ... .20: one of them may be above the threshold, so it is .20.
    p = np.concatenate([np.arange(1, 21) / 100, [0.195, 0.2, 0.5, 0.05]])
    labels = np.repeat([0, 1], [20, 4])
    result = scores(labels, np.stack([1 - p, p], 1), BINARY, "ALL").values
    assert result["sensitivity_at_95_specificity"] == 0.75


def test_a_class_that_is_missing_makes_scores_undefined_and_says_why():
    labels, p = np.ones(5, int), np.tile([0.2, 0.8], (5, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scores(labels, p, BINARY, "ALL")
    undefined = {name for name, value in result.values.items() if value is None}
    assert undefined == set(result.reasons)
    assert undefined >= {"balanced_accuracy", "specificity", "auroc", "average_precision", "mcc"}
    assert result.values["accuracy"] == result.values["recall"] == result.values["f1"] == 1
    assert result.reasons["auroc"] == "every image is ALL"
    other = scores(labels, p, BINARY, "HEM")
    assert other.reasons["precision"] == "no image was predicted as HEM"
    assert other.reasons["f1"] == "no image is HEM and none was predicted as such"
    three = scores(np.array([0, 1, 1]), np.eye(3)[[0, 1, 1]], THREE, "RBC")
    assert three.by_class["Platelets"]["auroc"] is None
    assert three.by_class["WBC"]["auroc"] == 1
    alone = scores(np.ones(3, int), np.eye(3)[[1, 1, 1]], THREE, "")
    assert alone.reasons["balanced_accuracy"] == f"every image is {THREE[1]}"


def test_means_are_over_the_classes_that_have_images():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    result = scores(labels, p, THREE, "")
    assert not result.reasons
    assert result.values["balanced_accuracy"] == (1 / 2 + 1) / 2
    # An image that is taken for the class without images costs the recall of its own.
    assert result.values["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert result.values["precision"] == 1
    assert result.values["auroc"] == pytest.approx((5 / 8 + 1) / 2)
    groups = clustered.group(labels, p, np.arange(4))
    assert clustered.statistic("macro_f1", groups, 0)(np.ones((1, 4))) == (2 / 3 + 1) / 2
    lost = clustered.statistic("macro_f1", groups, 0)(np.array([[0, 0, 1, 1.0]]))
    assert np.isnan(lost)  # a resample without a class is not a mean over fewer


def test_scores_without_some_classes():
    labels, groups = np.array([0, 0, 1, 1, 2, 2]), np.array([*"abcdef"])
    p = np.eye(3)[[0, 0, 1, 0, 1, 1]]
    evaluation = score(Predictions(THREE, groups, groups, groups, labels, p))
    without = evaluation.without([THREE[2]])
    assert without["balanced_accuracy"].value == (1 + 1 / 2) / 2
    assert without["macro_f1"].value == pytest.approx((4 / 5 + 2 / 5) / 2)
    assert without["macro_f1"].low is not None
    assert evaluation.by_image["macro_f1"].value == pytest.approx((4 / 5 + 2 / 5) / 3)
    assert evaluation.without(THREE[:2]) == {}  # one class is left


def test_a_class_never_called_leaves_precision_undefined_and_f1_zero():
    result = scores(np.array([0, 1, 1]), np.tile([0.9, 0.1], (3, 1)), BINARY, "ALL")
    assert result.values["precision"] is None
    assert result.reasons["precision"] == "no image was predicted as ALL"
    assert result.values["f1"] == 0
    assert result.values["mcc"] is None
    assert result.reasons["mcc"] == "every image was predicted as the same class"
    assert result.values["auroc"] == 0.5


def test_no_images_and_no_numbers():
    nothing = scores(np.zeros(0, int), np.zeros((0, 2)), BINARY, "ALL")
    assert set(nothing.values) == set(NAMES) == set(nothing.reasons)
    assert set(nothing.values.values()) == {None}
    nan = scores(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), BINARY, "ALL")
    assert nan.reasons["loss"] == "1 of 2 predictions are not finite numbers"


def test_a_certain_mistake_has_a_finite_loss():
    result = scores(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), BINARY, "ALL").values
    assert result["loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


cases = st.integers(2, 4).flatmap(
    lambda c: st.tuples(
        st.just(c),
        st.lists(
            st.tuples(st.integers(0, c - 1), st.lists(st.integers(0, 4), min_size=c, max_size=c)),
            min_size=1,
            max_size=30,
        ),
    )
)


@settings(max_examples=150, deadline=None)
@given(cases, st.randoms(use_true_random=False))
def test_bounds_and_invariance(case, random):
    classes, rows = case
    names = [f"class {i}" for i in range(classes)]
    labels = np.array([label for label, _ in rows])
    weights = np.array([w for _, w in rows], float)
    # Distinct within a row, so that "the first of equals" does not depend on the columns' order.
    weights += np.array([0.1, 0.2, 0.3, 0.4])[:classes] * (1 + weights)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    result = scores(labels, probabilities, names, names[0])
    for name, value in result.values.items():
        assert (value is None) == (name in result.reasons)
        if value is not None:
            low = -1 if name == "mcc" else 0
            high = {"loss": np.inf, "brier": 2}.get(name, 1)
            assert low - 1e-12 <= value <= high + 1e-12, name
    # The order of the images means nothing.
    rows_order = list(range(len(labels)))
    random.shuffle(rows_order)
    again = scores(labels[rows_order], probabilities[rows_order], names, names[0])
    # Nor does the order of the classes.
    order = list(range(classes))
    random.shuffle(order)
    moved = scores(
        np.argsort(order)[labels], probabilities[:, order], [names[i] for i in order], names[0]
    )
    distinct = len(set(probabilities.max(axis=1).round(9))) == len(labels)
    for name in NAMES:
        assert again.values[name] == pytest.approx(result.values[name], abs=1e-9), name
        # Bins of equal confidences: which is predicted first may differ in the last bit.
        if distinct or not name.startswith("ece"):
            assert moved.values[name] == pytest.approx(result.values[name], abs=1e-9), name


def test_by_subject_scores_the_mean_probability():
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    p = np.array([0.9, 0.2, 0.6, 0.7, 0.1, 0.2, 0.9])
    probabilities = np.stack([1 - p, p], 1)
    subjects = np.array(["b", "b", "b", "a", "a", "a", "c"])
    table = subject_table(labels, probabilities, subjects, subjects)
    np.testing.assert_array_equal(table.names, ["a", "b", "c"])
    np.testing.assert_array_equal(table.labels, [0, 1, 0])
    np.testing.assert_array_equal(table.cells, [3, 3, 1])
    np.testing.assert_allclose(table.probabilities[:, 1], [1 / 3, 1.7 / 3, 0.9])
    np.testing.assert_allclose(table.accuracy, [2 / 3, 2 / 3, 0])
    result = scores(table.labels, table.probabilities, BINARY, "ALL")
    assert result.values["accuracy"] == pytest.approx(2 / 3)
    assert result.values["auroc"] == 0.5
    assert result.by_class["HEM"]["images"] == 2


def test_subjects_of_equal_probabilities_are_tied():
    labels = np.repeat([0, 1], 40)
    subjects = np.random.default_rng(0).integers(0, 8, 80) + 10 * labels
    table = subject_table(labels, np.tile([0.6, 0.4], (80, 1)), subjects, subjects)
    assert scores(table.labels, table.probabilities, BINARY, "ALL").values["auroc"] == 0.5


def test_subjects_of_several_classes_cannot_be_scored():
    labels, probabilities = np.array([0, 1, 1]), np.tile([0.5, 0.5], (3, 1))
    subjects = np.array(["f1", "f1", "f2"])
    with pytest.raises(MixedSubjectsError, match="1 of 2 subjects have cells of several classes"):
        subject_table(labels, probabilities, subjects, subjects)


def test_probabilities_may_be_float32():
    labels, p = predictions(0)
    result = scores(labels, p.astype(np.float32), BINARY, "ALL").values
    assert result["loss"] == pytest.approx(sk.log_loss(labels, p), rel=1e-6)


def test_every_name_of_confusion_is_scored():
    assert set(confusion.NAMES) < set(NAMES)
