"""NumPy archives of images: both layouts, packed or not, and what is wrong with others."""

import zipfile

import numpy as np
import pytest
from trees import cell, texts

from leukjax import config
from leukjax.data.datasets import make_dataset
from leukjax.data.datasets.npz import Npz
from leukjax.data.split import make_split
from leukjax.errors import UserError


def images(count, start=0):
    return np.stack([cell(start + seed, 28) for seed in range(count)])


@pytest.fixture(params=["savez", "savez_compressed"])
def medmnist(request, tmp_path):
    """As MedMNIST's files: three parts, labels [n, 1]."""
    path = tmp_path / "bloodmnist.npz"
    arrays = {}
    for start, (part, count) in enumerate({"train": 24, "val": 9, "test": 12}.items()):
        arrays[f"{part}_images"] = images(count, 100 * start)
        arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None].astype(np.uint8)
    getattr(np, request.param)(path, **arrays)
    return path, arrays


def test_the_layout_of_medmnist(medmnist, tmp_path, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path / "cache"))
    path, arrays = medmnist
    data = make_dataset(config.load("cnn:npz", {"data.root": str(path)}).data)
    assert len(data) == 45
    assert data.classes == ("0", "1", "2")
    assert data.background == "black"
    assert not data.subjects_known
    assert any("no groups" in text for text in texts(data))
    manifest = data.manifest
    split = make_split(manifest, "auto", 0, official_parts=data.official_parts)
    assert split.protocol == "official"
    for part in ("train", "val", "test"):
        rows = split.rows(part)
        records = data.prepare(28)
        np.testing.assert_array_equal(records.images(rows), arrays[f"{part}_images"])
        np.testing.assert_array_equal(manifest.label[rows], arrays[f"{part}_labels"][:, 0])


@pytest.mark.parametrize(
    ("labels", "more", "classes"),
    [
        (np.arange(12) % 2, {}, ("0", "1")),
        (np.arange(12) % 2 + 4, {}, ("4", "5")),
        (np.array(["blast", "normal"] * 6), {}, ("blast", "normal")),
        (np.arange(12) % 2, {"classes": np.array(["b", "a"])}, ("b", "a")),
        (np.array(["b", "a"] * 6), {"classes": np.array(["b", "a"])}, ("b", "a")),
    ],
)
def test_plain_arrays(tmp_path, labels, more, classes):
    path = tmp_path / "cells.npz"
    grey = images(12)[..., 0]
    np.savez(path, images=grey, labels=labels, groups=np.arange(12) // 2, **more)
    data = Npz(path)
    assert data.classes == classes
    assert data.subjects_known
    assert [entry.subject for entry in data.entries[:4]] == ["0", "0", "1", "1"]
    first = data.image(data.entries[3])
    np.testing.assert_array_equal(first, np.repeat(grey[3][:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"has no images; it holds x, and needs images and labels"),
        ({"images": images(4)}, "has no array labels"),
        ({"images": images(4), "labels": np.arange(3)}, r"images is uint8\[4, 28, 28, 3\]"),
        ({"images": images(4) / 255, "labels": np.arange(4)}, "images are uint8"),
        ({"images": images(4), "labels": np.arange(4) * 0.5}, "labels are whole numbers or text"),
        ({"images": images(4), "labels": np.zeros(4, int)}, "not two or more different names"),
        (
            {"images": images(4), "labels": np.arange(4) % 2, "groups": np.arange(3)},
            "groups are 4 whole numbers",
        ),
        (
            {"images": images(4), "labels": np.arange(4), "classes": np.array(["a", "b"])},
            "the label 2 is not a class",
        ),
        ({"images": images(4), "labels": np.array([None] * 4)}, "holds objects"),
        ({"images": np.asfortranarray(images(4)), "labels": np.arange(4)}, "not in C order"),
        ({"images": images(4), "labels": np.array(1)}, "labels is one value"),
        ({"images": images(4)[:, :0], "labels": np.arange(4) % 2}, r"images are uint8\[4, h, w"),
        (
            {
                "train_images": images(2),
                "train_labels": np.array(["a", "b"]),
                "test_images": images(2),
                "test_labels": np.arange(2),
            },
            "text in one part, numbers in another",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, arrays, message):
    path = tmp_path / "cells.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        Npz(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_changed_bytes_are_read_or_refused(tmp_path, save):
    path = tmp_path / "cells.npz"
    save(path, images=images(8), labels=np.arange(8) % 2, groups=np.arange(8) // 2)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for place in rng.integers(0, len(whole), 60).tolist():
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            data = Npz(path)
            data.image(data.entries[0])
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(text.startswith("root: ") and "\n" not in text for text in messages)


def test_damaged_files(tmp_path):
    path = tmp_path / "cells.npz"
    np.savez(path, images=images(8), labels=np.arange(8) % 2)
    whole = path.read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"root: .*cells\.npz"):
            Npz(path)
    with pytest.raises(UserError, match="cannot be read"):
        Npz(tmp_path / "nowhere.npz")
    # A header that claims more than the member holds.
    with zipfile.ZipFile(path, "w") as archive:
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 99, 99, 3)}"
        text = header.ljust(117).encode() + b"\n"
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00v\x00" + text)
    with pytest.raises(UserError, match=r"images\.npy is cut off"):
        Npz(path)
