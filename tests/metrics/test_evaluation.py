"""One function from predictions to scores: by image, by subject, at a threshold."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sk

from leukjax.metrics.evaluation import score
from leukjax.metrics.intervals import intervals
from leukjax.metrics.predictions import Predictions


def predictions(classes=("all", "hem"), subjects=20, cells=6) -> Predictions:
    rng = np.random.default_rng(0)
    subject = np.repeat([f"s{number:02}" for number in range(subjects)], cells)
    labels = np.repeat(np.arange(subjects) % len(classes), cells).astype(np.int32)
    p = rng.dirichlet(np.ones(len(classes)), len(labels)) + np.eye(len(classes))[labels] / 2
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    ids = np.array([f"i{row:03}" for row in range(len(labels))])
    return Predictions(classes, ids, subject, subject, labels, p)


def test_scores_by_image_and_by_subject():
    p = predictions()
    result = score(p, "hem", name="cells")
    assert result.by_image == intervals(p.labels, p.probabilities, p.group, p.classes, "hem")
    means = np.array([p.probabilities[p.subject == s].mean(axis=0) for s in np.unique(p.subject)])
    labels = np.arange(20) % 2
    expected = sk.balanced_accuracy_score(labels, means.argmax(axis=1))
    assert result.by_subject["balanced_accuracy"].value == pytest.approx(expected)
    assert result.counts == {
        "images": 120, "subjects": 20, "groups": 20, "groups_with": {"all": 10, "hem": 10},
    }  # fmt: skip
    assert result.scores.values["auroc"] == pytest.approx(result.by_image["auroc"].value)
    assert result.by_class["hem"]["recall"].value == result.by_image["recall"].value


def test_it_prints_as_a_table():
    text = repr(score(predictions(), "hem", name="cells"))
    lines = text.splitlines()
    assert lines[0] == "cells: 120 images, 20 subjects, 20 groups; positive class: hem"
    (line,) = [line for line in lines if line.startswith("balanced accuracy")]
    assert line.count("[") == 2  # an interval by image and one by subject
    assert "jackknife" in text


def test_its_table_marks_the_method_of_each_interval():
    p = predictions()
    right = dataclasses.replace(p, probabilities=np.eye(2, dtype=np.float32)[p.labels])
    text = score(right, "hem").table()
    (line,) = [line for line in text.splitlines() if line.startswith("balanced accuracy")]
    assert line.count("]*") == 2
    assert "* the same result in every group" in text
    alone = dataclasses.replace(p, group=np.full(len(p), "one"))
    (line,) = [
        line for line in score(alone, "hem").table().splitlines() if line.startswith("accuracy")
    ]
    assert line.count(" –") >= 1


def test_a_threshold_moves_the_scores_that_depend_on_one():
    p = predictions()
    plain, strict = score(p, "hem"), score(p, "hem", threshold=0.8)
    predicted = p.probabilities[:, 1] >= 0.8
    assert strict.by_image["recall"].value == pytest.approx(predicted[p.labels == 1].mean())
    assert strict.by_image["recall"].value < plain.by_image["recall"].value
    assert strict.by_image["auroc"] == plain.by_image["auroc"]
    half = score(p, "hem", threshold=0.5)
    assert half.by_image["accuracy"].value == plain.by_image["accuracy"].value
    assert "Threshold of hem: 0.8" in strict.table()


def test_subjects_of_several_classes_have_no_scores():
    p = predictions()
    mixed = dataclasses.replace(p, subject=np.full(len(p), "one"))
    result = score(mixed, "hem")
    assert result.by_subject is None
    assert "cells of several classes" in result.no_subjects
    assert "By subject: none" in result.table()


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        (("all", "hem"), {"positive": "blast"}, "unknown class 'blast'; the classes are all, hem"),
        (("a", "b", "c"), {"threshold": 0.5}, "needs two classes"),
    ],
)
def test_what_cannot_be_scored(classes, given, message):
    with pytest.raises(ValueError, match=message):
        score(predictions(classes), **given)
