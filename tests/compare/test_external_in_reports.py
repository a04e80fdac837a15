"""External tests and subgroups in a comparison: matched to their runs, listed, never ranked."""

import dataclasses
import hashlib
import json

import pytest
from fake_runs import subjects, write_run

from leukjax.compare.load_results import read_entries
from leukjax.compare.write_report import compare_runs
from leukjax.errors import UserError
from leukjax.metrics.intervals import Interval
from leukjax.report.external import FILE
from leukjax.report.model_card import NO_EXTERNAL_TEST, with_external_tests


def interval(value, low=None, high=None, reason=""):
    return dataclasses.asdict(Interval(value, low, high, "jackknife", 9, reason))


def write_external(folder, runs, balanced_accuracy):
    """An external test of some runs; digests of their own test identify them."""
    scores = {
        "balanced_accuracy": interval(balanced_accuracy, 0.9, 0.99),
        "auroc": interval(0.97, reason="the score rests on a single group of a class"),
    }
    facts = [
        {
            "run": run.name,
            "test_predictions_sha256": hashlib.sha256(
                (run / "predictions" / "test.csv").read_bytes()
            ).hexdigest(),
        }
        for run in runs
    ]
    content = {
        "runs": facts,
        "data": "table",
        "synthetic": False,
        "subjects_known": False,
        "images": 300,
        "groups": 30,
        "left_out": {"smudge": 7},
        "absent": [],
        "by_image": scores,
        "own": scores,
        "drop": {"balanced_accuracy": interval(-0.125, -0.25, 0.01)},
    }
    folder.mkdir()
    (folder / FILE).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("external")
    columns = subjects({"train": 12, "val": 6, "test": 12})
    runs = [write_run(folder / n, s, columns=columns, seed=i) for i, (n, s) in
            enumerate((("a", 1.0), ("b", 1.6), ("c", 1.2)))]  # fmt: skip
    rows = ["id,source,sex"]
    for i, subject in zip(columns[0], columns[1], strict=True):
        number = int(subject[-2:])
        rows.append(f"{i},{'north' if number < 10 else 'south'},{'fm'[number // 2 % 2]}")
    (runs[0] / "attributes.csv").write_text("\n".join(rows) + "\n")
    (runs[0] / "model_card.md").write_text(f"# Card\n\n- {NO_EXTERNAL_TEST}\n- Rest\x1b[2J\n")
    first = write_external(folder / "city", [runs[0]], 0.951)
    second = write_external(folder / "village", [runs[2]], 0.962)
    compare_runs([*map(str, runs[:2]), first, second], folder / "report")
    return folder / "report"


def test_external_tests_are_listed_beside_the_models(report):
    results = json.loads((report / "results.json").read_text())
    assert set(results["models"]) == {"a", "b"}  # not ranked
    assert [(test["model"], test["folder"]) for test in results["external_tests"]] == [
        ("a", "city"),
        ("c (not compared here)", "village"),
    ]
    assert {"by_image", "own", "drop"} <= set(results["external_tests"][0])
    table = (report / "tables" / "external.csv").read_text().splitlines()
    assert table[1].startswith("a,table (city),300,30,balanced accuracy,0.951,0.9,0.99,")
    assert table[1].endswith("-0.125,-0.25,0.01")
    text = (report / "report.md").read_text()
    assert "table (city): the class map leaves out 7 images." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| External validation")]
    assert "balanced accuracy 0.951 (95 % CI 0.900 to 0.990); AUROC 0.970 (interval undef" in row


def test_the_model_card_lists_them(report):
    (card,) = (report / "model_cards").iterdir()
    assert card.name == "a.md"
    lines = card.read_text().splitlines()
    assert lines[2].startswith("- External validation. External test on table (city): 300 images")
    assert lines[3] == "- Rest\\x1b[2J"
    assert "## External validation\n\n- External validation. x" in with_external_tests("#", ["x"])


def test_subgroups_have_a_table_and_a_figure(report):
    results = json.loads((report / "results.json").read_text())
    rows = {(row["attribute"], row["value"]): row for row in results["subgroups"]["a"]}
    assert set(rows) == {("source", "north"), ("source", "south"), ("sex", "f"), ("sex", "m")}
    south = rows["source", "south"]
    assert south["groups"] == 2
    assert south["scores"]["accuracy"]["value"] is not None
    assert south["scores"]["accuracy"]["low"] is None
    assert rows["source", "north"]["scores"]["accuracy"]["low"] is not None
    assert (report / "figures" / "subgroups.svg").is_file()
    text = (report / "report.md").read_text()
    assert "scores by source, sex; accuracy on every subject" in text


def test_a_later_report_without_them_removes_their_files(report, tmp_path):
    folder = report.parent
    again = [str(folder / "a"), str(folder / "city")]
    compare_runs(again, tmp_path / "out")
    assert (tmp_path / "out" / "model_cards" / "a.md").is_file()
    compare_runs([str(folder / "b")], tmp_path / "out")
    assert list((tmp_path / "out" / "model_cards").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("attributes.csv", "id,a\nx,1\nx,2\n", "an id occurs twice"),
        ("attributes.csv", "id,a,a\nx,1,2\n", "id and different names"),
        ("attributes.csv", "name,a\nx,1\n", "id and different names"),
        ("attributes.csv", "id,a\nx\n", "more or fewer columns"),
        ("attributes.csv", f"id,{'a' * 2000}\nx,1\n", "name of a column is too long"),
    ],
)
def test_damaged_attributes_are_one_line(tmp_path, name, content, message):
    run = write_run(tmp_path / "run", 1.0)
    (run / name).write_text(content)
    with pytest.raises(UserError, match=r"attributes\.csv: cannot be read") as caught:
        read_entries([str(run)])
    assert message in str(caught.value)


def test_external_tests_alone_are_refused(report):
    with pytest.raises(UserError, match="give the runs that it tests as well"):
        compare_runs([report.parent / "city"], report.parent / "none")
    assert not (report.parent / "none").exists()
