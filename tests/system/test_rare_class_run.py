"""A class with a single group: trained on given parts, reported, evaluated again, compared."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from leukjax import config
from leukjax.compare.analysis import make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.tables import rare_table
from leukjax.errors import UserError
from leukjax.evaluate import evaluate_run
from leukjax.evaluate.rescore import predict_again
from leukjax.training.run_report import write_report
from leukjax.training.trainer import train

CLASSES = ("a", "b", "c", "rare")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 49 images; the one image of the class `rare` tests. The parts' file is gone."""
    root = tmp_path_factory.mktemp("rare")
    rng = np.random.default_rng(0)
    labels = [number % 3 if number < 48 else 3 for number in range(49)]
    for number, label in enumerate(labels):
        if number != 3:  # nearly the image 0, of another patient
            image = rng.integers(60 * label, 60 * label + 60, (24, 24, 3), np.uint8)
            first = image if number == 0 else first
        else:
            image = first + np.uint8(1)
        Image.fromarray(image).save(root / f"c{number:02d}.png")
    lines = [f"c{n:02d}.png,{CLASSES[label]},p{n // 2}" for n, label in enumerate(labels)]
    (root / "cells.csv").write_text("path,label,patient\n" + "\n".join(lines) + "\n")
    stated = [f"c{n:02d}.png,{'test' if n >= 32 else 'train'}" for n in range(49)]
    file = root / "published.csv"
    file.write_text("path,part\n" + "\n".join(stated) + "\n")
    small = {
        "data.table": str(root / "cells.csv"),
        "data.image_size": 16,
        "model.width": 8,
        "train.batch_size": 8,
        "train.epochs": 2.0,
        "loss.class_weights": "balanced",
        "split.protocol": "given",
        "split.file": str(file),
        "split.groups": "near_duplicates",
    }
    outcome = train(config.load("cnn:table", small), root / "run")
    text = write_report(outcome)
    file.unlink()
    return root / "run", text


def test_the_summary_gives_macro_scores_with_and_without_the_class(run):
    folder, text = run
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rare_classes"] == ["rare"]
    assert summary["test"]["groups_with"]["rare"] == 1
    assert summary["val"]["balanced_accuracy"] is not None
    without = summary["without_rare_classes"]["balanced_accuracy"]["value"]
    # No model knows the class, so its recall is 0 and the other three share four terms.
    assert summary["test"]["balanced_accuracy"] == pytest.approx(without * 3 / 4)
    assert "Classes with few groups, which parts may lack: rare (groups here: 1)." in text
    assert "Balanced accuracy without rare: " in text
    assert summary["groups"] == "near_duplicates"
    assert "ASSUMPTION: nearly identical images are of one group" in " ".join(text.split())
    with (folder / "split.csv").open(newline="") as table:
        assert {row["group"] for row in csv.DictReader(table) if row["subject"] == "p1"} == {
            "p0+p1"
        }
    assert "NaN" not in (folder / "summary.json").read_text()
    assert "nan" not in (folder / "summary.md").read_text().lower().split()


def test_it_is_evaluated_on_its_own_split_and_compared(run, tmp_path, capsys):
    folder, _ = run
    table = [("data.table", str(folder.parent / "cells.csv"))]
    evaluate_run.run([folder], "test", "youden", tmp_path / "again", overrides=table)
    assert "Macro F1 without rare: " in capsys.readouterr().out
    again = (tmp_path / "again" / "predictions.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in again[1:]) == [f"c{n}.png" for n in range(32, 49)]
    study = make_study(read_entries([str(folder)]))
    table = rare_table(study)
    assert [row[1] for row in table.rows] == ["balanced accuracy", "macro F1"]


def test_a_split_csv_that_was_changed_is_noticed(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    text = (folder / "split.csv").read_text()
    (folder / "split.csv").write_text(text.replace(",a,test\n", ",a,train\n", 1))
    table = [("data.table", str(run[0].parent / "cells.csv"))]
    with pytest.raises(UserError, match=r"another split \(split_sha256 differs"):
        predict_again(folder, "test", overrides=table)
