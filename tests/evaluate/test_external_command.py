"""A run is tested on the cells of another laboratory, whose classes have other names."""

import csv
import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import leukjax as lj
from leukjax import command
from leukjax.data.datasets.smears import Smears
from leukjax.evaluate import cli
from leukjax.metrics import predictions as tables
from leukjax.report import external

MAP = "theirs,ours\nL1,all\nL2,all\nnormal,hem\n"


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def cells(trained_run, tmp_path_factory):
    """Another seed of the synthetic cells as a table, and one cell that the run was trained on."""
    folder = tmp_path_factory.mktemp("cells")
    rows = []
    other = Smears(subjects=24, cells=6, seed=5)
    for number, entry in enumerate(other.entries):
        name = ("L1", "L2")[number % 2] if entry.label == 0 else "normal"
        patient = int(entry.subject.strip("H"))
        rows.append(
            [entry.id, "smudge" if number % 10 == 9 else name, entry.subject, "fm"[patient % 2]]
        )
        Image.fromarray(other.image(entry)).save(folder / f"{entry.id}.png")
    own = Smears(subjects=18, cells=8)
    with (trained_run / "split.csv").open() as file:
        trained = next(row for row in csv.DictReader(file) if row["part"] == "train")
    entry = next(e for e in own.entries if e.id == trained["id"])
    Image.fromarray(own.image(entry)).save(folder / "copied.png")
    rows.append(["copied", "L1" if trained["label"] == "all" else "normal", "copied", "f"])
    with (folder / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label", "patient", "sex"), *rows])
    (folder / "map.csv").write_text(MAP)
    return folder


def run(capsys, *flags):
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    status = command.status(cli.main, cli.FLAGS, [str(flag) for flag in flags], doc=None)
    said = capsys.readouterr()
    return status, said.out, said.err


def flags(run_folder, cells, output):
    return (
        f"--workdir={run_folder}",
        "--data=default:table",
        f"--config.data.table={cells / 'cells.csv'}",
        "--config.data.path_template={id}.png",
        f"--class_map={cells / 'map.csv'}",
        f"--output={output}",
    )


def by_hand(labels, predicted, groups):
    """Balanced accuracy of two classes, and its interval: the jackknife over groups by class."""
    recall, squares, weight = [], 0.0, 0.0
    for label in (0, 1):
        right = {}
        for true, called, group in zip(labels, predicted, groups, strict=True):
            if true == label:
                right.setdefault(group, []).append(called == true)
        recall.append(np.mean(np.concatenate(list(right.values()))))
        without = [
            np.mean(np.concatenate([v for other, v in right.items() if other != group]))
            for group in right
        ]
        term = sum(((each - recall[-1]) / 2) ** 2 for each in without)
        squares, weight = squares + term, weight + term**2 / (len(right) - 1)
    reach = stats.t.ppf(0.975, squares**2 / weight) * np.sqrt(squares)
    value = np.mean(recall)
    return value, max(value - reach, 0), min(value + reach, 1)


def test_a_run_on_other_cells(finished_run, trained_run, cells, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained_run.parent / "cache", tmp_path / "cache")
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    before, output = tree(finished_run), tmp_path / "out"
    status, said, err = run(capsys, *flags(finished_run, cells, output))
    assert status == 0, err
    assert tree(finished_run) == before
    content = json.loads((output / "external_test.json").read_text())

    # Computed again: from the files, by other code.
    found = tables.read(output / "predictions.csv")
    with (cells / "cells.csv").open() as file:
        rows = {f"{row['id']}.png": row for row in csv.DictReader(file)}
    kept = {name: row for name, row in rows.items() if row["label"] != "smudge"}
    assert sorted(found.id) == sorted(kept)
    assert content["left_out"] == {"smudge": len(rows) - len(kept)}
    probabilities = lj.load(finished_run).predict([cells / name for name in found.id])
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    labels = [("all", "hem").index("hem" if kept[i]["label"] == "normal" else "all")
              for i in found.id]  # fmt: skip
    assert found.classes == ("all", "hem")
    groups = [kept[i]["patient"] for i in found.id]
    threshold = content["at_threshold"]["threshold"]
    predicted = np.where(probabilities[:, 0].astype(float) >= threshold, 0, 1)
    value, low, high = by_hand(labels, predicted, groups)
    score = content["at_threshold"]["by_image"]["balanced_accuracy"]
    assert score["value"] == pytest.approx(value, abs=1e-12)
    assert [score["low"], score["high"]] == pytest.approx([low, high], abs=1e-9)
    assert 0.5 < value < 1  # neither a guess nor all right

    # The own test of this small run has too few groups for an interval of the difference.
    own = tables.read(finished_run / "predictions" / "test.csv")
    accuracy = np.mean(own.probabilities.argmax(axis=1) == own.labels)
    assert content["own"]["accuracy"]["value"] == pytest.approx(accuracy)
    drop = content["drop"]["accuracy"]
    assert drop["value"] == pytest.approx(content["by_image"]["accuracy"]["value"] - accuracy)
    assert "external test on table" in said
    assert content["identical_to_training"] == ["copied.png"]
    assert "1 images are identical to training images" in said
    assert {(row["attribute"], row["value"]) for row in content["subgroups"]} == {
        ("sex", "f"),
        ("sex", "m"),
    }
    assert "their_label" in (output / "predictions.csv").read_text().partition("\n")[0]
    for name in ("confusion", "reliability", "subgroups"):
        assert (output / "figures" / f"{name}.png").is_file()
    summary = (output / "summary.md").read_text()
    assert "smudge | left out |" in summary
    assert "SYNTHETIC" in summary
    test = external.read(output)
    assert test.by_image["auroc"].value == content["by_image"]["auroc"]["value"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("--class_map=", "class_map: is missing, and the data have the class 'L1'"),
        ("--output=", "--output is missing"),
        ("--config.data.crop=20", "--config.data.crop: is that of the run"),
        ("--config.train.epochs=2", "--config.train.epochs: goes with training"),
        ("--part=val", "--part: is a part of the run's own split"),
        ("--data=", "--class_map: needs --data"),
        ("--tta", "--threshold=youden: is chosen on validation predictions"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    finished_run, cells, tmp_path, capsys, changed, message
):
    given = flags(finished_run, cells, tmp_path / "out")
    name = changed.partition("=")[0]
    given = [flag for flag in given if not flag.startswith(f"{name}=")] + [changed]
    status, _, err = run(capsys, *given)
    assert status == 1
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_run_folder_is_not_an_output(finished_run, cells, capsys):
    status, _, err = run(capsys, *flags(finished_run, cells, finished_run / "external"))
    assert status == 1
    assert "which is not written" in err
    assert not (finished_run / "external").exists()


def test_from_python(finished_run):
    source = Smears(subjects=16, cells=4, seed=3)
    images = [source.image(entry) for entry in source.entries]
    names = [("blast", "normal")[entry.label] for entry in source.entries]
    data = lj.Arrays(images, names, [entry.subject for entry in source.entries])
    predictor = lj.load(finished_run)
    test = predictor.evaluate(data, class_map={"blast": "all", "normal": "hem"})
    assert test.predictions.labels.tolist() == [entry.label for entry in source.entries]
    with pytest.raises(ValueError, match=r"does not know.*a class_map says which"):
        predictor.evaluate(data)
    part = predictor.evaluate(data.subset(np.arange(30)), class_map={"normal": "hem"})
    assert len(part.predictions) == names[:30].count("normal")
    assert part.absent == ("all",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": -1}, "images: must be a whole number"),
        ({"by_image": {"auroc": {"value": "high"}}}, "by_image: value: must be a number"),
        ({"runs": []}, "runs: must be a list"),
        ({"absent": [1]}, "absent: must be a text"),
        ({"left_out": None}, "left_out: must be an object"),
        ({"data": "x" * 2000}, "data: must be a text"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, change, message):
    interval = {
        "value": 0.5,
        "low": None,
        "high": None,
        "method": "",
        "groups": 3,
        "reason": "a\x1b",
    }
    content = {
        "runs": [{"run": "r\x1b[2J", "test_predictions_sha256": ""}],
        "data": "d",
        "synthetic": False,
        "subjects_known": True,
        "images": 3,
        "groups": 3,
        "left_out": {},
        "absent": [],
        **{name: {"auroc": interval} for name in ("by_image", "own", "drop")},
    }
    path = tmp_path / external.FILE
    path.write_text(json.dumps(content))
    read = external.read(tmp_path)
    assert read.runs == (("r\\x1b[2J", ""),)
    assert read.by_image["auroc"].reason == "a\\x1b"
    assert external.sentence(read).endswith(
        "3 images of 3 groups; AUROC 0.500 (interval undefined)."
    )
    path.write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=r"run leukjax\.evaluate again") as caught:
        external.read(tmp_path)
    assert message in str(caught.value)


def test_subgroups_of_the_own_split(finished_run, trained_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained_run.parent / "cache", tmp_path / "cache")
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(finished_run, tmp_path / "run")
    with (finished_run / "split.csv").open() as file:
        rows = [(row["id"], "fm"[len(row["subject"]) % 2]) for row in csv.DictReader(file)]
    with (tmp_path / "run" / "attributes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "sex"), *rows])
    status, said, err = run(
        capsys, f"--workdir={tmp_path / 'run'}", "--part=val", f"--output={tmp_path / 'out'}"
    )
    assert status == 0, err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = tables.read(tmp_path / "out" / "predictions.csv")
    for row in scores["subgroups"]:
        sex = dict(rows)
        chosen = np.array([sex[i] == row["value"] for i in found.id])
        right = found.probabilities.argmax(axis=1)[chosen] == found.labels[chosen]
        assert row["images"] == chosen.sum()
        assert row["scores"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert "Scores by subgroup on smears, val" in said
    assert (tmp_path / "out" / "figures" / "subgroups.png").is_file()
