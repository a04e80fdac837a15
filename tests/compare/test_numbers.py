"""Every number of the report, computed again from the CSVs with scikit-learn and SciPy."""

import csv
import itertools
import json
import tomllib

import numpy as np
import pytest
from fake_runs import CLASSES, write_run
from scipy import optimize, stats
from scipy.special import softmax
from sklearn import metrics as sk

from leukjax.audit import paper as papers
from leukjax.audit import paper_checks
from leukjax.compare.verdict import TEST_NAMES
from leukjax.compare.write_report import compare_runs
from leukjax.report.tables import title_of

# Score of (labels as 0/1 with 1 positive, probability of the positive, weights of the images).
BY_SKLEARN = {
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p > 0.5, sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p > 0.5, sample_weight=w),
    "precision": lambda y, p, w: sk.precision_score(y, p > 0.5, sample_weight=w),
    "recall": lambda y, p, w: sk.recall_score(y, p > 0.5, sample_weight=w),
    "specificity": lambda y, p, w: sk.recall_score(1 - y, p <= 0.5, sample_weight=w),
    "f1": lambda y, p, w: sk.f1_score(y, p > 0.5, sample_weight=w),
    "weighted_f1": lambda y, p, w: sk.f1_score(y, p > 0.5, average="weighted", sample_weight=w),
    "macro_f1": lambda y, p, w: sk.f1_score(y, p > 0.5, average="macro", sample_weight=w),
    "mcc": lambda y, p, w: sk.matthews_corrcoef(y, p > 0.5, sample_weight=w),
    "auroc": lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    "average_precision": lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w),
    "loss": lambda y, p, w: sk.log_loss(y, p, sample_weight=w),
    "brier": lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w),
}
RANGE = {"mcc": (-1, 1), "loss": (0, np.inf), "brier": (0, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of one model, one of another, a leaky one, and the report on them."""
    folder = tmp_path_factory.mktemp("report")
    write_run(folder / "cnn0", 1.2)
    write_run(folder / "cnn1", 1.1, seed=1)
    write_run(folder / "other", 2.0, model="hybrid_vit", seed=7)
    write_run(folder / "leaky", 3.0, leaky=True, seed=3)
    arguments = [f"cnn={folder}/cnn0,{folder}/cnn1", str(folder / "other"), str(folder / "leaky")]
    output = folder / "report"
    sentences = compare_runs(arguments, output)
    return folder, output, sentences


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def columns(folder, *runs):
    """Labels (1 = all), mean probability of all, subjects, of the test predictions of runs."""
    tables = [
        sorted(read(folder / r / "predictions/test.csv"), key=lambda x: x["id"]) for r in runs
    ]
    y = np.array([int(row["label"] == "all") for row in tables[0]])
    p = np.mean([[float(row["p_all"]) for row in table] for table in tables], axis=0)
    return y, p, np.array([row["group"] for row in tables[0]])


MODELS = {"cnn": ("cnn0", "cnn1"), "other": ("other",), "leaky": ("leaky",)}


def jackknife(score, y, groups, value):
    """Returns jackknife error and df; the class of a group that is left out keeps its weight."""
    names = np.unique(groups)
    of_class = {g: y[groups == g][0] for g in names}
    change, stratum = [], []
    for left_out in names:
        same = [g for g in names if of_class[g] == of_class[left_out]]
        n = len(same)
        weight = np.where(np.isin(groups, same), n / (n - 1), 1.0)
        weight[groups == left_out] = 0
        change.append(score(weight) - value)
        stratum.append(of_class[left_out])
    change, stratum = np.array(change), np.array(stratum)
    parts = [(change[stratum == c] ** 2).sum() for c in (0, 1)]
    counts = [(stratum == c).sum() for c in (0, 1)]
    df = sum(parts) ** 2 / sum(v**2 / (n - 1) for v, n in zip(parts, counts, strict=True))
    return np.sqrt(sum(parts)), df


def test_scores_and_intervals(made):
    folder, output, _ = made
    results = json.loads((output / "results.json").read_text())
    assert set(results["models"]) == set(MODELS)
    for model, runs in MODELS.items():
        y, p, groups = columns(folder, *runs)
        for name, score in BY_SKLEARN.items():
            interval = results["models"][model][name]
            assert set(interval) == {"value", "low", "high", "method", "groups"}
            value = score(y, p, None)
            # Tables have nine digits, so 1 - p is the other column up to the last digit.
            assert interval["value"] == pytest.approx(value, abs=1e-8), (model, name)
            error, df = jackknife(lambda w, s=score, y=y, p=p: s(y, p, w), y, groups, value)
            reach = stats.t.isf(0.025, df) * error
            if name in ("auroc", "average_precision"):
                centre, reach = np.log(value / (1 - value)), reach / (value * (1 - value))
                low, high = 1 / (1 + np.exp(-(centre + reach * np.array([-1, 1]))))
            else:
                least, most = RANGE.get(name, (0, 1))
                low, high = max(value - reach, least), min(value + reach, most)
            assert interval["method"] == "jackknife"
            assert interval["low"] == pytest.approx(low, abs=1e-7), (model, name)
            assert interval["high"] == pytest.approx(high, abs=1e-7), (model, name)


def test_scores_by_subject(made):
    folder, output, _ = made
    results = json.loads((output / "results.json").read_text())
    for model, runs in MODELS.items():
        y, p, groups = columns(folder, *runs)
        names = np.unique(groups)
        labels = np.array([y[groups == g][0] for g in names])
        mean = np.array([p[groups == g].mean() for g in names])
        for name in ("accuracy", "balanced_accuracy", "auroc", "brier"):
            value = results["by_subject"][model][name]["value"]
            assert value == pytest.approx(BY_SKLEARN[name](labels, mean, None), abs=1e-9)
        shares = {row["subject"]: row for row in read(output / "tables/subjects.csv")}
        if model != "leaky":
            for g in names:
                right = (p[groups == g] > 0.5) == y[groups == g]
                assert float(shares[g][model]) == pytest.approx(right.mean())
                assert int(shares[g]["images"]) == len(right)


def test_comparisons(made):
    folder, output, _ = made
    by_test = {
        (c["a"], c["b"], c["score"], c["test"]): c
        for c in json.loads((output / "results.json").read_text())["comparisons"]
    }
    assert {key[:2] for key in by_test} == {("cnn", "other")}
    y, p, groups = columns(folder, *MODELS["cnn"])
    _, q, _ = columns(folder, *MODELS["other"])
    names = np.unique(groups)
    swaps = [
        np.isin(groups, names[list(s)]) for s in itertools.product([False, True], repeat=len(names))
    ]
    for name in ("accuracy", "balanced_accuracy", "f1", "weighted_f1", "auroc"):
        result = by_test["cnn", "other", name, "cluster_permutation"]
        assert set(result) == {
            "a", "b", "score", "difference", "low", "high", "test", "statistic", "p", "p_holm",
            "role",
        }  # fmt: skip
        assert result["role"] == ("primary" if name == "balanced_accuracy" else "secondary")
        score = BY_SKLEARN[name]
        value = score(y, p, None) - score(y, q, None)
        assert result["difference"] == pytest.approx(value, abs=1e-9)
        error, df = jackknife(
            lambda w, s=score: s(y, p, w) - s(y, q, w), y, groups, value
        )  # fmt: skip
        reach = stats.t.isf(0.025, df) * error
        assert (result["low"], result["high"]) == pytest.approx(
            (value - reach, value + reach), abs=1e-8
        )
        all_swaps = np.array(
            [score(y, np.where(s, q, p), None) - score(y, np.where(s, p, q), None) for s in swaps]
        )
        p_value = (np.abs(all_swaps) >= abs(value) - 1e-9).mean()
        assert result["p"] == pytest.approx(p_value)
        assert result["p_holm"] == result["p"]  # one pair only
    right = [(x > 0.5) == y for x in (p, q)]
    b, c = (right[0] & ~right[1]), (right[1] & ~right[0])
    naive = by_test["cnn", "other", "accuracy", "mcnemar"]
    assert naive["statistic"] == pytest.approx((b.sum() - c.sum()) ** 2 / (b.sum() + c.sum()))
    assert naive["p"] == pytest.approx(stats.chi2.sf(naive["statistic"], 1))
    d = np.array([b[groups == g].sum() - c[groups == g].sum() for g in names])
    n = np.array([(groups == g).sum() for g in names])
    share = d.sum() / n.sum()
    yang = (7 / 8) * d.sum() ** 2 / (0.5 * (((d - n * share) ** 2) + d**2).sum())
    assert by_test["cnn", "other", "accuracy", "clustered_mcnemar"]["statistic"] == pytest.approx(
        yang
    )
    z = by_test["cnn", "other", "auroc", "obuchowski"]
    assert z["p"] == pytest.approx(2 * stats.norm.sf(abs(z["statistic"])))


def test_tables_have_the_numbers_of_results_json(made):
    _, output, _ = made
    results = json.loads((output / "results.json").read_text())
    titles = {"accuracy": "accuracy", "f1": "F1", "auroc": "AUROC", "weighted_f1": "weighted F1"}
    scored = results["models"] | results["baseline"]
    for row in [*read(output / "tables/scores.csv"), *read(output / "tables/leaky_scores.csv")]:
        for score, title in titles.items():
            interval = scored[row[""]][score]
            for key, column in (
                ("value", title),
                ("low", f"{title} low"),
                ("high", f"{title} high"),
            ):
                assert row[column] == ("" if interval[key] is None else str(interval[key]))
    page = (output / "report.html").read_text()
    text = (output / "report.md").read_text()
    for model in ("cnn", "other"):
        value, low, high = (results["models"][model]["auroc"][k] for k in ("value", "low", "high"))
        assert f"{value:.3f}" in page
        assert f"{value:.3f} ({low:.3f}–{high:.3f})" in text
    wanted = [c for c in results["comparisons"] if c["role"] != "contrast"]
    rows = read(output / "tables/comparisons.csv")
    assert len(rows) == len(wanted)
    by_test = {(row["a"], row["b"], row["score"], row["test"]): row for row in rows}
    for result in wanted:
        key = result["a"], result["b"], title_of(result["score"]), TEST_NAMES[result["test"]]
        assert float(by_test[key]["a − b"]) == result["difference"]
        assert float(by_test[key]["p"]) == result["p"]
        assert by_test[key]["analysis"] == result["role"]
    assert rows[0]["analysis"] == "primary"


def test_by_class_and_confusion(made):
    folder, output, _ = made
    rows = {(row[""], row["class"]): row for row in read(output / "tables/scores_by_class.csv")}
    y, p, _ = columns(folder, *MODELS["other"])
    for i, name in enumerate(("hem", "all")):
        of_class = (y == i).astype(int)
        predicted = ((p > 0.5).astype(int) == i).astype(int)
        row = rows["other", name]
        assert float(row["precision"]) == pytest.approx(sk.precision_score(of_class, predicted))
        assert float(row["recall"]) == pytest.approx(sk.recall_score(of_class, predicted))
        assert int(row["images"]) == of_class.sum()


def test_calibration(made):
    folder, output, _ = made
    result = json.loads((output / "results.json").read_text())["calibration"]["other"]
    val = read(folder / "other/predictions/val.csv")
    y = np.array([CLASSES.index(row["label"]) for row in val])
    logits = np.log([[float(row["p_all"]), float(row["p_hem"])] for row in val])

    def loss(t):
        return sk.log_loss(y, softmax(logits / t, axis=1))

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    assert result["temperatures"] == [pytest.approx(best, rel=1e-3)]
    test = read(folder / "other/predictions/test.csv")
    y = np.array([CLASSES.index(row["label"]) for row in test])
    p = np.array([[float(row["p_all"]), float(row["p_hem"])] for row in test])
    assert result["before"]["loss"] == pytest.approx(sk.log_loss(y, p))
    scaled = softmax(np.log(p) / result["temperatures"][0], axis=1)
    assert result["after"]["loss"] == pytest.approx(sk.log_loss(y, scaled))


def test_epochs_cost_seeds_and_flow(made):
    folder, output, _ = made
    lines = [json.loads(line) for line in (folder / "other/metrics.jsonl").read_text().splitlines()]
    at = {(line["part"], line["epoch"]): line for line in lines}
    rows = [row for row in read(output / "tables/epochs.csv") if row[""] == "other"]
    assert [row["epoch"] for row in rows] == ["1", "10", "chosen (4)"]
    for row, epoch in zip(rows, (1.0, 10.0, 4.0), strict=True):
        assert float(row["training loss"]) == pytest.approx(at["train", epoch]["loss"])
        assert float(row["AUROC"]) == pytest.approx(at["val", epoch]["auroc"])
    cost = {row[""]: row for row in read(output / "tables/cost.csv")}
    assert float(cost["other"]["images/s"]) == round(np.median([100.0 + e for e in range(2, 13)]))
    assert cost["cnn"]["runs"] == "2"
    seeds = json.loads((output / "results.json").read_text())["seeds"]["cnn"]
    for run, values in zip(MODELS["cnn"], seeds, strict=True):
        y, p, _ = columns(folder, run)
        assert values["accuracy"] == pytest.approx(sk.accuracy_score(y, p > 0.5))
    split = read(folder / "other/split.csv")
    for row in read(output / "tables/flow.csv"):
        part = {"training": "train", "validation": "val", "test": "test"}.get(row["part"])
        images = [
            s for s in split if part in (None, s["part"]) and row["class"] in ("all", s["label"])
        ]
        if row["class"] != "all":  # a class has that name, too
            assert int(row["images"]) == len(images)
            assert int(row["subjects"]) == len({s["subject"] for s in images})


def test_inflation_is_the_difference(made):
    folder, output, _ = made
    rows = {row["score"]: row for row in read(output / "tables/inflation.csv")}
    y, p, _ = columns(folder, "leaky")
    y2, p2, _ = columns(folder, "cnn0", "cnn1")
    gain = sk.accuracy_score(y, p > 0.5) - sk.accuracy_score(y2, p2 > 0.5)
    assert float(rows["accuracy"]["inflation"]) == pytest.approx(gain)
    assert gain > 0


def test_the_exported_paper_passes_the_audit(made):
    folder, output, _ = made
    paper = tomllib.loads((output / "paper.toml").read_text())
    assert paper["data"]["images"] == sum(paper["data"]["split_printed"].values())
    assert [record["model"] for record in paper["test"]] == ["cnn", "other"]
    n = paper["data"]["split_printed"]["test"]
    for record, runs in zip(paper["test"], (MODELS["cnn"], MODELS["other"]), strict=True):
        y, p, _ = columns(folder, *runs)
        assert len(y) == n
        printed = record["percent"]
        assert printed["accuracy"] == round(100 * sk.accuracy_score(y, p > 0.5), 2)
        harmonic = 2 * printed["precision"] * printed["recall"]
        harmonic /= printed["precision"] + printed["recall"]
        assert printed["f1"] == pytest.approx(harmonic, abs=0.01)
    assert [row[0] for row in paper["curve"][0]["rows"]] == [1, 10]
    # The histories of these runs are random, score by score: their columns contradict each other.
    findings = paper_checks.audit(papers.read(output / "paper.toml"))
    findings = [finding for finding in findings if "curve" not in finding.where]
    assert [finding for finding in findings if finding.verdict == "fail"] == []
    passed = {finding.check for finding in findings if finding.verdict == "pass"}
    assert {"counts_sum", "f1_identity", "grim", "metric_feasibility", "missing_items"} <= passed
