"""A number that appears several times in a report is the same, with interval and groups."""

import csv
import io
import json
import re
import tomllib
import types
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import predict, subjects, take, write_crossval, write_run
from matplotlib.container import BarContainer

from leukjax.audit import paper as papers
from leukjax.compare import run_facts, tables
from leukjax.compare.analysis import Pair, leading_tests, make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.sections import make_document
from leukjax.compare.verdict import analyses_table, disagreements, verdict
from leukjax.compare.write_report import paper_toml, results_json
from leukjax.crossval import results
from leukjax.metrics import clustered
from leukjax.metrics.comparisons import Comparison
from leukjax.metrics.intervals import Interval, interval
from leukjax.report import figures, page
from leukjax.report.page import Document, Section
from leukjax.report.provenance import About
from leukjax.report.tables import COLUMNS, P, Spread, Table, number, p_value, span


class Cells(HTMLParser):
    """Rows of the tables of a page: name -> rows of cells, each as [value, interval]."""

    def __init__(self, text):
        super().__init__()
        self.tables, self._name, self._small, self._inside = {}, "", False, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        table_id = dict(attributes).get("id", "")
        if table_id.startswith("table-"):
            self._name = table_id.removeprefix("table-")
            self.tables[self._name] = []
        if tag == "tr" and self._name:
            self.tables[self._name].append([])
        if tag == "td":
            self.tables[self._name][-1].append(["", ""])
            self._inside = True
        self._small = tag == "small"

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "td"
        self._small = False

    def handle_data(self, data):
        if self._inside:
            self.tables[self._name][-1][-1][self._small] += data.strip()


def cells(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A model with two runs and another with other settings."""
    folder = tmp_path_factory.mktemp("two")
    write_run(folder / "cnn0", 1.2)
    write_run(folder / "cnn1", 1.1, seed=1)
    other = write_run(folder / "other", 2.0, model="hybrid_vit", seed=7)
    config = json.loads((other / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.0123
    (other / "config.json").write_text(json.dumps(config))
    return make_study(read_entries([f"cnn={folder}/cnn0,{folder}/cnn1", str(other)]))


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """A crossval folder with a difference that is significant out of fold, not on the test."""
    folder = tmp_path_factory.mktemp("folds") / "cv"
    write_crossval(folder, {"cnn": 1.6, "hybrid_vit": 2.2}, held_out=True)
    return make_study(read_entries([str(folder)]))


@pytest.fixture(scope="module")
def document(two):
    return make_document(two)


@pytest.fixture(scope="module")
def html(document, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for picture in document.pictures():
        (folder / f"{picture.name}.svg").write_text("<svg/>")
    return Cells(page.html(document, folder))


def test_every_row_is_on_the_page(document, html):
    """The checklist once stopped at 25 of 31 rows."""
    for table in document.tables():
        assert len(html.tables[table.name]) - 1 == len(table.rows), table.name
    assert len(html.tables["checklist"]) - 1 == 31


def test_a_shortened_table_has_a_note(tmp_path):
    rows = [[f"row {i}", i] for i in range(page.MAX_ROWS + 1)]
    table = Table("long", "Long", ["", "n"], rows)
    text = page.html(Document("t", "s", [], [], [Section("x", "X", [table])]), tmp_path)
    assert (
        f"The first {page.MAX_ROWS} of {page.MAX_ROWS + 1} rows; all are in tables/long.csv" in text
    )


def test_a_cell_of_a_csv_holds_one_value(document, folds):
    """seeds.csv once had mean and deviation on two lines of one cell."""
    for table in [*document.tables(), *make_document(folds).tables()]:
        for row in csv.reader(io.StringIO(table.csv())):
            assert not any("\n" in cell or "±" in cell for cell in row), table.name
    (seeds,) = [table for table in document.tables() if table.name == "seeds"]
    (row,) = cells(seeds)
    assert list(row)[2:5] == ["accuracy", "accuracy sd", "accuracy runs"]
    assert float(row["accuracy sd"]) > 0
    assert row["accuracy runs"] == row["runs"] == "2"


def test_scores_are_the_same_in_tables_page_figures_and_words(two, document, html):
    by_name = {table.name: table for table in document.tables()}
    rows = {row[""]: row for row in cells(by_name["scores"])}
    classes = {(row[""], row["class"]): row for row in cells(by_name["scores_by_class"])}
    on_page = {row[0][0]: row for row in html.tables["scores"] if row}
    in_json = json.loads(results_json(two))["models"]
    groups = len(np.unique(two.test.group))
    for model, scores in two.scores.items():
        assert rows[model]["groups"] == str(groups)
        for column, (score, title) in enumerate(COLUMNS.items(), start=1):
            title, interval = title.replace("\n", " "), scores.by_image[score]
            assert float(rows[model][title]) == interval.value == in_json[model][score]["value"]
            assert (
                float(rows[model][f"{title} low"]) == interval.low == in_json[model][score]["low"]
            )
            assert on_page[model][column] == [number(interval.value), span(interval)]
            if score in ("precision", "recall", "specificity", "f1", "auroc"):
                assert float(classes[model, "all"][title]) == interval.value
                assert float(classes[model, "all"][f"{title} high"]) == interval.high
    by_figure = {picture.name: picture.figure for picture in document.pictures()}
    (bars,) = by_figure["scores"].axes
    heights = [float(c.datavalues[0]) for c in bars.containers if isinstance(c, BarContainer)]
    assert heights == [m.by_image[s].value for m in two.scores.values() for s in COLUMNS]
    ends = {tuple(line.get_ydata()) for line in bars.lines}
    assert ends == {(i.low, i.high) for m in two.scores.values()
                    for s in COLUMNS for i in [m.by_image[s]]}  # fmt: skip
    for name, score in (("roc", "auroc"), ("precision_recall", "average_precision")):
        labels = [text.get_text() for text in by_figure[name].legends[0].get_texts()]
        for model, label in zip(two.scores, labels, strict=True):
            interval = two.scores[model].by_image[score]
            assert label.endswith(f"{number(interval.value)} ({span(interval)})")
    best = two.scores["other"].by_image["balanced_accuracy"]
    assert f"balanced accuracy {best.value:.3f}, 95 % CI {best.low:.3f}" in verdict(two)[0]
    ece = [row[-2] for row in by_name["calibration"].rows if row[1] == "as given"]
    assert ece == [m.by_image["ece"].value for m in two.scores.values()]
    printed = tomllib.loads(paper_toml(two))["test"]
    for record in printed:
        value = two.scores[record["model"]].by_image["accuracy"].value
        assert record["percent"]["accuracy"] == round(100 * value, 2)


def test_differences_are_the_same_in_table_and_figure(two, document):
    by_name = {table.name: table for table in document.tables()}
    rows = [row for row in cells(by_name["comparisons"]) if row["a − b low"]]
    (axes,) = {p.name: p.figure for p in document.pictures()}["differences"].axes
    lines = [tuple(map(float, line.get_xdata())) for line in axes.lines if len(line.get_xdata())]
    texts = [text.get_text() for text in axes.texts]
    leading = leading_tests(two.pairs)
    assert len(leading) == len(rows) == 5
    for pair in leading:
        result = pair.result
        (row,) = [row for row in rows if float(row["a − b"]) == result.difference
                  and float(row["p"]) == result.p]  # fmt: skip
        assert (float(row["a − b low"]), float(row["a − b high"])) == (result.low, result.high)
        assert (result.low, result.high) in lines
        assert f"{p_value(result.p)}  ({p_value(pair.p_holm)})" in texts


def test_auroc_is_beside_the_test_that_belongs_to_its_interval(two, document):
    """The p of a permutation, 0.227, was once beside an interval that excluded 0."""
    (table,) = [table for table in document.tables() if table.name == "comparisons"]
    by_test = {row["test"]: row for row in cells(table) if row["score"] == "AUROC"}
    assert by_test["cluster permutation"]["a − b low"] == ""
    assert by_test["Obuchowski"]["a − b low"] != ""
    assert {p.result.test for p in leading_tests(two.pairs) if p.result.score == "auroc"} == {
        "obuchowski"
    }


def pair(low, high, p, score="auroc", primary=False):
    result = Comparison(score, "obuchowski", 0.1, low, high, 0.05, 9.0, 2.0, p, 12)
    return Pair("a", "b", result, p, primary)


def test_an_interval_and_a_p_that_disagree_are_named():
    assert disagreements([pair(0.01, 0.2, 0.01), pair(-0.1, 0.2, 0.4)]) == ""
    sentence = disagreements([pair(0.01, 0.2, 0.227), pair(-0.01, 0.2, 0.02, "f1")])
    assert "AUROC, a and b: the interval excludes 0 and p is 0.227" in sentence
    assert "F1, a and b: the interval includes 0 and p is 0.020" in sentence
    assert "the test decides" in sentence


def test_one_primary_analysis_and_its_differences_are_explained(folds):
    """A report had p = 0.731 on 54 groups in the headline, 0.011 out of fold in a table."""
    assert [p.result.test for p in folds.pairs if p.primary] == ["cluster_permutation"]
    assert not any(p.primary for p in folds.out_of_fold_pairs)
    sentences = verdict(folds)
    assert sentences[0].startswith("No significant difference. hybrid_vit scored highest")
    assert sentences[1].startswith(
        "Primary analysis: balanced accuracy on the held-out test images ("
    )
    (out_of_fold,) = [p for p in folds.out_of_fold_pairs if p.result.score == "balanced_accuracy"
                and p.result.test == "cluster_permutation"]  # fmt: skip
    assert out_of_fold.p_holm <= 0.05
    (differing,) = [text for text in sentences if text.startswith("Secondary analyses")]
    outside = folds.out_of_fold_entries[0].predictions
    assert f"Out of fold ({len(outside)} images of 15 subjects; other images" in differing
    assert f"adjusted p = {p_value(out_of_fold.p_holm)} by cluster permutation" in differing
    assert "do not overrule" in differing
    table = analyses_table(folds)
    roles = [row[0] for row in table.rows]
    assert roles == ["primary", *["secondary"] * (len(roles) - 1)]
    assert all(row[-1] for row in table.rows)
    assert next(row[4:6] for row in table.rows if row[3] == "out of fold") == [len(outside), 15]


def test_agreeing_secondary_analyses_are_reported(two):
    assert "No secondary analysis leads to another conclusion at the 5 % level." in verdict(two)


def test_a_part_has_one_name(folds):
    """ "test" once meant 214 images in one table and 405 in another."""
    flow = {row[0]: row[2] for row in run_facts.flow_table(folds).rows if row[1] == "all"}
    assert "left out of the first fold (scored out of fold)" in flow
    assert not {"test", "training", "validation"} & set(flow)
    assert folds.about.part == "held-out test"
    document = make_document(folds)
    for table in document.tables():
        assert not re.search(r", test\b", table.title), table.title
    assert json.loads(results_json(folds))["study"]["part"] == "test"  # the name of the column


def test_out_of_fold_scores_have_intervals_and_a_baseline(folds):
    table = next(t for t in make_document(folds).tables() if t.name == "out_of_fold")
    rows = {row[""]: row for row in cells(table)}
    for model in ("cnn", "hybrid_vit"):
        assert rows[model]["balanced accuracy low"] != ""
        assert rows[model]["groups"] == "15"
    baseline = rows["larger class (baseline)"]
    # By hand: every fold's images get the larger class of its training part.
    right = total = 0
    for run in {run.config["split"]["fold"]: run for run in folds.entries[0].runs}.values():
        train = [label for *_, label, part in run.split.values() if part == "train"]
        shares = [train.count(name) for name in run.test.classes]
        right += (run.test.labels == int(np.argmax(shares))).sum()
        total += len(run.test)
    assert float(baseline["accuracy"]) == pytest.approx(right / total)
    assert float(baseline["balanced accuracy"]) <= 0.5


def test_bare_predictions_have_no_baseline(tmp_path):
    predict(take(subjects({"test": 8}), "test"), 1.0, 0).write(tmp_path / "a.csv")
    study = make_study(read_entries([str(tmp_path / "a.csv")]), "all")
    assert study.baseline is None
    table = tables.score_table(study, study.scores, "scores", "Scores", baseline=study.baseline)
    assert [row[0] for row in table.rows] == ["a"]


def test_paper_toml_names_the_settings_of_each_model(two, tmp_path):
    (tmp_path / "paper.toml").write_text(paper_toml(two))
    training = papers.read(tmp_path / "paper.toml").training
    rates = training["learning_rate"].split("; ")
    assert rates[0].startswith("cnn: ")
    assert rates[1] == "other: 0.0123"
    assert training["seeds"] == "cnn: 0, 1; other: 7"
    assert training["loss"] == "cross entropy"  # shared: printed once
    assert isinstance(training["epochs"], int | str)


def test_paper_toml_of_folds_counts_all_images(folds):
    data = tomllib.loads(paper_toml(folds))["data"]
    assert data["images"] >= len(folds.out_of_fold_entries[0].predictions)
    assert "split_printed" not in data


def test_spreads_have_columns_of_their_own():
    table = Table("s", "S", ["", "F1", "p"], [["a", Spread(0.5, 0.1, 2, 3), P(0.5)],
                                              ["b", Spread(None, None, 0, 3), P(0.1)]])  # fmt: skip
    assert cells(table)[0] == {"": "a", "F1": "0.5", "F1 sd": "0.1", "F1 runs": "2", "p": "0.5"}
    assert cells(table)[1]["F1"] == ""
    assert table.text()[0][1] == "0.500 ± 0.100 (2 of 3)"


def test_ends_of_an_interval_are_distinguishable():
    """An interval of 0.996 to 1.000 was once printed as 1.00 to 1.00."""
    assert span(Interval(0.9996, 0.9962, 0.99998, "jackknife", 9), 2) == "0.996–1.000"
    assert span(Interval(1.0, 1.0, 1.0, "jackknife", 9), 2) == "1.00–1.00"
    assert span(Interval(0.9, 0.85, 0.95, "jackknife", 9), 2) == "0.85–0.95"


@pytest.mark.parametrize("classes", [("all", "hem"), ("a", "b", "c")], ids=len)
def test_a_runs_figure_has_the_auroc_of_its_table(classes):
    columns = take(subjects({"test": 12}, len(classes)), "test")
    p = predict(columns, 4.0, 0, classes)
    positive = classes[0] if len(classes) == 2 else ""
    figure = figures.roc_figure(
        p.labels, p.probabilities, p.group, About("x", "test", tuple(classes), positive)
    )
    table = interval("auroc", clustered.group(p.labels, p.probabilities, p.group), 0)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert f"AUROC {number(table.value)} ({span(table)})" in labels[0]
    assert len(labels) == (1 if positive else 4)


@pytest.mark.parametrize("markdown", [False, True])
def test_the_summary_of_a_study_scores_as_the_report_does(tmp_path, markdown):
    folder = write_crossval(tmp_path / "cv", {"cnn": 1.0, "hybrid_vit": 1.6}, held_out=False)
    jobs = [
        types.SimpleNamespace(model=m, seed=s, fold=f, path=f"runs/{m}/fold{f}-seed{s}")
        for m in ("cnn", "hybrid_vit") for s in (0, 1) for f in range(3)
    ]  # fmt: skip
    study = types.SimpleNamespace(
        folder=folder, models=["cnn", "hybrid_vit"], seeds=(0, 1), folds=3, pool=True,
        runs=lambda model=None: [job for job in jobs if model in (None, job.model)],
        path=lambda job: folder / job.path,
    )  # fmt: skip
    text = results._summary(study, markdown=markdown)
    scores = make_study(read_entries([str(folder)])).scores
    for model in ("cnn", "hybrid_vit"):
        interval = scores[model].by_image["balanced_accuracy"]
        assert number(interval.value) in text
        assert span(interval, 2) in text
    assert "larger class" in text
    assert "no confidence interval" in text
