"""A mistake in a paper file is one line that names the key."""

import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest

from leukjax.audit import paper as papers
from leukjax.audit import paper_checks
from leukjax.errors import UserError


def read(tmp_path: Path, text: str | bytes) -> papers.Paper:
    path = tmp_path / "paper.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return papers.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
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
        ("not toml", "not valid TOML"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str | bytes, message: str):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        papers.read(tmp_path / "none.toml")


def test_digits_are_kept(tmp_path: Path):
    paper = read(tmp_path, "[[test]]\nmodel = 'x'\npercent = {accuracy = 72.0, f1 = 70.50}")
    assert str(paper.tests[0].percent["f1"]) == "70.50"
    assert paper.tests[0].percent["accuracy"] == Decimal("72.0")


def test_the_blank_form_is_a_paper_without_numbers(tmp_path: Path):
    paper = read(tmp_path, papers.blank_form())
    verdicts = {f.verdict for f in paper_checks.audit(paper) if f.check != "missing_items"}
    assert verdicts == {"cannot_tell"}


def test_the_commented_lines_of_the_form_are_right_too(tmp_path: Path):
    lines = [line.removeprefix("# ") for line in papers.blank_form().splitlines()[2:]]
    kept = [x for x in lines if not x.startswith("One for")]
    paper = read(tmp_path, "\n".join(kept))
    assert paper.tests[0].percent.keys() == {"accuracy", "precision", "recall", "f1"}
    assert len(paper.curves[0].rows) == 1


def test_findings_are_written_as_json(tmp_path: Path):
    findings = paper_checks.audit(read(tmp_path, papers.blank_form()))
    paper_checks.write(findings, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert len(written) == len(findings)
    assert set(written[0]) == {"check", "where", "verdict", "arithmetic"}


TEST = "[[test]]\nmodel = 'x'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEST + "percent = {accuracy = 1e999999999}", r"accuracy: 1E\+999999999 is out of range"),
        (TEST + "percent = {accuracy = 1e-999999999}", "accuracy: 1E-999999999 is out of range"),
        (TEST + "percent = {accuracy = 1e99999999999999999999}", "the number is too large"),
        (TEST + f"percent = {{accuracy = 0.{'3' * 100_000}}}", "out of range"),
        (TEST + "percent = {accuracy = inf}", "must be a number, which Infinity is not"),
        (TEST + "p_value = 1e-401", "p_value must be a number from 0 to 1"),
        ("[data]\nimages = 1000000001", "out of range. Give at most 1,000,000,000"),
        (f"[data]\nimages = {'9' * 4000}", "a number with too many digits is out of range"),
        (f"[data]\nimages = {'9' * 5000}", "not valid TOML"),
        (f"[data]\nimages = 0x{'f' * 50_000}", "out of range"),
        ("[data]\nimages = 2026-01-01", "must be a whole number"),
        (f"[data]\nimages = {'[' * 100_000}", "nested too deeply"),
        (f"[data]\nimages = {'[' * 300}{']' * 300}", "which a list of 1 is not"),
        (f"{'.'.join('a' * 500_000)} = 1", "a key has more than 16 parts"),
        (f"[{'.'.join('a' * 500_000)}]", "a key has more than 16 parts"),
        ("x = {" + " . ".join(['"b"'] * 50_000) + " = 1}", "a key has more than 16 parts"),
        (f"{'k' * 100_000} = 1", "is not known"),
        (TEST * 1001, r"1,001 \[\[test\]\] entries, at most 1,000"),
        (f"[[curve]]\nmodel='x'\nrows = [{'[1],' * 100_000}]", "a list of 100,000, at most 1,000"),
        (" " * (papers.MAX_BYTES + 1), "has more than 1 MiB"),
    ],
)
def test_what_is_too_large_is_refused_in_one_short_line(tmp_path: Path, text: str, message: str):
    started = time.monotonic()
    with pytest.raises(UserError, match=message) as refused:
        read(tmp_path, text)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
    assert "\n" not in str(refused.value)
    assert time.monotonic() - started < 20  # hours without the bounds


def test_a_pipe_is_no_paper(tmp_path: Path):
    os.mkfifo(tmp_path / "paper.toml")
    with pytest.raises(UserError, match="is not a regular file"):
        papers.read(tmp_path / "paper.toml")


def test_numbers_that_no_paper_should_print_are_findings_and_no_errors(tmp_path: Path):
    paper = read(
        tmp_path,
        "[paper]\ntitle = 'a\\u001b[2J'\n".replace("'", '"')
        + "[data]\nsplit_printed = {val = 10, test = 0}\n"
        + "classes_printed = {test = {all = 0, hem = 0}}\n"
        + "[preprocessing]\nmethods = ['upscaling, resize to 99999999999999999999']\n"
        + "[[test]]\nmodel = 'a'\npercent = {accuracy = 1e2, precision = 1e2, recall = 1e2}\n"
        + "[[test]]\nmodel = 'b'\npercent = {accuracy = 150.0, precision = -1.0, recall = 0.0}\n"
        + "".join(
            f"[[curve]]\nmodel = '{name}'\ncolumns = ['epoch', 'accuracy', 'val_loss']\n"
            f"rows = [[1, {first}, 0.5], [2, {last}, -1000.0]]\n"
            for name, first, last in (("a", 1.2, -3.0), ("b", 1.1, 5.0))
        ),
    )
    assert paper.tests[0].percent["accuracy"].as_tuple().exponent == 0  # 1e2 is 100
    findings = paper_checks.audit(paper)
    grim = [f.verdict for f in findings if f.check == "grim" and f.where.startswith("curve")]
    assert grim == ["fail", "fail"]
    assert "\x1b" not in paper_checks.report(paper, findings)
