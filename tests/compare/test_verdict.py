"""The headline and the paragraphs below it: every kind of outcome."""

import pytest
from fake_runs import predict, subjects, write_run

from leukjax.compare.analysis import make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.verdict import verdict


@pytest.fixture
def verdict_of(tmp_path):
    def make(number, skills, seeds=None):
        columns = subjects({"test": number})
        for i, (name, skill) in enumerate(skills.items()):
            predict(columns, skill, (seeds or range(9))[i]).write(tmp_path / f"{name}.csv")
        paths = [str(tmp_path / f"{name}.csv") for name in skills]
        return verdict(make_study(read_entries(paths), "all"))

    return make


def test_a_model_that_beats_all(verdict_of):
    sentences = verdict_of(30, {"a": 0.2, "b": 4.0, "c": 0.5})
    assert sentences[0].startswith(
        "Significant difference. b scored highest (balanced accuracy 1.000"
    )
    assert "over a (+0." in sentences[0]
    assert "30 subjects)" in sentences[0]
    assert sentences[1].startswith("Primary analysis: balanced accuracy on the test images (")
    assert "p adjusted over 3 pairs of models" in sentences[1]


def test_a_model_that_beats_some(verdict_of):
    sentences = verdict_of(30, {"a": 4.0, "b": 4.0, "c": 0.2})
    assert "is more than chance (adjusted p " in sentences[0]
    assert "is within chance (adjusted p = " in sentences[0]


def test_of_many_models_only_the_pairs_of_the_best_are_named(verdict_of):
    four = {"a": 0.1, "b": 0.1, "c": 4.0, "d": 4.0}
    few = verdict_of(30, four)[0]
    assert few.count(" above ") == 2
    assert "Significant among the others: " in few
    many = verdict_of(30, {**four, "e": 0.1, "f": 0.1})[0]
    assert " above " not in many
    assert " 4 pairs of the others differ significantly, see the pairs below." in many


def test_no_difference_and_its_power(verdict_of):
    sentences = verdict_of(10, {"a": 1.0, "b": 1.1})
    assert sentences[0].startswith("No significant difference. ")
    assert " scored highest (balanced accuracy 0." in sentences[0]
    assert ") is within chance (adjusted p = " in sentences[0]
    assert sentences[0].endswith("10 subjects).")
    assert "with a probability of 80 %" in sentences[2]


def test_few_groups_can_show_nothing(verdict_of):
    sentences = verdict_of(4, {"a": 0.2, "b": 4.0})
    assert sentences[0].startswith("No significant difference.")
    assert "could not have shown any difference, however large" in sentences[2]
    # Six groups are enough for one pair (p 0.031), and not for three.
    assert "could not have shown" not in verdict_of(6, {"a": 0.2, "b": 4.0})[2]
    assert "adjusted p below 0.0938" in verdict_of(6, {"a": 0.2, "b": 4.0, "c": 1.0})[2]


def test_a_single_model_and_identical_models(verdict_of):
    assert "There is no other model" in verdict_of(8, {"a": 1.0})[0]
    sentences = verdict_of(8, {"a": 1.0, "b": 1.0}, seeds=(5, 5))
    assert sentences[0].startswith("No difference. a and b have the same balanced accuracy (0.")
    assert "do not differ on any group" in sentences[2]


def test_synthetic_and_leaky_models_are_marked(tmp_path):
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "leaky", 3.0, leaky=True)
    both = [str(tmp_path / "a"), str(tmp_path / "leaky")]
    text = " ".join(verdict(make_study(read_entries(both))))
    assert "SYNTHETIC" in text
    assert "LEAKY: leaky has cells of the same subjects in training and test" in text
    assert "leaky scored highest" not in text
    alone = " ".join(verdict(make_study(read_entries(both[1:]))))
    assert "LEAKY split" in alone
