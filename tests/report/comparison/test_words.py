"""Who wins, in words: every kind of outcome."""

import pytest
from fake_runs import predict, subjects, write_run

from leukjax.report.comparison.inputs import read_entries
from leukjax.report.comparison.study import make_study
from leukjax.report.comparison.words import verdict


@pytest.fixture
def verdict_of(tmp_path):
    def make(number, skills, seeds=None):
        columns = subjects({"test": number})
        for i, (name, skill) in enumerate(skills.items()):
            predict(columns, skill, (seeds or range(9))[i]).write(tmp_path / f"{name}.csv")
        paths = [str(tmp_path / f"{name}.csv") for name in skills]
        return verdict(make_study(read_entries(paths), "all"))

    return make


def test_a_winner_of_all(verdict_of):
    said = verdict_of(30, {"a": 0.2, "b": 4.0, "c": 0.5})
    assert said[0].startswith("b wins: b has the highest balanced accuracy (")
    assert "against a +0." in said[0]


def test_better_than_some(verdict_of):
    said = verdict_of(30, {"a": 4.0, "b": 4.0, "c": 0.2})
    assert "is better than c; between" in said[0]
    assert "nobody can be said to win" in said[0]


def test_nobody_and_what_could_have_been_shown(verdict_of):
    said = verdict_of(10, {"a": 1.0, "b": 1.1})
    assert said[0].startswith("Nobody can be said to win.")
    assert "10 subjects" in said[0]
    assert "with a probability of 80 %" in said[1]


def test_so_few_groups_can_show_nothing(verdict_of):
    said = verdict_of(4, {"a": 0.2, "b": 4.0})
    assert said[0].startswith("Nobody can be said to win.")
    assert "could not have shown any difference, however large" in said[1]


def test_one_alone_and_models_that_are_the_same(verdict_of):
    assert "There is no other model" in verdict_of(8, {"a": 1.0})[0]
    said = verdict_of(8, {"a": 1.0, "b": 1.0}, seeds=(5, 5))
    assert said[0].startswith("Nobody wins: a and b have the same balanced accuracy (0.")
    assert "do not differ on any group" in said[1]


def test_synthetic_and_leaky_are_said(tmp_path):
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "leaky", 3.0, leaky=True)
    both = [str(tmp_path / "a"), str(tmp_path / "leaky")]
    said = " ".join(verdict(make_study(read_entries(both))))
    assert "SYNTHETIC" in said
    assert "LEAKY: leaky was split by image" in said
    assert "leaky has the highest" not in said
    alone = " ".join(verdict(make_study(read_entries(both[1:]))))
    assert "LEAKY image split" in alone
