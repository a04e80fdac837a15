"""Correct tables pass; a changed number is detected wherever arithmetic allows."""

from pathlib import Path

import pytest
from random_papers import changed, paper, possible, toml

from leukjax.audit import paper as papers
from leukjax.audit import paper_checks

COUNT = 200
SCORES = {"f1_identity", "grim", "metric_feasibility"}


def failed(content: dict, path: Path) -> dict[str, str]:
    """Returns the failed checks, and their arithmetic."""
    path.write_text(toml(content))
    findings = paper_checks.audit(papers.read(path))
    return {f.check: f"{f.where}: {f.arithmetic}" for f in findings if f.verdict == "fail"}


def test_correct_papers_pass(tmp_path: Path):
    for seed in range(COUNT):
        assert not failed(paper(seed), tmp_path / "paper.toml"), f"seed {seed}"


@pytest.mark.slow
def test_a_changed_number_is_detected_where_arithmetic_allows(tmp_path: Path):
    detected = 0
    for seed in range(COUNT):
        content, what, where = changed(paper(seed), seed)
        failures = failed(content, tmp_path / "paper.toml")
        if what in ("images", "part", "class"):
            assert "counts_sum" in failures, f"seed {seed}: {what} {where}"
        elif not can_be(content, what, where):
            assert SCORES & failures.keys(), f"seed {seed}: {what} {where}"
        else:  # another confusion matrix gives the same numbers
            assert not SCORES & failures.keys(), f"seed {seed}: {failures}"
            continue
        detected += 1
    assert detected >= 0.9 * COUNT


def can_be(content: dict, what: str, where: tuple) -> bool:
    classes = content["data"]["classes_printed"]
    if what == "row":
        entry, row, _ = where
        return possible(content["curve"][entry]["rows"][row][3:], classes["val"])
    entry, _ = where
    values = [value / 100 for value in content["test"][entry]["percent"].values()]
    return possible(values, classes["test"])
