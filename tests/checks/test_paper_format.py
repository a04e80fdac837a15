"""A paper file with a mistake is answered by one line that names the key."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from leukjax.checks import paper as papers
from leukjax.checks import paper_checks
from leukjax.errors import UserError


def read(tmp_path: Path, text: str | bytes) -> papers.Paper:
    path = tmp_path / "paper.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return papers.read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[papper]\ntitle = 'x'", r"section 'papper' is not known; did you mean paper\?"),
        ("[data]\nimage = 3", r"\[data\]: key 'image' is not known; did you mean images\?"),
        (
            "[data]\nimages = 'many'",
            "images must be a whole number, which 'many' is not",
        ),
        ("[data]\nimages = -1", "images must be a whole number"),
        ("[data]\nimages = true", "images must be a whole number"),
        ("[data]\nsplit_printed = {train = 1.5}", "train must be a whole number"),
        ("[data]\nsplit_claimed = 0.7", "split_claimed: must be a table of keys"),
        ("data = 3", r"\[data\]: must be a table"),
        ("[curve]\nmodel = 'x'", r"\[curve\] must be written \[\[curve\]\]"),
        ("[[curve]]\nmodel = 'x'", r"\[\[curve\]\] 1: rows is missing"),
        ("[[curve]]\nmodel='x'\nrows = [[1, 2]]", "a row has 2 numbers for 7 columns"),
        ("[[curve]]\nmodel='x'\nrows = [[1, nan]]", "rows must be rows of numbers"),
        ("[[test]]\npercent = {accuracy = 3.0}", r"\[\[test\]\] 1: model is missing"),
        ("[[test]]\nmodel='x'\npercent = {acuracy = 3.0}", r"did you mean accuracy\?"),
        ("[[test]]\nmodel='x'\nkind = 'best'", "kind must be one of single, mean, macro"),
        ("not toml", "no TOML"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str | bytes, says: str):
    with pytest.raises(UserError, match=says):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        papers.read(tmp_path / "none.toml")


def test_digits_are_kept(tmp_path: Path):
    paper = read(tmp_path, "[[test]]\nmodel = 'x'\npercent = {accuracy = 72.0, f1 = 70.50}")
    assert str(paper.tests[0].percent["f1"]) == "70.50"
    assert paper.tests[0].percent["accuracy"] == Decimal("72.0")


def test_the_blank_form_is_a_paper_without_numbers(tmp_path: Path):
    paper = read(tmp_path, papers.BLANK)
    verdicts = {f.verdict for f in paper_checks.audit(paper) if f.check != "missing_items"}
    assert verdicts == {"cannot_tell"}


def test_the_commented_lines_of_the_form_are_right_too(tmp_path: Path):
    lines = [line.removeprefix("# ") for line in papers.BLANK.splitlines()[2:]]
    kept = [x for x in lines if not x.startswith("One for")]
    paper = read(tmp_path, "\n".join(kept))
    assert paper.tests[0].percent.keys() == {"accuracy", "precision", "recall", "f1"}
    assert len(paper.curves[0].rows) == 1


def test_findings_are_written_as_json(tmp_path: Path):
    findings = paper_checks.audit(read(tmp_path, papers.BLANK))
    paper_checks.write(findings, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert len(written) == len(findings)
    assert set(written[0]) == {"check", "where", "verdict", "arithmetic"}
