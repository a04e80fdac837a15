"""Whole probes: their folders, what other commands make of them, resume and exports."""

import json
import shutil

import numpy as np
import pytest

import leukjax as lj
from leukjax import command
from leukjax.compare.figures import training_figure
from leukjax.compare.load_results import read_entries
from leukjax.compare.run_facts import settings
from leukjax.errors import UserError
from leukjax.metrics.predictions import read
from leukjax.probe import cli
from leukjax.rundir import RunDir


@pytest.fixture(scope="module")
def data():
    """Squares of two sizes and shades, six per group; every image has a source."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 6)
    labels = groups % 2
    images = rng.integers(0, 60, (len(labels), 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        half = 5 if label else 3
        image[8 - half : 8 + half, 8 - half : 8 + half] += rng.integers(60, 190, 3, np.uint8)
    made = lj.Arrays(images, labels, groups=groups, classes=("small", "large"))
    ids = made.manifest.id.tolist()
    made.attributes = {"source": {name: f"site {i % 3}" for i, name in enumerate(ids)}}
    return made


def status(*arguments):
    cli.FLAGS.unparse_flags()
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    return command.status(cli.main, cli.FLAGS, [str(a) for a in arguments], doc=cli.__doc__)


def fit(data, folder, **options):
    model = lj.create_model("cnn", num_classes=2, width=4)
    return lj.fit_probe(data, model, workdir=folder, image_size=16, folds=3, **options)


@pytest.fixture(scope="module")
def probed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed") / "probe"
    return folder, fit(data, folder, heads=["logistic", "knn1"], subjects=[2, 4, "all"])


def test_every_image_is_tested_once_and_scored(probed, data):
    folder, scores = probed
    assert list(scores) == ["cnn-logistic", "cnn-knn1"]
    assert len(scores["cnn-logistic"].predictions) == len(data)
    accuracy = scores["cnn-logistic"].by_image["balanced_accuracy"]
    assert accuracy.value > 0.8
    assert accuracy.low is not None
    entries = read_entries([str(folder)])
    assert [entry.name for entry in entries] == list(scores)
    assert all(len(entry.predictions) == len(data) for entry in entries)
    # A comparison does not say that they were trained as their config says.
    assert settings(entries[0])["optimiser"] == "frozen network; logistic regression"
    assert settings(entries[0])["augmentation"] == "none: a probe"
    assert training_figure(entries, None) is None
    written = json.loads((folder / "results.json").read_text())
    assert written["probes"]["cnn-knn1"]["by_image"]["auroc"]["value"] == (
        scores["cnn-knn1"].by_image["auroc"].value
    )
    page = (folder / "report.html").read_text()
    assert "random weights, which are a baseline" in page
    assert "same source" in page


def test_the_folds_are_those_of_crossval(probed, data):
    from leukjax.data.split import make_split

    for fold in range(3):
        split = make_split(data.manifest, "kfold", 0, folds=3, fold=fold)
        parts = RunDir(probed[0] / f"runs/cnn-knn1/fold{fold}-seed0").split()
        assert [parts[name][3] for name in data.manifest.id.tolist()] == split.part.tolist()


@pytest.mark.slow
def test_a_learning_curve_ends_at_all_subjects(probed):
    folder, scores = probed
    curve = json.loads((folder / "results.json").read_text())["curve"]
    own = [point for point in curve if point["model"] == "cnn-logistic"]
    assert [point["subjects"] for point in own][:2] == [2, 4]
    assert own[-1]["scores"]["auroc"]["value"] == scores["cnn-logistic"].by_image["auroc"].value


@pytest.mark.slow
def test_a_second_start_fits_nothing_and_resumes_what_is_missing(probed, data, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(probed[0], folder)
    kept = folder / "runs/cnn-knn1/fold0-seed0/summary.json"
    stamp = kept.stat().st_mtime_ns
    lost = folder / "runs/cnn-logistic/fold2-seed0"
    before = (lost / "predictions/test.csv").read_bytes()
    for name in ("summary.json", "predictions/test.csv"):
        (lost / name).unlink()
    (folder / "predictions/curve/cnn-knn1/4.csv").unlink()
    scores = fit(data, folder, heads=["logistic", "knn1"], subjects=[2, 4, "all"])
    assert kept.stat().st_mtime_ns == stamp
    assert (lost / "predictions/test.csv").read_bytes() == before
    assert RunDir(lost).test_accesses() == 2
    ours, before = (json.loads((f / "results.json").read_text()) for f in (folder, probed[0]))
    for name in ("probes", "curve"):
        assert ours[name] == before[name]
    assert scores.keys() == probed[1].keys()
    with pytest.raises(ValueError, match="holds a study that differs from this one"):
        fit(data, folder, heads=["knn20"])


def test_commands_that_need_a_network_refuse_a_probe(probed):
    run = probed[0] / "runs/cnn-knn1/fold0-seed0"
    with pytest.raises(UserError, match="is a probe, which has predictions and no network"):
        lj.load(run)
    with pytest.raises(UserError, match="is a probe"):
        RunDir(run).config_with_data()


def test_subjects_are_classified_from_their_cells(data, tmp_path):
    scores = fit(data, tmp_path / "bags", level="subject", heads=["mean", "gated_attention"])
    predictions = scores["cnn-mean"].predictions
    assert sorted(predictions.id) == sorted(set(data.manifest.subject))
    assert len(read_entries([str(tmp_path / "bags")])) == 2
    run = RunDir(tmp_path / "bags/runs/cnn-gated_attention/fold0-seed0")
    rows = run.table("attention.csv", ("subject", "weight"), required=True)
    tested = read(run.folder / "predictions/test.csv").id.tolist()
    assert {row[0] for row in rows} == set(tested)
    assert sum(float(row[1]) for row in rows) == pytest.approx(len(tested), rel=1e-4)
    assert (tmp_path / "bags/figures/attention_cnn-gated_attention.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["logstic"]}, "^heads=logstic: no such head; by image: logistic"),
        ({"heads": "logstic"}, "^heads=logstic: no such head"),
        ({"heads": ["mean"]}, "^heads=mean: no such head; by image"),
        ({"level": "cell"}, "^level=cell: must be image or subject"),
        ({"subject_labels": "a.csv"}, "^subject_labels: needs level=subject"),
    ],
)
def test_wrong_arguments(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit(data, tmp_path / "none", **options)


def test_other_data(tmp_path):
    with pytest.raises(TypeError, match="data: expected a Dataset"):
        fit([1, 2], tmp_path / "none")


@pytest.mark.smoke("probe")
def test_the_command(tmp_path, capsys):
    """Random features of the embedded cells, with what is held out, beside an export."""
    small = {
        "data.smears_subjects": 24,
        "data.smears_cells": 4,
        "data.image_size": 16,
        "model.width": 4,
        "data.cache_dir": tmp_path / "cache",
    }
    arguments = [
        "--config=configs/cnn.py",
        "--folds=3",
        f"--workdir={tmp_path / 'probe'}",
        f"--output={tmp_path / 'features.npz'}",
        *(f"--config.{name}={value}" for name, value in small.items()),
    ]
    assert status(*arguments) == 0
    assert "Held-out test, by image" in capsys.readouterr().out
    models = json.loads((tmp_path / "probe/crossval.json").read_text())["models"]
    assert list(models) == [
        f"cnn-{head}" for head in ("logistic", "logistic_val", "knn1", "knn20", "attentive")
    ]
    for entry in read_entries([str(tmp_path / "probe")]):
        assert entry.part == "test"
        assert len(entry.members) == 3
    ledger = (tmp_path / "probe/ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["model"] for line in ledger] == list(models)
    with np.load(tmp_path / "features.npz") as arrays:
        assert arrays["features"].dtype == np.float32
        assert arrays["features"].shape == (len(arrays["ids"]), 128)
        assert set(arrays["labels"]) == {0, 1}
        assert arrays["groups"].shape == arrays["subjects"].shape == arrays["ids"].shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=cnn"], "--workdir is missing"),
        (["--config=cnn", "--workdir=w", "--output=f.csv"], "--output=f.csv: must end in .npz"),
        (["--config=cnn", "--workdir=w", "--heads=x"], "--heads=x: no such head"),
        (
            ["--config=cnn", "--workdir=w", "--weights=a", "--config.init.weights=b"],
            "--weights: sets --config.init.weights",
        ),
        (["--config=cnn", "--workdir=w", "x.png"], "x.png: not understood"),
    ],
)
def test_wrong_flags(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status(*arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
