"""The scan: what it measures, keeps and says."""

import dataclasses
import hashlib

import numpy as np
import pytest
from trees import cell, data_config, encode, write

from leukjax.data import image_folder
from leukjax.data.decode import BadImage
from leukjax.data.scan import conflicting_labels, scan
from leukjax.data.source import FileSource, Skipped
from leukjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    for number in range(6):
        kind = "ab"[number % 2]
        write(tmp_path / "root" / kind / f"{number}.bmp", encode(cell(number)))
    return tmp_path / "root"


def make(root, **fields):
    return image_folder.source(data_config(root, **fields))


def test_columns(root, tmp_path):
    source = make(root)
    m, skipped = scan(source, tmp_path / "cache", 2, "error")
    assert skipped == []
    assert m.id.tolist() == sorted(m.id.tolist())
    assert m.id.tolist() == ["a/0.bmp", "a/2.bmp", "a/4.bmp", "b/1.bmp", "b/3.bmp", "b/5.bmp"]
    assert m.label.tolist() == [0, 0, 0, 1, 1, 1]
    assert m.group.tolist() == m.subject.tolist() == m.id.tolist()
    for row, seed in enumerate([0, 2, 4, 1, 3, 5]):
        content = (root / m.path[row]).read_bytes()
        assert m.sha256[row] == hashlib.sha256(content).hexdigest()
        assert m.area[row] == pytest.approx((cell(seed) > 0).any(axis=2).mean())


def test_a_second_start_reads_no_image(root, tmp_path, monkeypatch):
    first = make(root)
    m, _ = scan(first, tmp_path / "cache", 2, "error")

    def load(self, entry):
        raise AssertionError("read again")

    monkeypatch.setattr(FileSource, "load", load)
    second = make(root)
    again, _ = scan(second, tmp_path / "cache", 2, "error")
    assert again.checksum() == m.checksum()
    np.testing.assert_array_equal(again.phash, m.phash)
    assert second.notes == first.notes


def test_a_changed_file_is_read_again(root, tmp_path):
    m, _ = scan(make(root), tmp_path / "cache", 2, "error")
    write(root / "a" / "0.bmp", encode(cell(77)))
    changed, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert changed.pixels[0] != m.pixels[0]
    assert changed.checksum() != m.checksum()
    assert (changed.pixels[1:] == m.pixels[1:]).all()


def test_other_subjects_are_another_scan(root, tmp_path):
    scan(make(root), tmp_path / "cache", 2, "error")
    m, _ = scan(make(root, subject_pattern=r"^(\w)/"), tmp_path / "cache", 2, "error")
    assert set(m.subject.tolist()) == {"a", "b"}


@pytest.mark.parametrize("damage", ["cut", "flip", "no side file", "bad side file"])
def test_a_damaged_scan_is_made_anew(root, tmp_path, damage):
    m, _ = scan(make(root), tmp_path / "cache", 2, "error")
    (table,) = (tmp_path / "cache" / "scans").glob("*.csv")
    side = table.with_suffix(".json")
    content = table.read_bytes()
    if damage == "cut":
        table.write_bytes(content[:-30])
    elif damage == "flip":
        table.write_bytes(content.replace(b",0,", b",1,", 1))
    elif damage == "no side file":
        side.unlink()
    else:
        side.write_text("{")
    again, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert again.checksum() == m.checksum()
    assert table.read_bytes() == content


def test_a_bad_image_stops_or_is_skipped(root, tmp_path):
    write(root / "b" / "1.bmp", b"")
    with pytest.raises(BadImage, match=r"b/1\.bmp: has no bytes"):
        scan(make(root), tmp_path / "cache", 2, "error")
    for _ in range(2):  # the second time from what was kept
        source = make(root)
        m, skipped = scan(source, tmp_path / "cache", 2, "skip")
        assert "b/1.bmp" not in m.id
        assert len(m) == 5
        assert [(s.id, s.path) for s in skipped] == [("b/1.bmp", "b/1.bmp")]
        assert isinstance(skipped[0], Skipped)
        assert any(n.startswith("WARNING: 1 of 6 images") for n in source.notes)
    with pytest.raises(BadImage):
        scan(make(root), tmp_path / "cache", 2, "error")


def test_a_class_that_loses_all_its_images(root, tmp_path):
    for number in (1, 3, 5):
        write(root / "b" / f"{number}.bmp", b"nothing")
    with pytest.raises(UserError, match="no image of b can be decoded"):
        scan(make(root), tmp_path / "cache", 2, "skip")


def test_identical_images_with_different_labels_are_said_loudly(root, tmp_path):
    write(root / "b" / "1.bmp", encode(cell(0)))
    write(root / "b" / "3.png", encode(cell(2), "PNG"))
    source = make(root)
    m, _ = scan(source, tmp_path / "cache", 2, "error")
    assert conflicting_labels(m) == [["a/0.bmp", "b/1.bmp"], ["a/2.bmp", "b/3.png"]]
    (note,) = [n for n in source.notes if "DIFFERENT labels" in n]
    assert note.startswith("WARNING: 2 sets")
    group = dict(zip(m.id.tolist(), m.group.tolist(), strict=True))
    assert group["a/0.bmp"] == group["b/1.bmp"]
    assert group["a/2.bmp"] == group["b/3.png"]  # by pixels, for the bytes differ


def test_conversions_are_counted(root, tmp_path):
    write(root / "a" / "grey.png", encode(cell(8)[..., 0], "PNG"))
    write(root / "b" / "grey.png", encode(cell(9)[..., 0], "PNG"))
    source = make(root)
    scan(source, tmp_path / "cache", 2, "error")
    assert "converted to 8-bit RGB (grey: 2 images)" in source.notes


def test_a_cache_that_cannot_be_written(root, tmp_path):
    write(tmp_path / "file", "x")
    with pytest.raises(UserError, match=r"data\.cache_dir: .*file"):
        scan(make(root), tmp_path / "file", 2, "error")


def test_a_source_needs_no_more_than_the_abstract_methods(root, tmp_path):
    """Drawn sources define read, image and stat_key only."""
    inner = make(root)
    fields = {f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)}

    class Plain(FileSource):
        def image(self, entry):
            return inner.image(entry)

        def load(self, entry):
            return super(FileSource, self).load(entry)

    m, _ = scan(Plain(**fields), tmp_path / "cache", 1, "error")
    assert len(m) == 6
