"""Groups where subjects are not known: blocks with an embargo, and near duplicates."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from test_split import manifest
from tiny_source import tiny_records, tiny_source

from leukjax import config
from leukjax.data.groups import blocks, joined_near_duplicates, regrouped, with_embargo
from leukjax.data.split import HELD_OUT, PARTS, Split, crossing_groups, make_split
from leukjax.errors import UserError
from leukjax.report.provenance import About


def folders(count=60):
    """Images 1.png, 2.png, … of two folders, their classes, shuffled; each its own group."""
    ids = [f"{folder}/{k + 1}.png" for folder in "ab" for k in range(count)]
    m = manifest(ids, [0] * count + [1] * count, ids=ids)
    return m.take(np.random.default_rng(0).permutation(2 * count))


def by_number(m, folder):
    rows = [row for row, id in enumerate(m.id.tolist()) if id.startswith(folder)]
    return sorted(rows, key=lambda row: int(m.id[row][2:-4]))


def test_blocks_are_consecutive_numbers_of_a_folder():
    m = folders(25)
    group = blocks(m, 10, {})
    for folder in "ab":
        assert group[by_number(m, folder)].tolist() == (
            [f"{folder} block 1"] * 10 + [f"{folder} block 2"] * 10 + [f"{folder} block 3"] * 5
        )


def test_no_block_has_images_of_two_sources_or_parts():
    ids = [f"{k}" for k in range(8)]
    m = manifest(ids, [0] * 8, ["train"] * 4 + ["test"] * 4, ids=ids)
    group = blocks(m, 10, {id: "uv"[k % 2] for k, id in enumerate(ids)})
    assert len(set(group.tolist())) == 4
    assert group[0] == group[2] == "u train block 1"


def test_identical_images_join_blocks():
    m = folders(25)
    same = [by_number(m, "a")[0], by_number(m, "a")[24]]
    m.sha256[same] = "same"
    group = blocks(m, 10, {})
    assert group[same].tolist() == ["a block 1+a block 3"] * 2


@pytest.mark.parametrize("protocol", ["subject", "kfold"])
def test_images_beside_a_boundary_between_parts_are_not_used(protocol):
    m = folders()
    m = dataclasses.replace(m, group=blocks(m, 5, {}))
    before = make_split(m, protocol, 0)
    split = with_embargo(m, before, "blocks:5", {})
    assert crossing_groups(m, split) == []
    for folder in "ab":
        rows = by_number(m, folder)
        parts, used = before.part[rows], split.part[rows]
        boundaries = np.flatnonzero(parts[:-1] != parts[1:])
        assert len(boundaries)
        expected = {*boundaries.tolist(), *(boundaries + 1).tolist()}
        assert set(np.flatnonzero(used == "").tolist()) == expected
    assert split.notes[-1].text.startswith(f"embargo: {(split.part == '').sum()} images")


def test_what_is_given_or_held_out_is_kept():
    m = folders(6)
    part = np.array(["train"] * 12, "<U8")
    part[by_number(m, "a")[3:]] = "test"
    given = Split(part, "given")
    assert with_embargo(m, given, "blocks:3", {}) is given
    part = np.array([*PARTS] * 4, "<U8")
    part[by_number(m, "a")] = ["train", "val", "test", "train", HELD_OUT, HELD_OUT]
    part[by_number(m, "b")] = ["train", "val", "test", "train", HELD_OUT, HELD_OUT]
    m = dataclasses.replace(m, label=np.zeros(12, int), classes=("a",))
    with pytest.raises(UserError, match="has no image of class a"):  # the embargo took all
        with_embargo(m, Split(part, "kfold"), "blocks:3", {})
    part[by_number(m, "b")] = "train"
    part[by_number(m, "b")[3:]] = "val"
    split = Split(part, "kfold", rare=("a",))
    kept = with_embargo(m, split, "blocks:3", {}).part
    assert kept[by_number(m, "a")].tolist() == ["", "", "", "", HELD_OUT, HELD_OUT]
    assert kept[by_number(m, "b")].tolist() == ["train", "train", "", "", "val", "val"]


def test_near_duplicates_join():
    m = folders(4)
    ids = m.id.tolist()
    m.phash[:] = np.uint64(1) << np.arange(0, 64, 8, dtype=np.uint64)
    m.phash[:] *= np.uint64(255)
    m.area[:] = 0.5
    a, b, c = (ids.index(name) for name in ("a/1.png", "a/2.png", "b/3.png"))
    m.phash[b] = m.phash[a] ^ np.uint64(7)
    m.phash[c] = m.phash[b] ^ np.uint64(7 << 20)  # near b, not a
    group = joined_near_duplicates(m)
    assert set(group[[a, b, c]].tolist()) == {"a/1.png+a/2.png+b/3.png"}
    assert len(set(group.tolist())) == 6


def test_records_get_the_groups_and_keep_the_images(tmp_path):
    records = tiny_records(tmp_path, tiny_source(24))
    with pytest.raises(UserError, match=r"split\.groups=blocks:5: the subjects of tiny are known"):
        regrouped(records, "blocks:5")
    assert regrouped(records, "auto") is records
    records.subjects_known = False
    changed = regrouped(records, "blocks:5")
    assert changed.manifest.id.tolist() == records.manifest.id.tolist()
    assert changed.notes[-1].text.startswith("split.groups=blocks:5 is an assumption: ")
    assert len(records.notes) == len(changed.notes) - 1
    assert changed.checksum == records.checksum
    assert (changed.images(np.arange(3)) == records.images(np.arange(3))).all()


@pytest.mark.parametrize("value", ["blocks", "blocks:", "blocks:1", "blocks:0", "subject", ""])
def test_other_values_are_refused(value):
    with pytest.raises(UserError, match=r"split.groups=.*: must be auto, near_duplicates or blo"):
        config.load("cnn", {"split.groups": value})


def test_reports_state_the_assumption():
    about = SimpleNamespace(data="x", part="test", classes=("a", "b"), positive="b")
    blocks = About(**vars(about), subjects_known=False, groups="blocks:20")
    assert blocks.marks() == ["no subjects known", "ASSUMED groups (blocks:20)"]
    (sentence,) = blocks.warnings()
    assert "each 20 consecutive images of a folder count as one group" in sentence
    near = About(**vars(about), groups="near_duplicates")
    assert near.warnings()[0].startswith("ASSUMPTION: nearly identical images")
