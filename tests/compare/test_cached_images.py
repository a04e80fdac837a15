"""Pictures of a report come from the cache of this machine, or there are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from leukjax import config
from leukjax.compare.case_figures import cached_images
from leukjax.compare.load_results import read_entries
from leukjax.data import datasets


@pytest.fixture
def cached(trained_run, tmp_path, monkeypatch) -> Path:
    """The cache of this machine contains the images of the run."""
    shutil.copytree(trained_run.parent / "cache", tmp_path / "cache")
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pictures_are_the_images_of_the_records(finished_run, cached):
    (entry,) = read_entries([str(finished_run)])
    data = config.load("default", json.loads(_fields(finished_run))).data
    prepared = datasets.prepare(data)
    rows = [np.array([3, 0, 7]), np.array([], np.int64)]
    cached_arrays = cached_images(entry, [prepared.manifest.id[row] for row in rows])
    assert cached_arrays is not None
    for images, row in zip(cached_arrays, rows, strict=True):
        np.testing.assert_array_equal(images, prepared.images(row))


def _fields(run: Path) -> str:
    data = json.loads((run / "config.json").read_text())["data"]
    names = ("smears_subjects", "smears_cells", "image_size")
    return json.dumps({f"data.{name}": data[name] for name in names})


@pytest.mark.parametrize("case", ["empty", "other checksum", "damaged", "other order", "name"])
def test_without_cached_images_there_are_none_and_nothing_is_written(
    finished_run, cached, tmp_path, case
):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    if case == "empty":
        shutil.rmtree(cached)
    elif case == "other checksum":
        _set(run / "data.json", records_sha256="0" * 64)
    elif case == "damaged":
        (file,) = cached.rglob("*.array_record-*")
        file.write_bytes(b"\0" * file.stat().st_size)
    elif case == "other order":  # ids that are not those of the records
        path = run / "split.csv"
        header, *lines = path.read_text().splitlines()
        (run / "split.csv").write_text("\n".join([header, "aaa,s,s,all,", *lines]) + "\n")
    else:
        _set(run / "summary.json", data="../outside")
    before = sorted(map(str, tmp_path.rglob("*")))
    (entry,) = read_entries([str(run)])
    assert cached_images(entry, [entry.predictions.id[:2]]) is None
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def _set(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
