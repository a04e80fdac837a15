"""Parquet files of images: the forms of a column, several files, bounds, and what is wrong."""

import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import cell, encode, texts, write

import leukjax as lj
from leukjax import config
from leukjax.data import parquet_file
from leukjax.data.datasets import make_dataset, parquet
from leukjax.data.datasets.image_folder import ImageFolder
from leukjax.data.datasets.parquet import Parquet
from leukjax.data.decode import BadImage
from leukjax.data.split import make_split
from leukjax.errors import UserError

LABELS = [n // 2 % 2 for n in range(12)]
SUBJECTS = [f"p{n // 2}" for n in range(12)]


def pngs(count=12):
    return [encode(cell(number), "PNG") for number in range(count)]


def images(values, kind="struct"):
    if kind == "struct":
        rows = [None if value is None else {"bytes": value, "path": "x.png"} for value in values]
        return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.array(values, {"binary": pa.binary(), "large": pa.large_binary()}[kind])


def save(path, columns, *, names=None, **options):
    """Writes a file, with names of classes as the library `datasets` does."""
    table = pa.table(columns)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def columns(kind="struct", labels=LABELS, **more):
    return {"image": images(pngs(), kind), "label": labels, "patient_id": SUBJECTS, **more}


@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
@pytest.mark.parametrize("rows", [12, 5, 1])
def test_the_same_images_as_in_a_folder(tmp_path, kind, rows):
    """Labels, subjects and pixels, in the order of the rows, with row groups of any size."""
    path = save(tmp_path / "cells.parquet", columns(kind), names=["blast", "normal"],
                row_group_size=rows)  # fmt: skip
    data = Parquet(path)
    assert data.classes == ("blast", "normal")
    assert data.subjects_known
    assert data.background == "black"
    manifest = data.manifest
    assert manifest.id.tolist() == [f"cells.parquet/{n:07d}" for n in range(12)]
    assert manifest.label.tolist() == LABELS
    assert manifest.subject.tolist() == SUBJECTS
    for number, png in enumerate(pngs()):
        kind = ("blast", "normal")[LABELS[number]]
        write(tmp_path / "folder" / kind / f"{SUBJECTS[number]}_{number:02d}.png", png)
    folder = ImageFolder(tmp_path / "folder", subject=r"(p\d)_").manifest
    # Sorted by class in the folder.
    order = np.argsort(LABELS, kind="stable")
    for column in ("label", "subject", "sha256", "pixels", "phash", "area"):
        np.testing.assert_array_equal(getattr(manifest, column)[order], getattr(folder, column))


def test_files_with_the_names_of_parts_are_the_official_split(tmp_path):
    for number, name in enumerate(("test-0", "train-00000-of-00002", "train-00001-of-00002",
                                   "validation-0")):  # fmt: skip
        part = {name: values[3 * number : 3 * number + 3] for name, values in columns().items()}
        part |= {"label": [0, 1, 0], "patient_id": [name] * 3}
        save(tmp_path / "data" / f"{name}.parquet", part, names=["a", "b"])
    write(tmp_path / "README.md", "x")
    section = config.load("cnn:parquet", {"data.root": str(tmp_path)}).data
    data = make_dataset(section)
    assert data.official_parts == {part: part for part in ("train", "val", "test")}
    assert data.entries[0].id == "data/test-0.parquet/0000000"
    split = make_split(data.manifest, "auto", 0, official_parts=data.official_parts)
    assert split.protocol == "official"
    assert [(split.part == part).sum() for part in ("train", "val", "test")] == [6, 3, 3]


def test_columns_and_attributes(tmp_path):
    more = {
        "mask": images(pngs(), "binary"),
        "grade": pa.array(["low", None, "high", "low"] * 3).dictionary_encode(),
        "fold": [n // 4 for n in range(12)],
        "hospital": ["A", "B"] * 6,
        "age": [30.0, 40.5, None, float("nan")] * 3,
        "note": [[n] for n in range(12)],
    }
    path = save(tmp_path / "cells.parquet", columns(**more))
    data = Parquet(path)
    assert data.classes == ("0", "1")
    assert [entry.phase for entry in data.entries[::4]] == ["0", "1", "2"]
    assert data.official_parts == {}
    assert list(data.attributes) == ["grade", "source", "age"]
    assert data.attributes["age"]["cells.parquet/0000001"] == "40.5"
    assert data.attributes["age"]["cells.parquet/0000003"] == ""
    data = Parquet(path, columns="path=mask, label=grade, subject=")
    assert data.classes == ("high", "low")
    assert [entry.label for entry in data.entries[:4]] == [1, -1, 0, 1]
    assert not data.subjects_known
    assert any("label from grade" in text and "image from mask" in text for text in texts(data))
    section = config.load("cnn:parquet", data.config_fields).data
    assert make_dataset(section).manifest.checksum() == data.manifest.checksum()
    assert lj.Parquet is Parquet


def test_rows_without_an_image_or_a_label(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_process", None)
    rows = pngs()
    rows[3], rows[4] = None, b"no image"
    path = save(tmp_path / "cells.parquet",
                {"image": images(rows), "label": [-1, *LABELS[1:]]}, names=["a", "b"])  # fmt: skip
    data = Parquet(path, bad_images="skip")
    assert data.entries[0].label == -1
    assert len(data.manifest) == 10
    reasons = [skipped.reason for skipped in data.skipped]
    assert reasons[0] == "cells.parquet[3]: holds no image: remove the row"
    assert "cells.parquet[4]" in reasons[1]
    with pytest.raises(BadImage, match=r"cells\.parquet\[3\]"):
        _ = Parquet(path).manifest


def test_images_are_read_in_batches_and_few_are_kept(tmp_path, monkeypatch):
    """A file of one row group of 2,000 images: each is read once, from several threads in order."""
    png = encode(cell(0, 16), "PNG")
    count = 2000
    path = save(tmp_path / "cells.parquet",
                {"image": images([png] * count, "binary"), "label": [0, 1] * (count // 2)},
                use_dictionary=False)  # fmt: skip
    asked = []
    read_images = parquet_file.read_images
    monkeypatch.setattr(
        parquet_file, "read_images", lambda *request: asked.append(request) or read_images(*request)
    )
    monkeypatch.setattr(parquet, "_KEPT", 2)
    data = Parquet(path)
    asked.clear()
    assert all(data.read(entry) == png for entry in data.entries)
    assert len(asked) == -(-count // 256)
    assert len(data._batches) == 2
    # Backwards works as well, and so do threads.
    assert data.read(data.entries[0]) == png
    threads = [threading.Thread(target=data.read, args=(entry,)) for entry in data.entries[:50]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(asked) <= -(-count // 256) + 1


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"image": ["a.png"] * 12}, {}, "has no column of images; its columns are image, label"),
        ({"label": None}, {}, "has no column of labels"),
        ({"label": [0] * 12}, {}, "has 1 class; it needs two"),
        ({"label": [0, 7] * 6}, {}, "column label: 7 is none of its 2 classes"),
        ({"label": [0, -5] * 6}, {}, "is none of its 2 classes"),
        ({"label": ["x" * 200_000, "a"] * 6}, {}, "a value has more than 131,072 characters"),
        ({}, {"columns": "label=grade"}, "columns: the table has no column 'grade'; it has label"),
        ({}, {"columns": "path=label"}, "columns: the table has no column 'label'; it has image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, more, options, message):
    content = {name: values for name, values in (columns() | more).items() if values is not None}
    path = save(tmp_path / "cells.parquet", content, names=["a", "b"])
    with pytest.raises(UserError, match=message) as caught:
        Parquet(path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_files_that_do_not_fit_together_and_other_roots(tmp_path):
    save(tmp_path / "a.parquet", columns())
    save(tmp_path / "b.parquet", columns(site=["x"] * 12))
    with pytest.raises(UserError, match=r"b\.parquet and a\.parquet differ in the column site"):
        Parquet(tmp_path)
    with pytest.raises(UserError, match=r"holds 0 \.parquet files"):
        Parquet(write(tmp_path / "e" / "x", "").parent)
    with pytest.raises(UserError, match=r"root: .*nowhere\.parquet cannot be read \(No such file"):
        Parquet(tmp_path / "nowhere.parquet")
    with pytest.raises(UserError, match=r"data\.root: give the \.parquet file"):
        make_dataset(config.load("cnn:parquet").data)


def test_changed_bytes_are_read_or_refused(tmp_path):
    path = save(tmp_path / "cells.parquet", columns(), row_group_size=5)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for place in [
        *rng.integers(0, len(whole), 20),
        *rng.integers(len(whole) - 1500, len(whole), 40),
    ]:
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            data = Parquet(path, bad_images="skip")
            for entry in data.entries:
                data.read(entry)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(text.startswith("root: ") and "\n" not in text for text in messages)
    for content in (b"", b"PAR1", whole[:500], b"PAR1" * 9):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"root: .*cells\.parquet cannot be read"):
            Parquet(path)


def test_a_file_that_asks_for_gigabytes_is_refused_and_the_next_is_read(tmp_path, monkeypatch):
    """30 MB in a dictionary, repeated in 100,000 rows: a file of 100 kB that holds terabytes."""
    value = pa.array([bytes(30_000_000)], pa.binary())
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), value)
    path = save(tmp_path / "bomb.parquet", {"image": repeated, "label": [0, 1] * 50_000},
                compression="zstd", store_schema=False, write_statistics=False)  # fmt: skip
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(parquet_file, "MAX_BYTES", 2**30)
    with pytest.raises(UserError, match=r"bomb\.parquet (takes more than|cannot be read)"):
        Parquet(path)
    assert len(Parquet(save(tmp_path / "cells.parquet", columns())).manifest) == 12


def test_reading_a_file_executes_nothing(tmp_path):
    """A type that older versions of pyarrow unpickled is read as what it is stored as."""
    schema = pa.schema([
        pa.field("image", pa.binary()),
        pa.field("label", pa.string(), metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran")
            + b"'\ntR.",
        }),
    ])  # fmt: skip
    table = pa.table([images(pngs(), "binary"), pa.array(["a", "b"] * 6)], schema)
    pq.write_table(table, tmp_path / "cells.parquet")
    assert Parquet(tmp_path / "cells.parquet").classes == ("a", "b")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["MAX_ROWS", "MAX_CELLS"])
def test_sizes_are_bounded(tmp_path, monkeypatch, name):
    from leukjax.data import columns as module

    path = save(tmp_path / "cells.parquet", columns())
    monkeypatch.setattr(parquet if name == "MAX_ROWS" else module, name, 10)
    with pytest.raises(UserError, match=r"root: .*12 rows; 1 to 10 are|more than 10 values"):
        Parquet(path)


def test_real_cells_give_the_split_and_pixels_of_their_folder(shared, tmp_path):
    """Three files of cells in the order of the folder: subjects, split and images are the same."""
    folder = ImageFolder(shared / "data" / "bccd_cells", subject=r"(BloodImage_\d+)")
    entries = sorted(folder.entries, key=lambda entry: entry.id)[::4]
    for number in range(3):
        some = entries[number::3]
        content = {
            "image": images([folder.read(entry) for entry in some]),
            "label": [entry.label for entry in some],
            "subject": [entry.subject for entry in some],
        }
        save(tmp_path / f"part-{number}.parquet", content, names=list(folder.classes),
             row_group_size=50)  # fmt: skip
    data = Parquet(tmp_path)
    assert data.classes == folder.classes
    assert data.background == folder.background
    assert data.official_parts == {}
    manifest = data.manifest
    folder.entries = entries
    there = folder.scan(str(tmp_path / "cache"))
    order, other = np.argsort(manifest.sha256), np.argsort(there.sha256)
    for column in ("label", "subject", "group", "sha256", "pixels"):
        np.testing.assert_array_equal(
            getattr(manifest, column)[order], getattr(there, column)[other]
        )
    parts = [make_split(m, "subject", 3).part for m in (manifest, there)]
    np.testing.assert_array_equal(parts[0][order], parts[1][other])
