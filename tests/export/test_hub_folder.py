"""`leukjax.export --format=hub`: a folder for the Hugging Face hub, written to disk."""

import json
import shutil

import pytest
import yaml

from leukjax import command
from leukjax.errors import UserError
from leukjax.export import cli, hub
from leukjax.rundir import RunDir


def metadata_of(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.fixture
def run(finished_run, tmp_path):
    """A run with scores and a model card."""
    folder = shutil.copytree(finished_run, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["test"] = {"accuracy": 0.75, "balanced_accuracy": 0.71234567, "auroc": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "model_card.md").write_text("# Model card\n\n- No medical device.\n")
    return folder


def test_the_folder(run, tmp_path):
    flags = ["--format=hub", f"--workdir={run}", f"--output={tmp_path / 'out'}"]
    assert command.status(cli.main, cli.FLAGS, flags, doc=None) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "model.json", "model.stablehlo", "predict.py"}  # a CNN
    metadata, body = metadata_of((tmp_path / "out" / "README.md").read_text("utf-8"))
    assert metadata["pipeline_tag"] == "image-classification"
    assert "license" not in metadata
    (model,) = metadata["model-index"]
    scores = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert scores == {"balanced_accuracy": 0.7123, "accuracy": 0.75}
    assert "synthetic" in metadata["tags"]
    assert "No medical device" in body
    assert "python predict.py" in body


def test_weights_get_a_command_to_fine_tune(run):
    assert "hf://OWNER/NAME" in hub.card(RunDir(run), has_weights=True)
    assert "hf://OWNER/NAME" not in hub.card(RunDir(run), has_weights=False)


def test_a_prepared_run_folder_cannot_change_the_metadata(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["data"] = "cells\n---\nlicense: mit"
    (run / "summary.json").write_text(json.dumps(summary))
    card = (run / "model_card.md").read_text()
    (run / "model_card.md").write_text(card + "\x1b[2J")
    text = hub.card(RunDir(run), has_weights=False)
    front = yaml.safe_load(text.removeprefix("---\n").split("\n---\n\n#")[0])
    assert "license" not in front
    assert "\x1b" not in text


def test_a_run_without_a_card(run):
    (run / "model_card.md").unlink()
    with pytest.raises(UserError, match=r"model_card\.md: cannot be read"):
        hub.card(RunDir(run), has_weights=False)


def test_a_temperature_is_refused(finished_run, tmp_path, capsys):
    flags = ["--format=hub", "--calibrated", f"--workdir={finished_run}", "--output=x"]
    assert command.status(cli.main, cli.FLAGS, flags, doc=None) == 1
    assert "--calibrated: hub has weights without a temperature" in capsys.readouterr().err
