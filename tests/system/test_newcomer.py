"""What the README promises: a ResNet-50 learns the embedded cells, whatever the seed."""

import json
import sys

import numpy as np
import pytest
from runs import finish

pytestmark = pytest.mark.slow


def test_a_resnet_50_learns_the_embedded_cells(tmp_path):
    by_image, by_subject = [], []
    for seed in range(3):
        workdir = tmp_path / str(seed)
        command = [sys.executable, "-m", "leukjax.main", "--config=configs/resnet50.py"]
        said = finish(
            [*command, f"--workdir={workdir}", f"--config.seed={seed}"], tmp_path / "cache"
        )
        assert "SYNTHETIC" in said
        summary = json.loads((workdir / "summary.json").read_text())
        scores = summary["intervals"]["ResNet-50"]
        by_image.append(scores["by_image"]["balanced_accuracy"]["value"])
        by_subject.append(scores["by_subject"]["accuracy"]["value"])
        assert summary["test_openings"] == 1
    print(f"balanced accuracy by image {by_image}, accuracy by subject {by_subject}")
    assert np.mean(by_subject) > 0.85
    assert np.mean(by_image) > 0.85
