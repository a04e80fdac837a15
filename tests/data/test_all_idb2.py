"""ALL-IDB2."""

import numpy as np
import pytest
from trees import cell, data_config, encode, texts, write, zip_folder

from leukjax.data.datasets import all_idb2
from leukjax.data.manifest_builder import scan
from leukjax.errors import UserError


def tree(root, names=("Im001_1.tif", "Im002_1.tif", "Im131_0.tif", "Im132_0.TIF")):
    for seed, name in enumerate(names):
        write(root / "ALL_IDB2" / "img" / name, encode(cell(seed, 40, "bright"), "TIFF"))
    return root


def test_the_digit_after_the_underscore_is_the_label(tmp_path):
    source = all_idb2.make(data_config(tree(tmp_path)))
    assert source.classes == ("all", "healthy")
    assert source.positive == "all"
    assert not source.subjects_known
    found = {e.id: (source.classes[e.label], e.subject) for e in source.entries}
    assert found == {
        "Im001_1": ("all", "Im001_1"),
        "Im002_1": ("all", "Im002_1"),
        "Im131_0": ("healthy", "Im131_0"),
        "Im132_0": ("healthy", "Im132_0"),
    }
    assert "differs from the published counts" in texts(source)[0]
    assert "names no subjects" in texts(source)[1]


def test_as_published(tmp_path):
    names = [f"Im{k:03d}_{int(k <= 130)}.tif" for k in range(1, 261)]
    source = all_idb2.make(data_config(tree(tmp_path, names)))
    assert texts(source)[0].endswith("as published")


def test_pixels_and_area_by_otsu(tmp_path):
    source = all_idb2.make(data_config(tree(tmp_path)))
    m, _ = scan(source, tmp_path / "cache", 2, "error")
    np.testing.assert_array_equal(source.image(source.entries[0]), cell(0, 40, "bright"))
    dark = (cell(0, 40, "bright") != 235).any(axis=2).mean()
    assert m.area[0] == pytest.approx(dark, rel=0.05)
    assert m.group.tolist() == m.id.tolist()


def test_from_a_zip(tmp_path):
    tree(tmp_path / "data")
    path = zip_folder(tmp_path / "data", tmp_path / "ALL_IDB2.zip")
    assert len(all_idb2.make(data_config(path)).entries) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Im001_1.jpg",), "not laid out as ALL-IDB2: found ALL_IDB2/img/Im001_1.jpg"),
        (("Im001_1.tif", "Im002_1.tif"), "no image of class healthy"),
        (("Im001_1.tif", "Im002_0.tif", "copy/Im001_1.tif"), "the same image is at"),
    ],
)
def test_other_folders(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        all_idb2.make(data_config(tree(tmp_path, names)))


def test_other_files_are_counted(tmp_path):
    tree(tmp_path)
    write(tmp_path / "sheet.png", encode(cell(0), "PNG"))
    notes = texts(all_idb2.make(data_config(tmp_path)))
    assert notes[-1] == "1 other files are ignored: sheet.png, …"
    write(tmp_path / "sheet.svg", b"x")
    notes = texts(all_idb2.make(data_config(tmp_path)))
    assert notes[-1] == "left out 1 file that is no image that leukjax reads: 1 .svg"
