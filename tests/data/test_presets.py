"""Public data sets: each on a fabricated tree of its layout, of a few images."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from trees import cell, encode, texts, write, zip_folder

from leukjax import config
from leukjax.data.datasets import all_idb1, bone_marrow, hehr_aml, make_dataset, pbc
from leukjax.data.published import Published
from leukjax.data.source import Entry
from leukjax.data.split import make_split
from leukjax.errors import UserError

KINDS = {"jpg": "JPEG", "tif": "TIFF", "tiff": "TIFF"}


def plant(root, paths):
    for seed, path in enumerate(paths):
        image = cell(seed, 24, "bright")
        write(root / path, encode(image, KINDS[path.rsplit(".")[-1]]))


class Preset(NamedTuple):
    """A tree and what is read from it: images by class, phases, and an expected note."""

    paths: tuple[str, ...]
    counts: dict[str, int]
    note: str
    phases: tuple[str, ...] = ("",)
    files: tuple[tuple[str, str], ...] = ()
    subjects: int = 0


PRESETS = {
    "pbc": Preset(
        ("P/basophil/BA_1.jpg", "P/basophil/BA_2.jpg", "P/ig/MMY_1.jpg", "PLATELET_7.jpg", "x.jpg"),
        {"basophil": 2, "ig": 1, "platelet": 1},
        "1 other images are left out",
    ),
    "matek_aml": Preset(
        ("A/AML/BAS/BAS_0001.tiff", "A/AML/MYO/MYO_0001.tiff", "A/AML/MYO/MYO_0002.tiff"),
        {"BAS": 1, "MYO": 2},
        "the images are of 200 people, but whose is which is not known; no patients",
    ),
    "bone_marrow": Preset(
        ("BM/ABE/ABE_00001.jpg", "BM/BLA/0001-1000/BLA_00001.jpg"),
        {"ABE": 1, "BLA": 1},
        "licence CC BY 4.0; cite Matek",
    ),
    "hehr_aml": Preset(
        ("data/NPM1/ABC/image_0.tif", "data/NPM1/ABC/image_1.tif", "data/NPM1/DEF/image_0.tif",
         "data/control/XYZ/image_0.tif", "data/control/stray.tif"),
        {"NPM1": 3, "control": 1},
        "the label is the patient's",
        files=(("metadata.csv", "patient_id,sex_1f_2m,age,bag_label\nABC,1,57.0,x\nXYZ,2,,y\n"),),
        subjects=3,
    ),
    "raabin": Preset(
        ("Train/Basophil/a.jpg", "Train/Monocyte/b.jpg", "TestA/Basophil/a.jpg",
         "TestA/Monocyte/b.jpg", "TestB/Neutrophil/c.jpg"),
        {"Basophil": 2, "Monocyte": 2, "Neutrophil": 1},
        "TestB has two of the classes only",
        phases=("TestA", "TestB", "Train"),
    ),
    "taleqani_all": Preset(
        ("Original/Benign/WBC-1.jpg", "Original/Pro/WBC-2.jpg", "Segmented/Benign/WBC-1.jpg"),
        {"Benign": 1, "Pro": 1},
        "2 images, 3,256 are published: Benign 1 (published: 504)",
    ),
    "all_idb1": Preset(
        ("ALL_IDB1/im/Im001_1.jpg", "ALL_IDB1/im/Im002_1.jpg", "ALL_IDB1/im/Im034_0.jpg",
         "ALL_IDB2/img/Im001_1.tif"),
        {"all": 2, "healthy": 1},
        "each image is a whole field",
        files=(("ALL_IDB1/xyc/Im001_1.xyc", "5 5\n"),),
    ),
    "wbcbench": Preset(
        tuple(f"{k}.jpg" for k in range(6)),
        {"BA": 3, "SNE": 3},
        "part of the images are degraded on purpose",
        phases=("test", "train", "val"),
        files=(("t.csv", "ID,labels,split\n0,BA,train\n1,SNE,train\n2,BA,val\n3,SNE,val\n"
                         "4,BA,test\n5,SNE,test\n"),),
    ),
}  # fmt: skip


def load(name, root):
    place = {"data.table": str(root / "t.csv")} if name == "wbcbench" else {"data.root": str(root)}
    return make_dataset(config.load(f"cnn:{name}", place).data)


@pytest.mark.parametrize("name", PRESETS)
def test_a_fabricated_tree(name, tmp_path):
    preset = PRESETS[name]
    plant(tmp_path, preset.paths)
    for path, content in preset.files:
        write(tmp_path / path, content)
    data = load(name, tmp_path)
    assert data.name == name
    assert Counter(data.classes[entry.label] for entry in data.entries) == preset.counts
    assert tuple(sorted({entry.phase for entry in data.entries})) == preset.phases
    assert data.subjects_known == bool(preset.subjects)
    assert len({entry.subject for entry in data.entries}) == preset.subjects or not preset.subjects
    notes = "\n".join(texts(data))
    assert preset.note in notes
    assert ("WARNING" in notes and "no patients: intervals are by image" in notes) == (
        not preset.subjects
    )
    assert data.citation in notes
    again = make_dataset(config.load(f"cnn:{name}", data.config_fields).data)
    assert again.entries == data.entries
    assert data.manifest.label.tolist() == again.manifest.label.tolist()


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"wbcbench"}))
def test_another_folder_is_named(name, tmp_path):
    plant(tmp_path, ["some/a.jpg", "other/b.jpg"])
    with pytest.raises(
        UserError, match=r"data\.root: .* is not laid out as .*; expected "
    ) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_from_a_zip(tmp_path):
    plant(tmp_path / "pbc", PRESETS["pbc"].paths)
    packed = zip_folder(tmp_path / "pbc", tmp_path / "pbc.zip")
    assert len(pbc.Pbc(str(packed))) == 4


def test_sex_and_age_of_patients(tmp_path):
    preset = PRESETS["hehr_aml"]
    plant(tmp_path, preset.paths)
    assert hehr_aml.HehrAml(str(tmp_path)).attributes == {}
    write(tmp_path / "metadata.csv", preset.files[0][1])
    data = hehr_aml.HehrAml(str(tmp_path))
    assert {e.subject: data.attributes["sex"][e.id] for e in data.entries} == {
        "ABC": "female", "DEF": "", "XYZ": "male"
    }  # fmt: skip
    assert set(data.attributes["age"].values()) == {"50-59", ""}
    write(tmp_path / "metadata.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match=r"metadata\.csv: is no CSV with the columns patient_id"):
        hehr_aml.HehrAml(str(tmp_path))


def test_positive_class_of_all_idb1(tmp_path):
    plant(tmp_path, PRESETS["all_idb1"].paths)
    assert all_idb1.AllIdb1(str(tmp_path)).positive == "all"
    assert all_idb1.AllIdb1(str(tmp_path), positive="healthy").positive == "healthy"


def test_the_parts_of_raabin(tmp_path):
    for part, count in {"Train": 12, "TestA": 4, "TestB": 3}.items():
        for name in ("Basophil", "Monocyte"):
            for number in range(count):
                seed = sum(map(ord, part + name)) * 100 + number
                image = encode(cell(seed, 24, "bright"), "JPEG")
                write(tmp_path / part / name / f"{number}.jpg", image)
    loaded = config.load("cnn:raabin", {"data.root": str(tmp_path)})
    data = make_dataset(loaded.data)
    protocol = loaded.split.protocol
    split = make_split(data.manifest, protocol, 0, official_parts=data.official_parts)
    part_of = {"TestA": {"test"}, "TestB": {""}, "Train": {"train", "val"}}
    for phase, parts in part_of.items():
        assert set(split.part[data.manifest.phase == phase]) == parts


def test_bloodmnist(tmp_path):
    arrays = {}
    for part, count in {"train": 24, "val": 8, "test": 16}.items():
        arrays[f"{part}_images"] = np.stack([cell(100 * count + k, 28) for k in range(count)])
        arrays[f"{part}_labels"] = (np.arange(count) % 8)[:, None].astype(np.uint8)
    np.savez(tmp_path / "bloodmnist.npz", **arrays)
    loaded = config.load("cnn:bloodmnist", {"data.root": str(tmp_path / "bloodmnist.npz")})
    assert loaded.data.image_size == 28
    assert loaded.split.protocol == "auto"
    data = make_dataset(loaded.data)
    assert data.name == "bloodmnist"
    assert data.classes[0] == "basophil"
    assert data.classes[7] == "platelet"
    assert any("48 images, 17,092 are published" in text for text in texts(data))
    split = make_split(data.manifest, "auto", 0, official_parts=data.official_parts)
    assert Counter(split.part.tolist()) == {"train": 24, "val": 8, "test": 16}
    np.savez(tmp_path / "other.npz", images=arrays["val_images"], labels=np.arange(8) + 1)
    with pytest.raises(UserError, match=r"data\.root: .* is not laid out as BloodMNIST"):
        load("bloodmnist", tmp_path / "other.npz")


def test_wbcbench_with_another_class(tmp_path):
    plant(tmp_path, ["0.jpg", "1.jpg"])
    write(tmp_path / "t.csv", "ID,labels\n0,BA\n1,XX\n")
    with pytest.raises(UserError, match=r"data\.table: .* 'XX' is none of its classes BA, BL"):
        load("wbcbench", tmp_path)


@pytest.mark.parametrize("name", [*PRESETS, "bloodmnist"])
def test_published_counts_add_up(name):
    module = __import__(f"leukjax.data.datasets.{name}", fromlist=[name])
    (published,) = (
        value.published
        for value in vars(module).values()
        if isinstance(getattr(value, "published", None), Published)
    )
    assert published.name == name
    assert "doi" in published.citation or "arXiv" in published.citation
    if all(published.classes.values()):
        assert sum(published.classes.values()) == published.images


def test_counts_as_published():
    published = Published("x", "X", 3, {"a": 1, "b": 2}, "C.", licence="L")
    entries = [Entry(str(k), "", label, str(k)) for k, label in enumerate((0, 1, 1))]
    first, second = published.notes(entries, ("a", "b"), True)
    assert str(first) == "X: 3 images as published (a 1, b 2)"
    assert str(second) == "X: licence L; cite C."
    swapped = published.notes(entries, ("b", "a"), True)[0]
    assert str(swapped) == (
        "WARNING: X: 3 images, 3 are published: a 2 (published: 1), b 1 (published: 2)"
    )
    assert bone_marrow.BoneMarrow.published.people == 945
