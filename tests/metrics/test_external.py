"""External tests: differences, prevalence and absent classes, each computed again by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk
from toy import CLASSES, made

from leukjax.metrics import clustered
from leukjax.metrics.evaluation import score
from leukjax.metrics.external import at_prevalence, bootstrap, class_shares, external_test


def compared(external, own, **options):
    return external_test(external, np.array(["x"] * len(external)), {}, own, **options)


def test_the_difference_and_its_interval_by_hand():
    external, own = made(1, skill=0.6), made(2, groups=12, skill=1.5)
    test = compared(external, own, positive="b")
    a, b = score(external, "b"), score(own, "b")
    for name in ("accuracy", "auroc", "balanced_accuracy", "loss"):
        s1, s2, drop = a.by_image[name], b.by_image[name], test.drop[name]
        assert test.by_image[name] == s1
        assert drop.value == s1.value - s2.value
        assert drop.low == pytest.approx(
            drop.value - np.sqrt((s1.value - s1.low) ** 2 + (s2.high - s2.value) ** 2), abs=1e-12
        )
        assert drop.high == pytest.approx(
            drop.value + np.sqrt((s1.high - s1.value) ** 2 + (s2.value - s2.low) ** 2), abs=1e-12
        )
        assert drop.groups == 36
        low, high = drop.bootstrap
        assert low < drop.value < high
    assert "difference" in str(test)


def test_the_bootstrap_is_that_of_repeated_images():
    """Each draw is a data set in which the images of a group occur as often as it was drawn."""
    sets = [made(3), made(4, groups=10)]
    data = [clustered.group(p.labels, p.probabilities, p.group) for p in sets]
    values = []
    for i, (p, grouped) in enumerate(zip(sets, data, strict=True)):
        weights = np.concatenate(list(clustered.resamples(grouped, 200, 7 + i)))
        values.append(
            [
                sk.balanced_accuracy_score(p.labels[r], p.probabilities.argmax(axis=1)[r])
                for w in weights
                if len(r := np.repeat(np.arange(len(p)), w[grouped.member].astype(int)))
            ]
        )
    expected = np.percentile(np.array(values[0]) - np.array(values[1]), [2.5, 97.5])
    statistics = [clustered.statistic("balanced_accuracy", each, 1) for each in data]
    np.testing.assert_allclose(bootstrap(statistics, data, 200, 7), expected, atol=1e-12)


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_another_prevalence_is_a_weight_per_class(threshold):
    p = made(5)
    shares = np.array([0.9, 0.1])
    weight = (shares / class_shares(p))[p.labels]
    called = p.probabilities.argmax(1) if threshold is None else p.probabilities[:, 1] >= threshold
    found = at_prevalence(p, shares, "b", threshold, CLASSES[:2])
    for name, function in (
        ("accuracy", sk.accuracy_score),
        ("precision", sk.precision_score),
        ("f1", sk.f1_score),
        ("mcc", sk.matthews_corrcoef),
    ):
        value = function(p.labels, called, sample_weight=weight)
        assert found[name].value == pytest.approx(value, abs=1e-12)
        assert found[name].low < value < found[name].high
    usual = score(p, "b", threshold=threshold).by_image
    for name in ("recall", "specificity"):
        assert found[name].value == pytest.approx(usual[name].value, abs=1e-12)
        assert found[name].low == pytest.approx(usual[name].low, abs=1e-9)


def test_means_are_over_the_classes_that_are_there():
    external, own = made(6, classes=3, present=[0, 2]), made(7, groups=30, classes=3)
    test = compared(external, own)
    assert test.absent == ("b",)
    predicted = external.probabilities.argmax(axis=1)
    recalls = [np.mean(predicted[external.labels == c] == c) for c in (0, 2)]
    assert test.by_image["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    aurocs = [sk.roc_auc_score(external.labels == c, external.probabilities[:, c]) for c in (0, 2)]
    assert test.by_image["auroc"].value == pytest.approx(np.mean(aurocs))
    assert test.by_image["auroc"].low < np.mean(aurocs) < test.by_image["auroc"].high
    # The own test beside it: the same classes, and no image of the third.
    assert set(test.own_test.predictions.labels) == {0, 2}
    kept = own.take(own.labels != 1)
    recalls = [np.mean(kept.probabilities.argmax(1)[kept.labels == c] == c) for c in (0, 2)]
    assert test.own_test.by_image["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    assert test.at_own_prevalence["balanced_accuracy"].low is not None
    assert "No image of b" in str(test)


def test_what_is_missing_is_said():
    few = made(8, groups=2)
    test = compared(few, made(9), positive="b")
    assert test.by_image["accuracy"].value is not None
    assert test.drop["accuracy"].low is None
    assert "external test: " in test.drop["accuracy"].reason
    assert "single group" in str(test)
    without = compared(made(9), None, no_own="the runs were tested elsewhere")
    assert without.drop == {}
    assert "the runs were tested elsewhere" in str(without)
    other = compared(made(10, present=[1]), made(11, present=[0]), positive="b")
    assert other.no_own == "it has no image of b"
    one = compared(made(10, present=[1]), made(11), positive="b")
    assert one.by_image["recall"] == one.by_image["balanced_accuracy"]
    assert one.by_image["auroc"].reason == "every image is b"


def test_their_classes_against_ours():
    p = made(12, groups=6)
    theirs = np.array(["y", "x"])[p.labels]
    test = external_test(p, theirs, {"z": 3}, None, positive="b", threshold=0.8)
    names, matrix = test.confusion
    assert names == ("x", "y")
    called = p.probabilities[:, 1] >= 0.8
    assert matrix[0].tolist() == [
        int((~called & (theirs == "x")).sum()),
        int((called & (theirs == "x")).sum()),
    ]
    assert matrix.sum() == len(p)
    assert "z 3 images" in str(test)
