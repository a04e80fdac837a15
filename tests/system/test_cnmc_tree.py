"""A tree of 10,661 files with C-NMC's names and duplicates prepares, splits and trains."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cnmc_tree import write_tree

from leukjax import config
from leukjax.data import datasets, duplicates, records, split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(shared, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    assert write_tree(shared / "data" / "cnmc_manifest.csv", root) == 10_661
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(tree, cache) -> records.Records:
    fields = {"data.root": str(tree), "data.cache_dir": str(cache), "data.image_size": 32}
    return datasets.prepare(config.load("cnn:cnmc", fields).data)


def test_subjects_groups_and_duplicates_are_those_of_the_real_files(prepared):
    manifest = prepared.manifest
    assert len(manifest) == 10_661
    assert len(np.unique(manifest.subject)) == 73
    assert len(np.unique(manifest.group)) == 66
    joined = {name for name in np.unique(manifest.group).tolist() if "+" in name}
    assert joined == {"20+21", "51+75+78", "H2+H4+H5+H6", "H3+H10"}
    pairs = duplicates.identical_pairs(manifest)
    crossing = [pair for pair in pairs if manifest.phase[pair.a] != manifest.phase[pair.b]]
    assert (len(pairs), len(crossing)) == (104, 94)
    assert all(manifest.label[pair.a] == manifest.label[pair.b] for pair in pairs)
    prepared.verify()


def test_no_group_is_on_two_sides_for_a_thousand_seeds(prepared):
    manifest = prepared.manifest
    pairs = duplicates.identical_pairs(manifest)
    a, b = np.array([pair.a for pair in pairs]), np.array([pair.b for pair in pairs])
    seen = set()
    for seed in range(1000):
        part = split.make_split(manifest, "subject", seed).part
        sides = {frozenset(np.unique(part[rows]).tolist()) for rows in _rows_of_groups(manifest)}
        assert sides == {frozenset({name}) for name in split.PARTS}, f"seed {seed}"
        assert (part[a] == part[b]).all(), f"seed {seed}"
        seen.add(part.tobytes())
    assert len(seen) > 900  # the seed does decide


def _rows_of_groups(manifest) -> list[np.ndarray]:
    codes = manifest.group_codes[1]
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def test_an_epoch_is_trained(tree, cache, prepared, repository, tmp_path):
    workdir = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "leukjax.main", "--config=configs/cnn.py:cnmc"),
        f"--workdir={workdir}",
        f"--config.data.root={tree}",
        f"--config.data.cache_dir={cache}",
        "--config.data.image_size=32",
        "--config.train.epochs=1",
        "--config.model.width=8",
    ]
    done = subprocess.run(
        command,
        cwd=repository,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    with open(workdir / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10_661
    assert len({row["subject"] for row in rows}) == 73
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["group"], set()).add(row["part"])
    assert len(sides) == 66
    assert all(len(parts) == 1 for parts in sides.values())
    with open(workdir / "duplicates.csv", newline="") as file:
        assert sum(row["kind"] == "bytes" for row in csv.DictReader(file)) == 104

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = sum(row["part"] == "train" for row in rows)
    batch = json.loads((workdir / "config.json").read_text())["train"]["batch_size"]
    assert max(line["step"] for line in lines) == trained // batch
    with open(workdir / "predictions" / "test.csv", newline="") as file:
        predicted = {row["id"] for row in csv.DictReader(file)}
    assert predicted == {row["id"] for row in rows if row["part"] == "test"}
