"""Robustness of a run: files, resuming, the ledger, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from leukjax import command
from leukjax.metrics import predictions
from leukjax.robustness import cli

NAMES = ("contrast_down", "border")


def start(capsys, *flags) -> tuple[int, str, str]:
    """Runs the command in this process; returns status, stdout and stderr."""
    cli.FLAGS.unparse_flags()
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    status = command.status(cli.main, cli.FLAGS, list(flags), doc=None)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("robust") / "cnn"
    shutil.copytree(trained_run, folder)
    return folder


def flags(*runs):
    return f"--workdir={','.join(map(str, runs))}", f"--distortions={','.join(NAMES)}"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.smoke("robustness")
def test_scores_come_from_predictions_and_a_second_start_resumes(run, capsys):
    status, screen, err = start(capsys, *flags(run))
    assert status == 0, err
    folder = run / "robustness"
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (2 * 2 - 1) * 3 * 6  # border is the same on either background
    clean = predictions.read(folder / "predictions" / "clean-0.csv")
    own = predictions.read(run / "predictions" / "test.csv")
    np.testing.assert_allclose(clean.probabilities, own.probabilities, atol=2e-5)
    for row in rows:
        if row["score"] != "balanced_accuracy":
            continue
        severity = int(row["severity"])
        name = f"{row['distortion']}-{severity}.csv" if severity else "clean-0.csv"
        below = "as_published" if severity and row["background"] == "as_published" else ""
        found = predictions.read(folder / "predictions" / below / name)
        expected = [
            balanced_accuracy_score(p.labels, p.probabilities.argmax(axis=1))
            for p in (found, clean)
        ]
        assert float(row["value"]) == pytest.approx(expected[0], abs=1e-7)
        assert float(row["drop"]) == pytest.approx(expected[1] - expected[0], abs=1e-7)
    assert "contrast_down" in screen
    assert "SYNTHETIC" in screen
    ledger = [json.loads(x) for x in (run / "test_openings.jsonl").read_text().splitlines()]
    assert ledger[-1] == {"step": ledger[-1]["step"], "part": "test", "by": "robustness"}

    whole = files(folder)
    (folder / "predictions" / "border-3.csv").unlink()
    (folder / "scores.csv").unlink()
    assert start(capsys, *flags(run))[0] == 0
    assert files(folder) == whole
    opened = len((run / "test_openings.jsonl").read_text().splitlines())
    assert opened == len(ledger) + 1  # it was read again
    assert start(capsys, *flags(run))[0] == 0
    assert len((run / "test_openings.jsonl").read_text().splitlines()) == opened

    # Results of another checkpoint are not mixed with new ones.
    suite = json.loads((folder / "suite.json").read_text())
    (folder / "suite.json").write_text(json.dumps(suite | {"step": 1}))
    (folder / "predictions" / "border-3.csv").write_text("stale")
    assert start(capsys, *flags(run))[0] == 0
    assert files(folder) == whole


def test_relative_numbers_refer_to_the_cnn(run, tmp_path, capsys):
    other = tmp_path / "again"
    shutil.copytree(run, other)
    output = tmp_path / "joint"
    status, screen, err = start(
        capsys, *flags(run, other), "--part=val", f"--output={output}", "--background=masked"
    )
    assert status == 0, err
    found = json.loads((output / "robustness.json").read_text())
    assert found["reference"] == "CNN (cnn)"
    assert "relative" in screen
    assert (output / "curves.png").exists()
    assert (other / "robustness-val" / "harm.png").exists()
    # The same network twice: ratios of 1, or none where nothing drops.
    for row in found["models"]["CNN (again)"]["curves"]:
        assert row["relative"]["error"] in (None, pytest.approx(1))
        assert row["relative"]["drop"] in (None, pytest.approx(1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "--workdir is missing"),
        (["--workdir=nowhere"], "holds no run"),
        (["--workdir=RUN", "--distortions=fog"], "no such distortion; one of pixelate"),
        (["--workdir=RUN,RUN"], "named twice"),
        (["--workdir=RUN", "--config.seed=3"], "keeps its config"),
        (["--workdir=RUN", "extra"], "extra: not understood"),
    ],
)
def test_wrong_arguments_end_in_one_line(run, capsys, given, says):
    before = files(run)
    status, _, err = start(capsys, *(flag.replace("RUN", str(run)) for flag in given))
    assert status == 1
    assert says in err.splitlines()[-1]
    assert files(run) == before


def test_an_unfinished_run_and_changed_data_are_refused(run, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "predictions" / "test.csv").unlink()
    shutil.rmtree(broken / "robustness", ignore_errors=True)
    status, _, err = start(capsys, *flags(broken))
    assert (status, "train to the end" in err) == (1, True)
    shutil.copy(run / "predictions" / "test.csv", broken / "predictions" / "test.csv")
    facts = json.loads((broken / "data.json").read_text())
    (broken / "data.json").write_text(json.dumps(facts | {"records_sha256": "0"}))
    status, _, err = start(capsys, *flags(broken))
    assert (status, "trained on other images" in err) == (1, True)
    assert not (broken / "robustness").exists()
