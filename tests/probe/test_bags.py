"""Heads for subjects: planted cells are found; labels of subjects are read and checked."""

import numpy as np
import planted
import pytest
from sklearn.metrics import roc_auc_score

import leukjax as lj
from leukjax.errors import UserError
from leukjax.probe import bags


@pytest.fixture(scope="module")
def cohort():
    features, members, labels, carries = planted.patients()
    problem, test = planted.problem(features, labels, members=members, parts=(0.6, 0.75))
    return problem, test, carries


def test_gated_attention_finds_the_patients_and_their_cells(cohort):
    problem, test, carries = cohort
    fitted = bags.HEADS["gated_attention"].fit(problem)
    probabilities = fitted.predict(test)
    assert roc_auc_score(problem.labels[test], probabilities[:, 1]) > 0.95
    weights = fitted.weights(test)
    found = []
    for subject, of_cells in zip(test, weights, strict=True):
        assert len(of_cells) == len(problem.members[subject])
        np.testing.assert_allclose(of_cells.sum(), 1, rtol=1e-5)
        if problem.labels[subject]:
            found.append(carries[problem.members[subject]][of_cells.argmax()])
    assert np.mean(found) > 0.9


def test_baselines_see_the_mean_and_the_largest_values(cohort):
    problem, test, _ = cohort
    labels = problem.labels[test]
    mean, largest = (bags.HEADS[name].fit(problem).predict(test)[:, 1] for name in ("mean", "max"))
    assert roc_auc_score(labels, largest) > 0.9  # the sign is larger than nearly all other values
    assert roc_auc_score(labels, mean) > 0.6  # of 5 % of the cells little is left in the mean


def records(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    groups = np.repeat(["p1", "p2", "p3"], 4)
    return lj.Arrays(images, np.arange(12) % 2, groups=groups, classes=("a", "b")).prepare(16)


def test_labels_of_subjects_replace_those_of_cells(tmp_path):
    cells = records(tmp_path)
    with pytest.raises(UserError, match="3 of 3 subjects have images of several classes, as p1"):
        bags.subjects_of(cells.manifest)
    file = tmp_path / "patients.csv"
    file.write_text("subject,age,label\np1,4,well\np3,9,ill\np4,5,ill\n")
    made = bags.with_subject_labels(cells, str(file))
    assert (made.classes, made.positive) == (("ill", "well"), "well")
    units, members = bags.subjects_of(made.manifest)
    assert units.id.tolist() == ["p1", "p3"]  # p2 has no label
    assert units.label.tolist() == [1, 0]
    assert [len(rows) for rows in members] == [4, 4]
    assert set(cells.manifest.subject[members[1]]) == {"p3"}
    assert cells.classes == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("patient,label\np1,ill\n", "has no column subject"),
        ("subject,label\np1,ill\np1,well\n", "p1 is on two lines"),
        ("subject,label\nq1,ill\n", "names no subject of the images; theirs look like 'p1'"),
        ("subject,label\np1,ill\np2,ill\n", "has 1 class; it needs two"),
    ],
)
def test_wrong_labels_of_subjects(tmp_path, text, message):
    file = tmp_path / "patients.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        bags.with_subject_labels(records(tmp_path), str(file))
