"""The scan: what it measures, keeps and reports."""

import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from trees import cell, data_config, encode, texts, write, zip_folder

from leukjax.data import archive
from leukjax.data.dataset import FileDataset
from leukjax.data.datasets import image_folder
from leukjax.data.decode import BadImage
from leukjax.data.manifest_builder import conflicting_labels, scan
from leukjax.data.source import Skipped
from leukjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    for number in range(6):
        kind = "ab"[number % 2]
        write(tmp_path / "root" / kind / f"{number}.bmp", encode(cell(number)))
    return tmp_path / "root"


def make(root, **fields):
    return image_folder.make(data_config(root, **fields))


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


def reads(monkeypatch) -> list[str]:
    """Ids of the images that are decoded (not those whose bytes alone are read) from here on."""
    seen, load = [], FileDataset.load

    def counted(self, entry):
        seen.append(entry.id)
        return load(self, entry)

    monkeypatch.setattr(FileDataset, "load", counted)
    return seen


def test_a_second_start_decodes_no_image(root, tmp_path, monkeypatch):
    first = make(root)
    m, _ = scan(first, tmp_path / "cache", 2, "error")
    decoded = reads(monkeypatch)
    second = make(root)
    again, _ = scan(second, tmp_path / "cache", 2, "error")
    assert decoded == []
    assert again.checksum() == m.checksum()
    np.testing.assert_array_equal(again.phash, m.phash)
    assert texts(second) == texts(first)


def same_stamps(monkeypatch) -> None:
    """Stamps as a file system may give them that has no inodes and times of one second or none."""
    monkeypatch.setattr(archive, "_stamp", lambda status: (status.st_size,))


def test_a_second_copy_is_scanned_by_itself(root, tmp_path, monkeypatch):
    """All files of C-NMC have one size, and an archive sets one time."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    write(copy / "a" / "0.bmp", encode(cell(77)))
    for path in [*root.rglob("*.bmp"), *copy.rglob("*.bmp")]:
        os.utime(path, ns=(0, 0))
    same_stamps(monkeypatch)
    monkeypatch.setattr("leukjax.data.manifest_builder._SAMPLE", 0)
    first, _ = scan(make(root), tmp_path / "cache", 2, "error")
    second, _ = scan(make(copy), tmp_path / "cache", 2, "error")
    assert first.sha256[0] != second.sha256[0]
    assert second.sha256[0] == hashlib.sha256((copy / "a" / "0.bmp").read_bytes()).hexdigest()


def test_a_file_with_an_old_time_and_the_same_size_is_read_again(root, tmp_path, monkeypatch):
    monkeypatch.setattr("leukjax.data.manifest_builder._SAMPLE", 0)
    os.utime(root / "a" / "0.bmp", ns=(0, 0))
    first, _ = scan(make(root), tmp_path / "cache", 2, "error")
    write(root / "a" / "0.bmp", encode(cell(77)))
    os.utime(root / "a" / "0.bmp", ns=(0, 0))
    second, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert first.sha256[0] != second.sha256[0]


def test_a_zip_with_an_old_time_and_the_same_size_is_read_again(root, tmp_path):
    path = zip_folder(root, tmp_path / "all.zip")
    os.utime(path, ns=(0, 0))
    before = make(path).stat_key()
    assert make(path).stat_key() == before
    path.write_bytes(path.read_bytes())  # an image in it and its CRC might be others now
    os.utime(path, ns=(0, 0))
    assert make(path).stat_key() != before


def test_a_sample_is_compared_at_every_start(root, tmp_path, monkeypatch, caplog):
    same_stamps(monkeypatch)
    old, _ = scan(make(root), tmp_path / "cache", 2, "error")
    write(root / "a" / "0.bmp", encode(cell(77)))
    new, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert "was made of another a/0.bmp: reading all images again" in caplog.text
    assert new.sha256[0] != old.sha256[0]
    assert new.checksum() != old.checksum()


def test_the_sample_is_another_one_at_every_start(root, tmp_path, monkeypatch):
    """One changed file of six, a sample of one: found by some starts, not by all."""
    same_stamps(monkeypatch)
    monkeypatch.setattr("leukjax.data.manifest_builder._SAMPLE", 1)
    scan(make(root), tmp_path / "cache", 2, "error")
    write(root / "a" / "0.bmp", encode(cell(77)))
    decoded, read = reads(monkeypatch), 0
    for _ in range(100):
        scan(make(root), tmp_path / "cache", 2, "error")
        read += 1
        if decoded:
            break
    assert len(decoded) == 6
    assert read < 100  # by chance one in 10^8


def test_names_with_line_ends_and_commas_are_kept(tmp_path, monkeypatch):
    root = tmp_path / "root"
    for number, name in enumerate(["a\r.bmp", 'b\n".bmp', "c,;.bmp", " ä\u2028.bmp"]):
        write(root / "xy"[number % 2] / name, encode(cell(number)))
    m, _ = scan(make(root), tmp_path / "cache", 2, "error")
    decoded = reads(monkeypatch)
    again, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert decoded == []
    assert again.checksum() == m.checksum()


def rewrite(cache, change) -> None:
    """Alters a cached scan as someone would who knows the checksum beside it."""
    (table,) = (cache / "scans").glob("*.csv")
    table.write_text(change(table.read_text()))
    side = json.loads(table.with_suffix(".json").read_text())
    side["sha256"] = hashlib.sha256(table.read_bytes()).hexdigest()
    table.with_suffix(".json").write_text(json.dumps(side))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("a/0.bmp,a/0.bmp,0,", "a/0.bmp,a/0.bmp,1,"),
        lambda text: text.replace("a/0.bmp,a/0.bmp,0,", "a/0.bmp,b/1.bmp,0,"),
        lambda text: text.replace("0,a/0.bmp,a/0.bmp,", "0,b/1.bmp,b/1.bmp,"),  # subject, group
        lambda text: text.replace("0,a/0.bmp,a/0.bmp,", "0,a/0.bmp,b/1.bmp,"),  # group alone
        lambda text: text.replace(",,", ",fold_0,"),
        lambda text: text.replace('["a", "b"]', '["b", "a"]'),
        lambda text: "\n".join(text.split("\n")[:-2]) + "\n",
        lambda text: text.replace("a/0.bmp,a/0.bmp,0,", "a/9.bmp,a/0.bmp,0,"),
    ],
    ids=["label", "path", "subject", "group", "phase", "classes", "row", "id"],
)
def test_a_cached_scan_does_not_say_what_an_image_is(root, tmp_path, caplog, change):
    m, _ = scan(make(root), tmp_path / "cache", 2, "error")
    rewrite(tmp_path / "cache", change)
    again, _ = scan(make(root), tmp_path / "cache", 2, "error")
    assert "reading all images again" in caplog.text
    assert again.checksum() == m.checksum()
    for column in ("id", "path", "label", "subject", "group", "phase", "sha256", "pixels"):
        assert getattr(again, column).tolist() == getattr(m, column).tolist(), column


def test_a_cached_scan_does_not_leave_a_good_image_out(root, tmp_path, caplog):
    m, _ = scan(make(root), tmp_path / "cache", 2, "skip")
    rewrite(tmp_path / "cache", lambda text: "\n".join(text.split("\n")[:-2]) + "\n")
    (side,) = (tmp_path / "cache" / "scans").glob("*.json")
    content = json.loads(side.read_text())
    content["skipped"] = [{"id": "b/5.bmp", "path": "b/5.bmp", "reason": "unwelcome"}]
    side.write_text(json.dumps(content))
    again, skipped = scan(make(root), tmp_path / "cache", 2, "skip")
    assert "reading all images again" in caplog.text
    assert again.checksum() == m.checksum()
    assert skipped == []


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


@pytest.mark.parametrize("damage", ["cut", "flip", "no side file", "bad side file", "pipe"])
def test_a_damaged_scan_is_made_again(root, tmp_path, damage):
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
    elif damage == "pipe":  # it must not be waited for
        table.unlink()
        os.mkfifo(table)
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
        assert any(n.startswith("WARNING: 1 of 6 images") for n in texts(source))
    with pytest.raises(BadImage):
        scan(make(root), tmp_path / "cache", 2, "error")


def test_a_class_that_loses_all_its_images(root, tmp_path):
    for number in (1, 3, 5):
        write(root / "b" / f"{number}.bmp", b"nothing")
    with pytest.raises(UserError, match="no image of b can be decoded"):
        scan(make(root), tmp_path / "cache", 2, "skip")


def test_identical_images_with_different_labels_are_reported(root, tmp_path):
    write(root / "b" / "1.bmp", encode(cell(0)))
    write(root / "b" / "3.png", encode(cell(2), "PNG"))
    source = make(root)
    m, _ = scan(source, tmp_path / "cache", 2, "error")
    assert conflicting_labels(m) == [["a/0.bmp", "b/1.bmp"], ["a/2.bmp", "b/3.png"]]
    (note,) = [n for n in texts(source) if "DIFFERENT labels" in n]
    assert note.startswith("WARNING: 2 sets")
    group = dict(zip(m.id.tolist(), m.group.tolist(), strict=True))
    assert group["a/0.bmp"] == group["b/1.bmp"]
    assert group["a/2.bmp"] == group["b/3.png"]  # by pixels, for the bytes differ


def test_conversions_are_counted(root, tmp_path):
    write(root / "a" / "grey.png", encode(cell(8)[..., 0], "PNG"))
    write(root / "b" / "grey.png", encode(cell(9)[..., 0], "PNG"))
    source = make(root)
    scan(source, tmp_path / "cache", 2, "error")
    assert "converted to 8-bit RGB (grey: 2 images)" in texts(source)


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path, caplog):
    write(tmp_path / "file", "x")
    m, _ = scan(make(root), tmp_path / "file", 2, "error")
    assert len(m) == 6
    assert "data.cache_dir: the scan cannot be kept in" in caplog.text
    assert [path.name for path in tmp_path.iterdir() if path.name != "root"] == ["file"]


def test_a_source_needs_no_more_than_the_abstract_methods(root, tmp_path):
    """A data set without files defines `image` only."""
    inner = make(root)
    fields = {f.name: getattr(inner, f.name) for f in dataclasses.fields(inner) if f.init}

    class Plain(FileDataset):
        def image(self, entry):
            return inner.image(entry)

        def load(self, entry):
            return super(FileDataset, self).load(entry)

    m, _ = scan(Plain(**fields), tmp_path / "cache", 1, "error")
    assert len(m) == 6
