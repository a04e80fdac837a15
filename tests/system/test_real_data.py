"""Whole runs on real images: every output is there, and every printed score can be had again."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pytest
from runs import finish
from sklearn import metrics as sk

TABLES = ["config.json", "data.json", "split.csv", "duplicates.csv", "metrics.jsonl"]
TABLES += ["starts.jsonl", "test_openings.jsonl", "preprocessing.json", "summary.json"]
TABLES += ["summary.md", "predictions/val.csv", "predictions/test.csv"]
FIGURES = [
    f"figures/{name}.{kind}"
    for name in ("curves", "confusion", "roc", "subjects")
    for kind in ("png", "svg")
]

CNMC = {"data.image_size": 96, "train.batch_size": 8, "train.epochs": 1}
BCCD = {"data.image_size": 64, "train.epochs": 1, "data.subject_pattern": r"(BloodImage_\d+)"}
CHEAP = {
    "resnet50": {"model.width": 16},
    "hybrid_vit": {"model.variant": "small"},
    "cnn": {"model.width": 8},
}


def _arguments(config, root, workdir, changes):
    fields = {"data.root": root} | changes
    return [
        sys.executable,
        "-m",
        "leukjax.main",
        f"--config=configs/{config}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _assert_scores_can_be_had_again(workdir, said):
    """scikit-learn, on predictions/test.csv alone, gives what summary.json and the table say."""
    rows = _read(workdir / "predictions" / "test.csv")
    classes = [name[2:] for name in rows[0] if name.startswith("p_")]
    true = [row["label"] for row in rows]
    called = [row["predicted"] for row in rows]
    p = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    assert [classes[i] for i in p.argmax(1)] == called
    summary = json.loads((workdir / "summary.json").read_text())
    two = len(classes) == 2
    average = (
        {"average": "binary", "pos_label": summary["positive"]} if two else {"average": "macro"}
    )
    expected = {
        "accuracy": sk.accuracy_score(true, called),
        "balanced_accuracy": sk.balanced_accuracy_score(true, called),
        "precision": sk.precision_score(true, called, **average, zero_division=np.nan),
        "recall": sk.recall_score(true, called, **average),
        "f1": sk.f1_score(true, called, **average),
        "weighted_f1": sk.f1_score(true, called, average="weighted"),
        "macro_f1": sk.f1_score(true, called, average="macro"),
        "loss": sk.log_loss(true, p / p.sum(1, keepdims=True), labels=classes),
    }
    truth = np.array(true)[:, None] == np.array(classes)
    if two:
        column = classes.index(summary["positive"])
        expected["auroc"] = sk.roc_auc_score(truth[:, column], p[:, column])
        negatives = ~truth[:, column]
        expected["specificity"] = np.mean(p.argmax(1)[negatives] != column)
    else:
        expected["auroc"] = sk.roc_auc_score(truth, p, average="macro")
    for name, value in expected.items():
        found = summary["test"][name]
        if found is None:
            assert np.isnan(value) or name in summary["undefined"]["test"], name
        else:
            assert found == pytest.approx(value, abs=1e-6), name
    # The first line of the printed table is the model by image.
    table = said[said.index("By image") :]
    printed = re.search(rf"^{re.escape(summary['model'])}\s+([\d.]+)\s+([\d.]+)", table, re.M)
    assert printed is not None
    assert float(printed[1]) == pytest.approx(expected["accuracy"], abs=5e-4)
    assert float(printed[2]) == pytest.approx(expected["balanced_accuracy"], abs=5e-4)
    return summary


def _slow(*models):
    return [pytest.param(model, marks=pytest.mark.slow) for model in models]


# The tables and scores of a run do not depend on its model: the CNN compiles in a quarter of the
# time of the others, whose own step is tested in tests/training/test_step.py.
@pytest.mark.parametrize("model", ["cnn", *_slow("resnet50", "hybrid_vit")])
def test_c_nmc(shared, tmp_path, cache, model):
    workdir = tmp_path / "run"
    config = "hybrid_vit.py:cnmc,small" if model == "hybrid_vit" else f"{model}.py:cnmc"
    root = shared / "data" / "C-NMC_Leukemia"
    said = finish(_arguments(config, root, workdir, CNMC | CHEAP[model]), cache)
    for name in TABLES + FIGURES:
        assert (workdir / name).is_file(), name
    assert list((workdir / "tensorboard").iterdir())
    summary = _assert_scores_can_be_had_again(workdir, said)
    assert summary["positive"] == "all"
    assert summary["protocol"] == "subject"  # no preliminary phase in the sample
    assert not summary["synthetic"]
    assert "Positive class: all" in said
    split = {row["id"]: row for row in _read(workdir / "split.csv")}
    assert len(split) == 44
    twins = [name for name in split if re.match(r"UID_2[01]_1_[12]_", name)]
    assert len(twins) == 4
    assert {split[name]["group"] for name in twins} == {"20+21"}
    assert len({split[name]["part"] for name in twins}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet50", "hybrid_vit"])
def test_three_classes_of_bccd(shared, tmp_path, cache, model):
    workdir = tmp_path / "run"
    config = (
        "hybrid_vit.py:image_folder,small" if model == "hybrid_vit" else f"{model}.py:image_folder"
    )
    root = shared / "data" / "bccd_cells"
    said = finish(_arguments(config, root, workdir, BCCD | CHEAP[model]), cache)
    _assert_three_classes(workdir, said)


def _assert_three_classes(workdir, said):
    summary = _assert_scores_can_be_had_again(workdir, said)
    assert summary["classes"] == ["Platelets", "RBC", "WBC"]
    assert "each against the rest" in " ".join(said.split())
    return summary


def _cells(root, folder, every):
    """A copy of one in `every` smear fields."""
    for path in sorted(root.glob("*/*")):
        if int(re.search(r"BloodImage_(\d+)", path.name)[1]) % every == 0:
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("every", "width"), [(3, 8), pytest.param(1, 32, marks=pytest.mark.long)])
def test_the_simple_cnn_tells_the_cells_of_bccd_apart(shared, tmp_path, cache, every, width):
    workdir = tmp_path / "run"
    root = _cells(shared / "data" / "bccd_cells", tmp_path / "cells", every)
    changes = BCCD | {"train.epochs": 8, "model.width": width}
    said = finish(_arguments("cnn.py:image_folder", root, workdir, changes), cache)
    summary = _assert_three_classes(workdir, said)
    assert summary["test"]["accuracy"] > 0.9
    by_area = summary["intervals"]["cell area alone"]["by_image"]["accuracy"]["value"]
    assert summary["test"]["accuracy"] > by_area
