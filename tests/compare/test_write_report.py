"""The files of the report: self-contained, the same on every run, for every kind of input."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import predict, subjects, take, write_crossval, write_run
from matplotlib.text import Text
from scipy import stats
from sklearn import metrics as sk

from leukjax.audit import paper as papers
from leukjax.audit import paper_checks
from leukjax.compare import robustness, run_facts, tables
from leukjax.compare.analysis import make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.sections import make_document
from leukjax.compare.write_report import compare_runs, paper_toml, results_json
from leukjax.errors import UserError
from leukjax.metrics.predictions import read_checked
from leukjax.report.style import style
from leukjax.report.tables import cell_text

THREE = ("Platelets", "RBC", "WBC")
VOID = {"meta", "img", "br", "hr", "link"}


class Page(HTMLParser):
    """Asserts that tags close in order; collects ids, links and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.alt = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.sources.append(values["src"])
            self.alt.append(values["alt"])
        assert tag not in ("script", "iframe", "link")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", 1.0)
    write_run(folder / "b", 2.5, model="hybrid_vit", seed=4)
    return folder


def results_of(*paths, positive=""):
    """Returns the study and the content of results.json, without figures and page."""
    study = make_study(read_entries([str(path) for path in paths]), positive)
    return study, json.loads(results_json(study))


def everything(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def report(runs):
    """The folder of a report on both runs."""
    compare_runs([str(runs / "a"), str(runs / "b")], runs / "report")
    return runs / "report"


def test_the_page_stands_alone_and_is_the_same_again(report, runs, tmp_path):
    compare_runs([str(runs / "a"), str(runs / "b")], tmp_path)
    first = everything(report)
    assert first == everything(tmp_path)
    assert {"report.html", "report.md", "results.json", "paper.toml"} <= set(first)
    text = first["report.html"].decode()
    page = Page(text)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert all(page.alt)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not re.search(r"(src|href)=\"https?:|url\(|@import", text)
    figures = {name.split("/")[1][:-4] for name in first if name.startswith("figures/")}
    assert {"scores", "differences", "training", "roc", "precision_recall", "confusion",
            "reliability", "subjects"} <= figures  # fmt: skip
    for name in figures:
        assert f"figures/{name}.svg" in first
        assert f"figures/{name}.png)" in first["report.md"].decode()


def test_latex_tables_are_whole(report):
    for path in (report / "tables").glob("*.tex"):
        text = path.read_text()
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])
        body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, path.name
        assert not re.search(r"(?<!\\)[_%#]", body), path.name
        assert text.count(r"\begin") == text.count(r"\end")


def test_predictions_of_any_tool(tmp_path):
    columns = subjects({"test": 7})
    for name, skill in (("ours", 1.0), ("theirs", 1.5)):
        predict(columns, skill, len(name)).write(tmp_path / f"{name}.csv")
    # Another order of rows and columns, and a column more.
    with (tmp_path / "theirs.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "theirs.csv").open("w", newline="") as file:
        order = ["note", "p_all", "p_hem", "predicted", "label", "group", "subject", "id"]
        out = csv.DictWriter(file, order)
        out.writeheader()
        out.writerows({**row, "note": "x"} for row in reversed(rows))
    compare_runs(
        [str(tmp_path / f"{n}.csv") for n in ("ours", "theirs")], tmp_path / "out", positive="all"
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["models"]) == {"ours", "theirs"}
    y = [row["label"] == "all" for row in rows]
    p = [float(row["p_all"]) for row in rows]
    assert results["models"]["theirs"]["auroc"]["value"] == pytest.approx(sk.roc_auc_score(y, p))
    assert results["study"]["positive"] == "all"
    assert not (tmp_path / "out/figures/training.svg").exists()


def test_the_positive_class_can_be_chosen(runs):
    a, b = (results_of(runs / "a", positive=c)[1]["models"]["a"] for c in ("", "hem"))
    assert a["recall"]["value"] == b["specificity"]["value"]
    assert a["auroc"]["value"] == pytest.approx(b["auroc"]["value"])


def test_three_classes_and_subjects_of_several(tmp_path):
    columns = subjects({"train": 9, "val": 9, "test": 9}, 3, cells=12)
    rng = np.random.default_rng(0)
    columns[2] = rng.integers(0, 3, len(columns[2]))
    for name, skill in (("a", 1.0), ("b", 2.0)):
        write_run(tmp_path / name, skill, classes=THREE, columns=columns)
    study, results = results_of(tmp_path / "a", tmp_path / "b")
    p = read_checked(tmp_path / "b/predictions/test.csv")
    expected = sk.roc_auc_score(p.labels, p.probabilities, multi_class="ovr")
    assert results["models"]["b"]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    predicted = p.probabilities.argmax(axis=1)
    expected = sk.precision_score(p.labels, predicted, average="macro")
    assert results["models"]["b"]["precision"]["value"] == pytest.approx(expected)
    assert results["by_subject"] == {}
    assert "several classes" in study.scores["a"].no_subjects
    assert not [c for c in results["comparisons"] if c["test"] == "obuchowski"]


@pytest.mark.parametrize("held_out", [True, False], ids=["test", "pool"])
def test_a_crossval_folder_is_its_models(tmp_path, held_out):
    write_crossval(tmp_path / "cv", {"cnn": 1.0, "hybrid_vit": 1.6}, held_out=held_out)
    study, results = results_of(tmp_path / "cv")
    assert [row[:2] for row in run_facts.trials_table(study).rows] == [
        ["cnn", 0],
        ["hybrid_vit", 0],
    ]
    accesses = [row[-1] for row in run_facts.selection_table(study).rows]
    assert accesses == (["1 (for the ensemble)"] * 2 if held_out else ["1", "1"])
    assert [len(scores.seeds) for scores in study.scores.values()] == [2, 2]
    assert set(results["models"]) == {"cnn", "hybrid_vit"}
    assert results["study"]["part"] == ("test" if held_out else "out of fold")
    outside = results["out_of_fold"] if held_out else results
    accuracy = []
    for model in ("cnn", "hybrid_vit"):
        # By hand: the mean over seeds of each image's probability, over all folds.
        by_image: dict = {}
        folds = np.zeros((2, 3))
        for seed in (0, 1):
            for fold in range(3):
                run = tmp_path / f"cv/runs/{model}/fold{fold}-seed{seed}"
                p = read_checked(run / "predictions/test.csv")
                right = p.probabilities.argmax(axis=1) == p.labels
                folds[seed, fold] = right.mean()
                for i, label, row in zip(p.id, p.labels, p.probabilities, strict=True):
                    by_image.setdefault(i, (label, []))[1].append(row)
        accuracy.append(folds.mean(axis=0))
        labels = [label for label, _ in by_image.values()]
        predicted = [np.mean(rows, axis=0).argmax() for _, rows in by_image.values()]
        expected = sk.accuracy_score(labels, predicted)
        assert outside["models"][model]["accuracy"]["value"] == pytest.approx(expected)
    resampled = [c for c in results["comparisons"] if c["test"] == "corrected_resampled_t"]
    assert bool(resampled) is not held_out  # of folds, hence not among the tests on held-out images
    (comparison,) = [
        c
        for c in outside["comparisons"]
        if c["test"] == "corrected_resampled_t" and c["score"] == "accuracy"
    ]
    d = accuracy[0] - accuracy[1]
    with (tmp_path / "cv/runs/cnn/fold0-seed0/split.csv").open() as file:
        parts = [row["part"] for row in csv.DictReader(file)]
    share = parts.count("test") / parts.count("train")
    t = d.mean() / np.sqrt((1 / 3 + share) * d.var(ddof=1))
    assert comparison["statistic"] == pytest.approx(t)
    assert comparison["p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))


def test_robustness_curves_where_they_are(runs, tmp_path):
    folder = runs / "b" / "robustness"
    folder.mkdir()
    head = "distortion,severity,background,score,value,low,high,drop,drop_low,drop_high,groups\n"
    lines = [
        f"{name},{s},masked,balanced_accuracy,{0.9 - 0.1 * s},{0.8 - 0.1 * s},{0.95 - 0.1 * s},"
        f"{0.1 * s},{0.05 * s},{0.12 * s},8\n"
        for name in ("jpeg", "motion_blur")
        for s in range(6)
    ]
    (folder / "scores.csv").write_text(head + "".join(lines))
    study, _ = results_of(runs / "a", runs / "b")
    models = {"b": robustness.read(study.entries[1])}
    assert robustness.read(study.entries[0]) == []
    panels = robustness.robustness_figure(models, ["a", "b"], study.about).axes
    assert [axes.get_title() for axes in panels if axes.lines] == ["jpeg", "motion blur"]
    rows = robustness.robustness_table(study.entries, models, study.about.data).rows
    assert [row[:2] for row in rows] == [["b", "jpeg"], ["b", "motion blur"]]
    assert rows[0][4].value == pytest.approx(0.5)
    assert rows[0][5] == 1  # b is the first that has any: its own reference


def test_a_diverged_seed_is_refused(runs, tmp_path):
    write_run(tmp_path / "c", 1.0)
    path = tmp_path / "c/predictions/test.csv"
    lines = path.read_text().splitlines()
    lines[3] = ",".join([*lines[3].split(",")[:5], "nan", "nan"])
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"line 4: a probability of .* is not a finite number"):
        compare_runs([str(tmp_path / "c")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fake_runs_have_the_requested_subjects():
    columns = subjects({"train": 3, "test": 4})
    assert len(np.unique(take(columns, "test")[1])) == 4


def test_means_over_classes_are_marked_in_the_paper(tmp_path):
    """Above two classes F1 is no harmonic mean of the printed precision and recall."""
    write_run(tmp_path / "three", 1.0, classes=("a", "b", "c"))
    study = make_study(read_entries([str(tmp_path / "three")]))
    (tmp_path / "paper.toml").write_text(paper_toml(study))
    paper = papers.read(tmp_path / "paper.toml")
    assert {record.kind for record in (*paper.tests, *paper.curves)} == {"macro"}
    findings = paper_checks.audit(paper)
    assert [f for f in findings if f.verdict == "fail" and "curve" not in f.where] == []
    f1 = [f for f in findings if f.check == "f1_identity" and f.where.startswith("test")]
    assert [f.verdict for f in f1] == ["cannot_tell"]


def test_held_out_images_are_in_the_data_flow(tmp_path):
    columns = subjects({"train": 12, "val": 6, "test": 8, "held_out": 4})
    write_run(tmp_path / "run", 1.0, columns=columns)
    study = make_study(read_entries([str(tmp_path / "run")]))
    steps = run_facts.flow(study.ranked[0].runs[0])
    counts = {step.part: step.subjects for step in steps if not step.label}
    assert counts == {"all": 30, "train": 12, "val": 6, "test": 8, "held_out": 4}
    figure = run_facts.flow_figure(steps, study.about)
    assert any("Held-out test" in text.get_text() for text in figure.axes[0].texts)


def test_files_of_an_earlier_report_are_removed(runs, report, tmp_path):
    compare_runs([str(runs / "a"), str(runs / "b")], tmp_path / "again")
    (tmp_path / "again" / "figures" / "notes.txt").write_text("mine")
    (tmp_path / "again" / "tables" / "mine.csv").write_text("mine")
    compare_runs([str(runs / "a")], tmp_path / "again")
    compare_runs([str(runs / "a")], tmp_path / "fresh")
    left = everything(tmp_path / "again")
    assert left.pop("figures/notes.txt") == left.pop("tables/mine.csv") == b"mine"
    assert left == everything(tmp_path / "fresh")


def test_accesses_are_counted_in_the_ledger_of_the_run(tmp_path):
    run = write_run(tmp_path / "run", 1.0)
    study = make_study(read_entries([str(run)]))
    assert [row[-1] for row in run_facts.selection_table(study).rows] == ["1"]
    (run / "test_openings.jsonl").write_text('{"step": 4}\n{"step": 4, "by": "robustness"}\n')
    assert [row[-1] for row in run_facts.selection_table(study).rows] == ["2"]


def test_the_spread_counts_only_runs_with_the_score():
    nan = float("nan")
    cells = {"0.600 ± 0.141": [0.5, 0.7], "0.600 ± 0.141 (2 of 3)": [0.5, nan, 0.7],
             "0.500 (1 of 2)": [0.5, nan], "–": [nan, nan]}  # fmt: skip
    for text, values in cells.items():
        assert cell_text(tables._spread(np.array(values))) == text


def test_every_legend_names_models_whose_names_begin_with_an_underscore(tmp_path):
    write_run(tmp_path / "_a", 1.0)
    write_run(tmp_path / "$b$", 2.5, model="hybrid_vit", seed=4)
    arguments = [f"_a={tmp_path / '_a'}", f"$b$={tmp_path / '$b$'}"]
    document = make_document(make_study(read_entries(arguments)))
    legends = 0
    for picture in document.pictures():
        for legend in picture.figure.legends:
            named = "".join(text.get_text() for text in legend.get_texts())
            if "$b$" in named:
                legends += 1
                assert "_a" in named, picture.name
        with style():  # ticks are made when they are asked for
            assert not any(text.get_parse_math() for text in picture.figure.findobj(Text))
    assert legends >= 4


def test_a_folder_that_is_a_link_is_neither_written_nor_cleared(runs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "scores.csv").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="tables: is a symbolic link"):
        compare_runs([str(runs / "a")], tmp_path / "out")
    assert [x.read_text() for x in (tmp_path / "elsewhere").iterdir()] == ["precious"]
