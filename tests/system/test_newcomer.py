"""What the README promises: a ResNet-50 learns the embedded cells."""

import json
import sys

import pytest
from runs import finish

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_resnet_50_learns_the_embedded_cells(tmp_path):
    command = [sys.executable, "-m", "leukjax.main", "--config=configs/resnet50.py"]
    said = finish([*command, f"--workdir={tmp_path / 'run'}"], tmp_path / "cache")
    assert "SYNTHETIC" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scores = summary["intervals"]["ResNet-50"]
    assert scores["by_subject"]["accuracy"]["value"] > 0.85
    assert scores["by_image"]["balanced_accuracy"]["value"] > 0.85
    assert summary["test_openings"] == 1
