"""Wrong labels that were planted in synthetic cells are found by a cross-validation of the CNN.

LEUKJAX_PLANTINGS=3 python -m pytest -s -m slow tests/system/test_planted_labels.py
"""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from leukjax.data.datasets.smears import Smears

SUBJECTS = 120
SHARE = 0.02  # of the labels are changed
# Each takes minutes: one in every run of the proofs, three where they are asked for.
PLANTINGS = int(os.environ.get("LEUKJAX_PLANTINGS", "1"))
FIELDS = {
    "data.image_size": 48,
    "train.epochs": 15,
    "train.batch_size": 32,
    "augment.rotate": 0.0,
    "augment.zoom": 0.0,
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Synthetic cells as PNG files, and (path, class, subject) of each."""
    folder = tmp_path_factory.mktemp("cells")
    data = Smears(SUBJECTS, 20)
    rows = []
    for entry in data.entries:
        Image.fromarray(data.image(entry)).save(folder / f"{entry.id}.png")
        rows.append((f"{entry.id}.png", data.classes[entry.label], entry.subject))
    return folder, rows


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("planting", range(PLANTINGS))
def test_four_fifths_are_in_the_first_4_percent(cells, tmp_path, planting):
    folder, rows = cells
    random = np.random.default_rng(planting)
    wrong = set(random.choice(len(rows), round(SHARE * len(rows)), replace=False).tolist())
    other = {"all": "hem", "hem": "all"}
    with (folder / f"planting{planting}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "subject"])
        for row, (path, label, subject) in enumerate(rows):
            writer.writerow([path, other[label] if row in wrong else label, subject])
    leukjax(
        *("crossval", "configs/cnn.py:table", "--folds=5", "--seeds=1", "--pool"),
        f"--config.data.table={folder / f'planting{planting}.csv'}",
        f"--workdir={tmp_path / 'study'}",
        *(f"--config.{field}={value}" for field, value in FIELDS.items()),
    )
    leukjax("audit", str(tmp_path / "study"), "--labels", f"--output={tmp_path / 'labels'}")
    with (tmp_path / "labels" / "label_issues.csv").open(newline="", encoding="utf-8") as file:
        ranked = [row["id"] for row in csv.DictReader(file)]
    planted = {rows[row][0] for row in wrong}
    found = planted & set(ranked[: round(0.04 * len(rows))])
    print(f"planting {planting}: {len(found)} of {len(planted)} in the first 4 %")
    assert len(found) >= 0.8 * len(planted)


def leukjax(command: str, *arguments: str) -> None:
    """Runs a command."""
    done = subprocess.run(
        [sys.executable, "-m", f"leukjax.{command}", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
