"""The data sets that Python users make: arrays, folders, their own, and what the registry does."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tiny_source import Tiny, tiny_source
from trees import cell, encode, small_cnmc, texts, write

import leukjax.data as lj
from leukjax import config
from leukjax.data import datasets, image_store
from leukjax.data.dataset import Subset
from leukjax.data.loader import Batches
from leukjax.data.source import Entry
from leukjax.errors import UserError
from leukjax.fields import Text, Whole


def arrays(count=60, **options):
    images = np.stack([cell(seed, 24) for seed in range(count)])
    labels = [("blast", "normal")[row % 2] for row in range(count)]
    return lj.Arrays(images, labels, [row // 4 for row in range(count)], **options)


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    yield
    assert not (tmp_path / "cache").exists()


@pytest.mark.smoke
def test_arrays_from_memory_to_batches(nothing_written):
    data = arrays()
    assert repr(data) == "Arrays('arrays', 60 images, classes=blast, normal)"
    assert (data.num_classes, data.positive, data.background) == (2, "normal", "black")
    assert texts(data)[0] == "60 images (blast 30, normal 30) of 15 groups"
    manifest = data.manifest
    assert manifest.id.tolist() == [f"{row:02d}" for row in range(60)]
    assert manifest.label.tolist() == [row % 2 for row in range(60)]
    assert manifest.subject.tolist() == [str(row // 4) for row in range(60)]

    split = lj.split_by_group(data, seed=1)
    assert repr(split) == "Split(subject: train 44, val 8, test 8 images)"
    assert [len(part) for part in (split.train, split.val, split.test)] == [44, 8, 8]
    assert repr(split.val) == "Subset(val, 8 of 60 images of arrays)"
    groups = [set(part.manifest.group.tolist()) for part in (split.train, split.val, split.test)]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]

    records = data.prepare(16)
    assert repr(records) == "MemoryRecords(arrays, 60 images of 16 px)"
    assert "60 shrink by 0.667 (area)" in records.notes[-1].text
    records.verify()
    assert data.prepare(16).checksum == records.checksum != data.prepare(17).checksum
    assert image_store.decode(records) is records
    assert image_store.folder_of(records) is None
    with pytest.raises(IndexError):
        records.images(np.array([60]))
    batches = Batches(records, split.train.rows, 8, training=True, seed=3)
    batch = batches.batch(0)
    np.testing.assert_array_equal(batch["image"], records.images(batch["index"]))
    again = list(batches.iterate(0, 2))
    np.testing.assert_array_equal(again[0]["image"], batch["image"])
    records.images(np.arange(3))[:] = 0  # a copy
    records.verify()


def test_arrays_at_their_own_size_keep_their_pixels(nothing_written):
    data = arrays(8)
    np.testing.assert_array_equal(data.prepare(24).images(np.arange(8)), data._images)


def test_images_of_several_sizes_and_indices_for_labels(nothing_written):
    images = [cell(seed, 20 + seed, "bright") for seed in range(6)]
    data = lj.Arrays(images, [0, 1, 2, 0, 1, -1])
    assert data.classes == ("0", "1", "2")
    assert (data.positive, data.background, data.subjects_known) == ("", "bright", False)
    assert "each image its own" in texts(data)[0]
    assert data.manifest.label.tolist() == [0, 1, 2, 0, 1, -1]
    assert data.prepare(24).images(np.arange(6)).shape == (6, 24, 24, 3)
    named = lj.Arrays(images, [0] * 6, classes=("b", "a"), positive="b")
    assert (named.classes, named.positive) == (("b", "a"), "b")
    unlabelled = lj.Arrays(images, np.array(["x", "", "y", "x", "y", "y"], object))
    assert unlabelled.manifest.label.tolist() == [0, -1, 1, 0, 1, 1]


def test_identical_arrays_form_one_group():
    images = np.stack([cell(seed, 24) for seed in (0, 1, 0, 2)])
    data = lj.Arrays(images, ["a", "b", "a", "b"], ["p", "q", "r", "s"])
    assert data.manifest.group.tolist() == ["p+r", "q", "p+r", "s"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((4, 8, 8, 3))}, TypeError, r"uint8\[n, h, w, 3\].*float64\[8, 8, 3\]"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, TypeError, r"image 0 is uint8\[8, 8\]"),
        ({"images": []}, ValueError, "images: is empty"),
        ({"labels": [0, 1, 0]}, ValueError, "labels: 3 labels of 4 images"),
        ({"labels": [0.0, 1.0, 0.0, 1.0]}, TypeError, r"; use labels\.astype\(int\)$"),
        ({"labels": [0, 2, 0, 2]}, ValueError, r"no image of class '1' \(0 2, 1 0, 2 2\)"),
        ({"labels": [0, 0, 0, 0]}, ValueError, "classes: expected two different names"),
        (
            {"labels": [0, 1, 5, 1], "classes": "ab"},
            ValueError,
            r"label 5 has no name in classes \(2",
        ),
        ({"labels": [0, 1, -2, 1]}, ValueError, "labels: -2 is below -1, which means unlabelled"),
        ({"labels": np.eye(2)[[0, 1, 0, 1]]}, TypeError, r"one-hot: use labels\.argmax\(1\)$"),
        ({"labels": [0, 1, np.nan, 1]}, TypeError, "NaN: give -1 to unlabelled images"),
        ({"images": np.zeros((4, 8, 8, 1), np.uint8)}, TypeError, r"use x\.repeat\(3, axis=-1\)$"),
        ({"images": np.zeros((4, 8, 8, 4), np.uint8)}, TypeError, r"RGBA: use x\[\.\.\., :3\]$"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, TypeError, r"x\.transpose\(0, 2, 3, 1\)$"),
        ({"images": np.full((4, 8, 8, 3), 9.0)}, TypeError, r"use x\.astype\('uint8'\)$"),
        ({"groups": ["p", "q", np.float64("nan"), "q"]}, ValueError, "has the group 'nan'; give"),
        ({"labels": ["a", "b", "c", "a"], "classes": "ab"}, ValueError, "labels: 'c' is not a cl"),
        ({"groups": ["p"]}, ValueError, "groups: 1 groups of 4 images"),
        ({"background": "blue"}, ValueError, "background: 'blue'"),
        ({"positive": "c"}, ValueError, "'c' is none of the classes a, b"),
    ],
)
def test_wrong_arrays_are_refused(changes, error, message):
    good = {"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": ["a", "b", "a", "b"]}
    with pytest.raises(error, match=message):
        lj.Arrays(**good | changes)


def test_a_folder_from_python(tmp_path):
    for row in range(24):
        path = tmp_path / "cells" / "ab"[row % 2] / f"p{row // 4}_{row}.png"
        write(path, encode(cell(row), "PNG"))
    data = lj.ImageFolder(tmp_path / "cells", subject=r"(p\d)_", positive="a")
    assert isinstance(data, lj.FileDataset)
    assert repr(data) == "ImageFolder('image_folder', 24 images, classes=a, b)"
    assert (data.positive, data.subjects_known) == ("a", True)
    assert len(set(data.scan(str(tmp_path / "cache")).subject.tolist())) == 6
    assert data.manifest is data.scan()  # kept
    records = data.prepare(16, cache_dir=str(tmp_path / "cache"))
    assert (len(records), records.image_size) == (24, 16)
    write(tmp_path / "cells" / "a" / "p9_x.png", b"nothing")
    data = lj.ImageFolder(tmp_path / "cells", subject=r"(p\d)_", bad_images="skip")
    data.scan(str(tmp_path / "cache"))
    assert (len(data), [skipped.id for skipped in data.skipped]) == (24, ["a/p9_x.png"])


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.8, 0.2, 0.0), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1)]
)
def test_shares_must_be_three_and_sum_to_one(shares):
    with pytest.raises(ValueError, match="shares"):
        lj.split_by_group(arrays(8), shares=shares)


def test_other_shares():
    split = lj.split_by_group(arrays(), shares=(0.4, 0.4, 0.2))
    assert [len(part) for part in (split.train, split.val, split.test)] == [24, 24, 12]


@pytest.mark.parametrize(
    ("rows", "error"), [([60], ValueError), ([-1], ValueError), ([0.5], TypeError)]
)
def test_a_subset_has_rows_of_its_data_set(rows, error):
    data = arrays()
    assert len(data.subset([])) == 0
    assert data.subset([3, 1]).manifest.id.tolist() == ["03", "01"]
    with pytest.raises(error, match="rows"):
        Subset(data, rows)


class Stripes(lj.Dataset):
    """What a data set of one's own needs: a list of entries and `image`."""

    def __init__(self, count: int) -> None:
        entries = [Entry(f"{i}", "", i % 2, f"donor{i // 4}") for i in range(count)]
        super().__init__(name="stripes", classes=("even", "odd"), entries=entries)

    def image(self, entry: Entry) -> np.ndarray:
        image = np.zeros((16, 16, 3), np.uint8)
        image[:: 2 + entry.label] = 1 + int(entry.id)
        return image


def test_wrong_attributes_are_named():
    fields = {"name": "mine", "classes": ["a", "b"], "entries": [Entry("0", "", 0, "s")]}
    data = Tiny(**fields, notes=["seen"])
    assert (data.classes, data.positive, texts(data)) == (("a", "b"), "b", ["seen"])
    for name, value in {"background": "white", "bad_images": "stop", "positive": "c"}.items():
        with pytest.raises(ValueError, match=f"{name}: '{value}'"):
            Tiny(**fields | {name: value})


def test_an_image_of_another_type_is_named():
    class Grey(Stripes):
        def image(self, entry):
            return super().image(entry)[..., 0]

    with pytest.raises(TypeError, match=r"Grey\.image\('0'\): expected .* got uint8\[16, 16\]"):
        Grey(8).scan()


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(datasets, "_registered", {})
    monkeypatch.setattr(config, "_declared", {})


def test_a_registered_data_set_by_config(registry, tmp_path):
    fields = {"data.stripes": Whole(8, (2, 1000), "stripes: number of images")}

    @lj.register_dataset("stripes", fields=fields)
    def stripes(data):
        return Stripes(data.stripes)

    assert "stripes" in lj.list_datasets()
    chosen = config.load(
        "resnet50:stripes", {"data.stripes": "24", "data.cache_dir": str(tmp_path)}
    )
    assert (chosen.data.name, chosen.data.stripes) == ("stripes", 24)
    assert chosen.data.image_size == 224  # as all data sets but the embedded one
    data = lj.make_dataset(chosen.data)
    assert (type(data), len(data)) == (Stripes, 24)
    records = datasets.prepare(chosen.data)
    assert (records.name, len(records), records.image_size) == ("stripes", 24, 224)
    assert records.folder.parent == tmp_path / "stripes"
    assert not (tmp_path / "scans").exists()  # without a fingerprint nothing is trusted
    # A cell of a notebook that is run again.
    assert lj.register_dataset("stripes", lambda data: Stripes(4), fields=fields)
    assert len(lj.make_dataset(chosen.data)) == 4


def test_the_example_of_the_documentation(registry, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "data.md").read_text(
        encoding="utf-8"
    )
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1], {"__name__": "example"})
    chosen = config.load("resnet50:wells", {"data.plate": 3, "data.cache_dir": str(tmp_path)})
    data = lj.make_dataset(chosen.data)
    assert repr(data) == "Wells('wells', 96 images, classes=control, treated)"
    assert data.prepare(64, cache_dir=str(tmp_path)).images(np.array([5]))[0, 0, 0, 0] == 9


@pytest.mark.parametrize(
    ("name", "factory", "fields", "error", "message"),
    [
        ("cnmc", Stripes, {}, ValueError, "comes with leukjax"),
        ("My Set", Stripes, {}, ValueError, "lower-case letters"),
        ("../up", Stripes, {}, ValueError, "lower-case letters"),
        ("mine", 3, {}, TypeError, "must be callable"),
        ("mine", Stripes, {"data.root": Text("", "")}, ValueError, "exists already"),
        ("mine", Stripes, {"root": Text("", "")}, ValueError, r"SECTION\.FIELD"),
        ("mine", Stripes, {"data.items": Text("", "")}, ValueError, "method of ConfigDict"),
    ],
)
def test_wrong_registrations(registry, name, factory, fields, error, message):
    with pytest.raises(error, match=message):
        lj.register_dataset(name, factory, fields=fields)
    assert "mine" not in lj.list_datasets()


def test_the_shipped_data_sets():
    presets = {
        *("all_idb1", "bloodmnist", "bone_marrow", "hehr_aml", "matek_aml", "pbc", "raabin"),
        *("taleqani_all", "wbcbench"),
    }
    readers = {"arrays", "crops", "image_folder", "npz", "parquet", "table"}
    shipped = tuple(sorted(presets | readers | {"all_idb2", "cnmc", "smears"}))
    assert lj.list_datasets() == shipped
    data = config.load("default", {"data.smears_subjects": 6, "data.smears_cells": 2}).data
    assert lj.make_dataset(data).name == "smears"
    data.name = "cnmcc"
    with pytest.raises(UserError, match=r"unknown data set 'cnmcc'; did you mean 'cnmc'\?"):
        lj.make_dataset(data)
    with pytest.raises(UserError, match="images in memory"):
        lj.make_dataset(config.load("default:arrays").data)
    with pytest.raises(UserError, match="no such data set; one of all_idb1, all_idb2, arrays"):
        config.load("default:cells")


def test_a_config_makes_the_same_data_set(tmp_path):
    """A run that was trained in Python records these fields."""
    small_cnmc(tmp_path / "cnmc")
    made = [
        lj.make_dataset(config.load("default:cnmc", {"data.root": str(tmp_path / "cnmc")}).data),
        lj.make_dataset(config.load("default", {"data.smears_subjects": 8}).data),
    ]
    for data in made:
        again = lj.make_dataset(config.load(f"default:{data.name}", data.config_fields).data)
        assert again.entries == data.entries
        assert again.config_fields == data.config_fields


@pytest.mark.parametrize("name", ["", "My set", "../x"])
def test_the_name_of_a_data_set_can_be_that_of_a_folder(name):
    with pytest.raises(ValueError, match="name: "):
        arrays(name=name)


def test_a_split_of_a_manifest_has_no_subsets():
    from leukjax.data.split import make_split

    with pytest.raises(ValueError, match=r"split\.rows"):
        _ = make_split(arrays().manifest, "subject", 0).train
    assert repr(make_split(tiny_source(60).scan(), "kfold", 0)).startswith("Split(kfold: train ")


IMPORTS = """
    import sys, warnings
    before = list(warnings.filters)
    import leukjax.data
    assert "numpy" not in sys.modules
    import cv2
    threads = cv2.getNumThreads()
    for name in leukjax.data.__all__:
        getattr(leukjax.data, name)
    import leukjax.data.image_stream, leukjax.data.baselines
    assert cv2.getNumThreads() == threads
    print([f for f in warnings.filters if f not in before and "PIL" in str(f)])
    print([name for name in ("jax", "grain") if name in sys.modules])
"""


def test_imports_are_quick_and_change_nothing():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IMPORTS)],
        env=os.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "[]"]
