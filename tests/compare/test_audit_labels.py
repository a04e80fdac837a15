"""`leukjax.audit --labels`: what it writes for a study, and what it refuses."""

import csv

import matplotlib.image
import pytest
from fake_runs import write_crossval, write_run

from leukjax import command
from leukjax.audit import cli


def run(capsys, *arguments):
    given = ["--layout=auto", *map(str, arguments)]  # flags keep their values between calls
    status = command.status(cli.main, cli.FLAGS, given, doc=cli.__doc__)
    streams = capsys.readouterr()
    return status, streams.out, streams.err


@pytest.mark.parametrize("held_out", [False, True])
def test_a_study_is_ranked_over_models_and_seeds(tmp_path, capsys, held_out):
    study = write_crossval(tmp_path / "study", {"cnn": 2.0, "resnet50": 3.0}, held_out=held_out)
    status, out, _ = run(capsys, study, "--labels", f"--output={tmp_path / 'labels'}")
    assert status == 0
    assert "4 models and seeds" in out
    rows = list(csv.DictReader((tmp_path / "labels/label_issues.csv").open()))
    # Every image of the folds once; none of the held-out test.
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["id"].startswith("train") for row in rows)
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    for row in rows:
        votes = int(row["agreement"].split()[0])
        assert (row["issue"] == "yes") == (votes >= 2)
    assert f"{sum(row['issue'] == 'yes' for row in rows)} of {len(rows)} labels" in out
    assert not (tmp_path / "labels/label_issues.png").exists()  # no images on this machine


def test_a_run_gives_its_test_and_validation_images(tmp_path, capsys):
    write_run(tmp_path / "run", 1.0)
    status, out, _ = run(capsys, tmp_path / "run", "--labels", f"--output={tmp_path / 'labels'}")
    assert status == 0
    assert "1 model," in out
    rows = list(csv.DictReader((tmp_path / "labels/label_issues.csv").open()))
    assert {row["id"][:3] for row in rows} == {"val", "tes"}


def test_the_sheet_shows_the_images_that_this_machine_has(
    trained_run, finished_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LEUKJAX_CACHE", str(trained_run.parent / "cache"))
    _, out, _ = run(capsys, finished_run, "--labels", f"--output={tmp_path / 'labels'}")
    assert "label_issues.png" in out
    height, width = matplotlib.image.imread(tmp_path / "labels/label_issues.png").shape[:2]
    assert width > 1500
    assert height > 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--labels: nothing is given"),
        (["{run}", "--layout=cnmc"], "--labels takes --output only"),
        (["{run}", "--config.data.root=x"], "a finished run has its config"),
        (["{run}/predictions/test.csv"], "is no run and no study"),
        (["{run}/absent"], "no such file or folder"),
        (["{run}", "{other}"], "is no test image of"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, arguments, message):
    places = {"run": write_run(tmp_path / "run", 1.0)}
    places["other"] = write_crossval(tmp_path / "other", {"cnn": 1.0}, held_out=False)
    given = [argument.format(**places) for argument in arguments]
    status, _, error = run(capsys, *given, "--labels", f"--output={tmp_path / 'labels'}")
    assert status == 1
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "labels").exists()
