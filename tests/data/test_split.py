"""Splits: no group on two sides, shares, and refusals."""

import csv
import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import cnmc_training

from leukjax.data.datasets.cnmc import OFFICIAL_PARTS
from leukjax.data.manifest import Manifest
from leukjax.data.source import INFO, WARNING, Note
from leukjax.data.split import (
    HELD_OUT,
    PARTS,
    Split,
    check,
    checksum,
    crossing_groups,
    make_split,
    save_csv,
    shares,
)
from leukjax.errors import UserError


def manifest(groups, labels, phases=None, classes=("all", "hem"), ids=None):
    n = len(groups)
    names = ids or [f"{k:06d}" for k in range(n)]
    phases = [""] * n if phases is None else phases
    zeros = np.zeros(n)
    return Manifest(
        classes, names, names, labels, groups, groups, phases, names, names, zeros, zeros
    )


@pytest.fixture(scope="module")
def cnmc(shared):
    return cnmc_training(shared)


def by_id(m, split):
    return dict(zip(m.id.tolist(), split.part.tolist(), strict=True))


def with_preliminary(m):
    """The training images and 200 of a preliminary phase, 20 subjects of each class."""
    groups = [f"{'H' * (k % 2)}{100 + k % 40}" for k in range(200)]
    more = manifest(groups, [k % 2 for k in range(200)], ["preliminary"] * 200)
    more = dataclasses.replace(more, id=[f"preliminary/{k}" for k in range(200)])
    columns = [f.name for f in dataclasses.fields(Manifest) if f.name != "classes"]
    joined = {c: np.concatenate([getattr(m, c), getattr(more, c)]) for c in columns}
    return Manifest(classes=m.classes, **joined)


def test_a_thousand_seeds_on_all_of_cnmc(cnmc):
    start = time.perf_counter()
    wanted = np.array([0.7, 0.15, 0.15])
    group_of_row = cnmc.group_codes[1]
    worst_images = worst_groups = 0.0
    tests = set()
    for seed in range(1000):
        split = make_split(cnmc, "subject", seed)
        side = np.select([split.part == part for part in PARTS], range(3), -1)
        assert side.min() == 0  # every labelled image is used
        # A group's side is that of its first row; no image of it may be elsewhere.
        first = np.zeros(66, int)
        first[group_of_row] = side
        assert (first[group_of_row] == side).all()
        tests.add(tuple(np.flatnonzero(first == 2).tolist()))
        for label in (0, 1):
            images = np.bincount(side[cnmc.label == label], minlength=3)
            worst_images = max(worst_images, np.abs(images / images.sum() - wanted).max())
            members = np.unique(group_of_row[cnmc.label == label])
            groups = np.bincount(first[members], minlength=3)
            worst_groups = max(worst_groups, np.abs(groups / groups.sum() - wanted).max())
    assert worst_images < 0.01
    assert worst_groups < 0.05
    assert len(tests) > 950  # the seed draws
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("protocol", ["subject", "kfold", "image", "official", "auto"])
def test_the_order_of_the_rows_does_not_matter(cnmc, protocol):
    m = with_preliminary(cnmc)
    rows = np.random.default_rng(0).permutation(len(m))
    a = by_id(m, make_split(m, protocol, 5, 5, 2, official_parts=OFFICIAL_PARTS))
    turned = m.take(rows)
    b = by_id(turned, make_split(turned, protocol, 5, 5, 2, official_parts=OFFICIAL_PARTS))
    assert a == b


def test_the_seed_matters_and_is_enough(cnmc):
    a, b, c = (make_split(cnmc, "subject", seed) for seed in (1, 1, 2))
    assert (a.part == b.part).all()
    assert (a.part != c.part).any()


def test_folds_are_a_partition(cnmc):
    tested = np.zeros(len(cnmc), int)
    validated = np.zeros(len(cnmc), int)
    for fold in range(5):
        split = make_split(cnmc, "kfold", 3, 5, fold)
        assert crossing_groups(cnmc, split) == []
        after = make_split(cnmc, "kfold", 3, 5, (fold + 1) % 5)
        assert ((split.part == "val") == (after.part == "test")).all()
        tested += split.part == "test"
        validated += split.part == "val"
        for row in shares(cnmc, split):
            wanted = 0.6 if row["part"] == "train" else 0.2
            assert abs(row["image_share"] - wanted) < 0.02
    assert (tested == 1).all()
    assert (validated == 1).all()


@pytest.mark.parametrize("protocol", ["official", "subject", "auto"])
def test_what_is_held_out_is_in_no_fold(cnmc, protocol):
    m = with_preliminary(cnmc)
    base = make_split(m, protocol, 3, official_parts=OFFICIAL_PARTS).part == "test"
    tested = np.zeros(len(m), int)
    for fold in range(4):
        split = make_split(m, "kfold", 3, 4, fold, held_out=protocol, official_parts=OFFICIAL_PARTS)
        assert ((split.part == HELD_OUT) == base).all()
        assert crossing_groups(m, split) == []
        tested += split.part == "test"
        # Shares are of what is folded.
        assert sum(row["image_share"] for row in shares(m, split) if not row["class"]) == 1
        assert any(f"{base.sum()} images of" in note.text for note in split.notes)
    assert (tested == ~base).all()
    pooled = make_split(m, "kfold", 3, 4, 0)
    assert not (pooled.part == HELD_OUT).any()


def test_a_group_half_held_out_is_refused():
    m = manifest([*"abcABC", "A"], [0, 0, 0, 1, 1, 1, 1])
    part = np.array(["train", "val", "test", "train", "val", "test", HELD_OUT])
    with pytest.raises(UserError, match="group A is on two sides"):
        check(m, Split(part, "kfold"))


def test_official_moves_groups_that_cross(cnmc):
    m = with_preliminary(cnmc)
    split = make_split(m, "auto", 0, official_parts=OFFICIAL_PARTS)
    assert split.protocol == "official"
    assert crossing_groups(m, split) == []
    plain = {"fold_0": "train", "fold_1": "train", "fold_2": "val", "preliminary": "test"}
    expected = np.array([plain[phase] for phase in m.phase.tolist()])
    moved = split.part != expected
    (note,) = [n.text for n in split.notes if "moved" in n.text]
    assert note.startswith(f"{moved.sum()} images of groups")
    for group in set(m.group[moved].tolist()):
        inside = m.group == group
        counts = {p: int((inside & (expected == p)).sum()) for p in PARTS}
        (side,) = set(split.part[inside].tolist())
        assert counts[side] == max(counts.values())
    assert set(m.group[moved].tolist()) == {"20+21", "51+75+78", "H2+H4+H5+H6", "H3+H10"}
    assert (m.phase[split.part == "test"] == "preliminary").all()
    assert (expected[np.char.count(m.group, "+") == 0] == split.part[~joined(m)]).all()


def joined(m):
    return np.char.count(m.group, "+") > 0


def test_ties_go_to_train():
    groups = ["t", "T", "v", "V", "tie", "tie", "p", "P"]
    labels = [0, 1, 0, 1, 0, 0, 0, 1]
    phases = ["fold_0", "fold_1", "fold_2", "fold_2", "fold_2", "fold_0", *["preliminary"] * 2]
    split = make_split(
        manifest(groups, labels, phases), "official", 0, official_parts=OFFICIAL_PARTS
    )
    assert split.part.tolist() == [*["train"] * 2, *["val"] * 2, *["train"] * 2, *["test"] * 2]


def test_auto_without_preliminary_labels(cnmc):
    split = make_split(cnmc, "auto", 0, official_parts=OFFICIAL_PARTS)
    assert split.protocol == "subject"
    reason = "no labelled image of preliminary"
    assert split.notes == (Note(INFO, f"split.protocol auto: subject ({reason})"),)
    with pytest.raises(UserError, match=f"official: {reason}"):
        make_split(cnmc, "official", 0, official_parts=OFFICIAL_PARTS)


def test_a_data_set_without_official_parts(cnmc):
    split = make_split(cnmc, "auto", 0)
    assert split.protocol == "subject"
    assert split.notes[0].text.endswith("(the data set has no official split)")
    with pytest.raises(UserError, match="official: the data set has no official split"):
        make_split(cnmc, "official", 0)


def test_image_is_leaky_and_warns(cnmc):
    split = make_split(cnmc, "image", 0)
    assert split.leaky
    assert len(crossing_groups(cnmc, split)) > 60
    assert split.notes[0].level == WARNING
    for row in shares(cnmc, split):
        assert abs(row["image_share"] - {"train": 0.7}.get(row["part"], 0.15)) < 0.001


def test_unlabelled_images_have_no_part(cnmc):
    label = cnmc.label.copy()
    label[::7] = -1
    m = dataclasses.replace(cnmc, label=label)
    for protocol in ("subject", "kfold", "image"):
        split = make_split(m, protocol, 0)
        assert ((split.part == "") == (label < 0)).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_groups_stay_whole(data):
    classes = data.draw(st.integers(2, 4))
    number = data.draw(st.integers(3, 25))
    groups, labels = [], []
    for group in range(number):
        # A third of the groups hold several classes.
        own = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=3))
        for label in own:
            groups.append(f"g{group}")
            labels.append(label)
    m = manifest(groups, labels, classes=tuple("abcd"[:classes]))
    seed = data.draw(st.integers(0, 2**31 - 1))
    try:
        split = make_split(m, "subject", seed)
    except UserError:
        holders = [
            len({g for g, y in zip(groups, labels, strict=True) if y == c}) for c in range(classes)
        ]
        assert min(holders) < 12, "a part lacks a class where every class has groups to spare"
        return
    assert crossing_groups(m, split) == []
    assert set(split.part.tolist()) == set(PARTS)
    common = {k for k in range(classes) if m.classes[k] not in split.rare}
    assert len(common) == classes or (classes > 2 and len(common) > 1)
    held = {(p, y) for p, y in zip(split.part.tolist(), labels, strict=True) if y in common}
    assert len(held) == 3 * len(common)
    rare = [p for p, y in zip(split.part.tolist(), labels, strict=True) if y not in common]
    assert set(rare) <= {"train"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("folds", 0), "split.protocol: 'folds' is not one of auto, subject"),
        (("kfold", 0, 2, 0), "split.folds: 2 is too few"),
        (("kfold", 0, 5, 5), r"split.fold: 5 is not in 0..4"),
        (("kfold", 0, 5, -1), r"split.fold: -1 is not in"),
        (("kfold", 0, 7, 0), "class hem has 4 groups for 7 parts. Lower"),
        (("kfold", 0, 4, 0, "subject"), "class hem has 3 groups for 4 parts"),
        (("kfold", 0, 3, 0, "image"), "split.held_out: 'image' is not one of none, auto"),
    ],
)
def test_refusals(arguments, message):
    m = manifest([f"g{k}" for k in range(12)], [0] * 8 + [1] * 4)
    with pytest.raises(UserError, match=message):
        make_split(m, *arguments)


def test_too_few_groups():
    m = manifest(["a", "b", "c", "d", "e"], [0, 0, 0, 1, 1])
    with pytest.raises(UserError, match="subject: class hem has 2 groups for 3 parts"):
        make_split(m, "subject", 0)


def test_a_part_without_a_class_is_refused():
    m = manifest(["a", "b", "c", "A", "B", "C"], [0, 0, 0, 1, 1, 1])
    part = np.array(["train", "val", "test", "train", "val", "val"])
    with pytest.raises(UserError, match="test has no image of class hem"):
        check(m, Split(part, "subject"))
    part[-1] = "test"
    check(m, Split(part, "subject"))


def test_a_group_on_two_sides_is_refused():
    m = manifest(["a", "b", "c", "A", "B", "C", "A"], [0, 0, 0, 1, 1, 1, 1])
    part = np.array(["train", "val", "test", "train", "val", "test", "test"])
    with pytest.raises(UserError, match="group A is on two sides"):
        check(m, Split(part, "subject"))
    check(m, Split(part, "image", leaky=True))


def test_an_unlabelled_image_in_a_part_is_refused():
    m = manifest(["a", "b", "c", "A", "B", "C"], [0, 0, 0, 1, 1, -1])
    part = np.array(["train", "val", "test"] * 2)
    with pytest.raises(UserError, match="000005 has a part but no label"):
        check(m, Split(part, "subject"))


def test_the_file(tmp_path):
    m = manifest(list("abcABCf"), [0, 0, 0, 1, 1, 1, -1])
    split = make_split(m, "subject", 0)
    save_csv(m, split, tmp_path / "split.csv")
    with open(tmp_path / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "subject", "group", "label", "part"]
    assert [row["label"] for row in rows] == ["all"] * 3 + ["hem"] * 3 + [""]
    assert [row["part"] for row in rows] == split.part.tolist()
    rows = np.arange(len(m))[::-1]
    turned = dataclasses.replace(split, part=split.part[rows])
    assert checksum(m.take(rows), turned) == checksum(m, split)
    other = dataclasses.replace(split, part=np.roll(split.part, 1))
    assert checksum(m, other) != checksum(m, split)


def test_shares_count_images_and_groups():
    m = manifest(list("aabcABC"), [0, 0, 0, 0, 1, 1, 1])
    part = np.array(["train", "train", "val", "test", "train", "val", "test"])
    rows = {(r["part"], r["class"]): r for r in shares(m, Split(part, "subject"))}
    assert rows["train", ""]["images"] == 3
    assert rows["train", "all"]["image_share"] == 0.5
    assert rows["train", "all"]["group_share"] == pytest.approx(1 / 3)
    assert rows["test", "hem"]["groups"] == 1
    assert rows["train", ""]["groups"] == 2
