"""Sound tables pass; a changed number is caught wherever arithmetic can catch it."""

from pathlib import Path

from drawn_papers import changed, paper, possible, toml

from leukjax.audit import paper as papers
from leukjax.audit import paper_checks

COUNT = 200
SCORES = {"f1_identity", "grim", "metric_feasibility"}


def failed(content: dict, path: Path) -> dict[str, str]:
    """Checks that fail, and where."""
    path.write_text(toml(content))
    findings = paper_checks.audit(papers.read(path))
    return {f.check: f"{f.where}: {f.arithmetic}" for f in findings if f.verdict == "fail"}


def test_sound_papers_pass_whole(tmp_path: Path):
    for seed in range(COUNT):
        assert not failed(paper(seed), tmp_path / "paper.toml"), f"seed {seed}"


def test_a_changed_number_is_caught_where_arithmetic_allows(tmp_path: Path):
    caught = 0
    for seed in range(COUNT):
        content, what, where = changed(paper(seed), seed)
        found = failed(content, tmp_path / "paper.toml")
        if what in ("images", "part", "class"):
            assert "counts_sum" in found, f"seed {seed}: {what} {where}"
        elif not can_be(content, what, where):
            assert SCORES & found.keys(), f"seed {seed}: {what} {where}"
        else:  # some other confusion matrix prints this as well
            assert not SCORES & found.keys(), f"seed {seed}: {found}"
            continue
        caught += 1
    assert caught >= 0.9 * COUNT


def can_be(content: dict, what: str, where: tuple) -> bool:
    classes = content["data"]["classes_printed"]
    if what == "row":
        entry, row, _ = where
        return possible(content["curve"][entry]["rows"][row][3:], classes["val"])
    entry, _ = where
    values = [value / 100 for value in content["test"][entry]["percent"].values()]
    return possible(values, classes["test"])
