"""A root that is a level too high: parts and folds are not trained on as if they were classes."""

import pytest
from trees import cell, data_config, encode, texts, write, zip_folder

from leukjax.audit import folder
from leukjax.data import levels
from leukjax.data.datasets import image_folder
from leukjax.errors import UserError


def locations(tree: dict[str, str], count: int = 2) -> list[str]:
    """Paths such as a/x/0.png of {"a": "x y"}; "." for images directly in a."""
    return [
        f"{name}/{number}.png" if below == "." else f"{name}/{below}/{number}.png"
        for name, folders in tree.items()
        for below in folders.split()
        for number in range(count)
    ]


PARTS = [
    {"train": "all hem", "val": "all hem", "test": "all hem"},
    {"train": "all hem", "val": "all hem", "test": "."},  # a part without labels
    {"train": ".", "test": "."},
    {"Training": "a b c", "Testing": "a b"},
    {"Train": "a b", "TestA": "a b", "TestB": "a"},
    {"TRAIN": "a b", "TEST": "a b", "TEST_SIMPLE": "a b", "images": "."},
    {"train_set": "a b", "valid set": "a b"},
    {"fold_0": "all hem", "fold_1": "all hem", "fold_2": "all hem"},
    {"fold1": "a", "fold2": "b"},
    {"cv1": "a b", "cv2": "a b"},
    {"part1": "a b", "part2": "a b"},
    {"C-NMC_training_data": "fold_0 fold_1", "C-NMC_test_prelim_phase_data": "."},
    {"train": "a b", "unlabelled": "."},
]
CLASSES = [
    {"all": ".", "hem": "."},
    {"all": "p1 p2", "hem": "p3 p4"},
    {"valid": ".", "invalid": "."},
    {"test_strip": ".", "blood": "."},
    {"Train_of_cells": ".", "single": "."},  # one name alone is no sign
    {"test": "a b", "blast": "c d"},
    {"partial": ".", "particle": "."},
    {"fold": ".", "unfolded": "."},
    {"valley": ".", "devil": "."},
    {"L1": "p1 p2", "L2": "p3"},
]


@pytest.mark.parametrize("tree", PARTS, ids=lambda tree: "-".join(tree))
def test_parts_are_known_by_their_names(tree):
    with pytest.raises(UserError, match="look like parts") as caught:
        levels.check_names(locations(tree), "ROOT/")
    assert "\n" not in str(caught.value)
    first = next((n for n in tree if "train" in n.lower()), next(iter(tree)))
    assert f"--config.data.root=ROOT/{first}" in str(caught.value)
    assert ("cnmc" in str(caught.value)) == ("all hem" in tree.values())


@pytest.mark.parametrize("tree", CLASSES, ids=lambda tree: "-".join(tree))
def test_classes_are_not_taken_for_parts(tree):
    own = {location: location for location in locations(tree)}
    levels.check_names(locations(tree), "ROOT")
    notes = levels.check_sub_folders(locations(tree), own, "", "ROOT")
    assert all("are taken as the classes" in str(note) for note in notes)


def check(tree, positive="", subject=lambda location: location):
    own = locations(tree)
    return levels.check_sub_folders(
        own, {location: subject(location) for location in own}, positive, "ROOT"
    )


@pytest.mark.parametrize(
    "tree",
    [
        {"Original": "Benign Early Pre Pro", "Segmented": "Benign Early Pre Pro"},
        {"patient_1": "blast normal", "patient_2": "blast normal"},
        {"site A": "blast normal", "site B": "blast normal"},
        {"Original": "L1 healthy", "Segmented": "L1 healthy"},
    ],
    ids=lambda tree: next(iter(tree)),
)
def test_the_same_sub_folders_everywhere_are_the_classes(tree):
    with pytest.raises(UserError, match="look like parts") as caught:
        check(tree)
    first, *_, last = tree
    assert f"e.g. --config.data.root=ROOT/{first}. If {first}, {last} are" in str(caught.value)
    assert check(tree, positive=last) == []
    with pytest.raises(UserError):
        check(tree, positive="normal")


@pytest.mark.parametrize(
    "tree",
    [
        {"blast": "smith jones", "normal": "smith jones mills"},
        {"blast": "smith", "normal": "smith"},
        {"blast": "smith jones .", "normal": "smith jones"},
        {"blast": "smith jones .", "normal": "smith jones ."},
    ],
)
def test_sub_folders_that_differ_say_nothing(tree):
    assert check(tree) == []


def test_sub_folders_that_are_subjects_or_numbered_may_divide_classes():
    tree = {"blast": "smith jones", "normal": "smith jones"}
    assert check(tree, subject=lambda location: location.split("/")[1]) == []
    for names in ("10x 40x", "p1 p2 p3", "0001-1000 1001-2000"):
        (note,) = check({"blast": names, "normal": names})
        assert str(note).startswith(
            f"WARNING: every class has the same sub-folders ({names.split()[0]}"
        )


def test_other_sub_folders_with_names_of_classes_give_a_warning():
    tree = {"mine": "rbc wbc", "theirs": "erythrocyte leukocyte"}
    (note,) = check(tree)
    assert "mine, theirs are taken as the classes, and hold only folders (rbc, wbc; ery" in str(
        note
    )
    assert str(note).endswith("/mine")
    assert check({"blast": "p1 p2", "normal": "p3 p4"}) == []
    assert check(tree, subject=lambda location: location.split("/")[1]) == []


@pytest.fixture
def root(tmp_path):
    for number, location in enumerate(locations(PARTS[0])):
        write(tmp_path / "root" / location, encode(cell(number), "PNG"))
    return tmp_path / "root"


def test_the_source_and_the_audit_stop(root, tmp_path):
    for read in (
        lambda: image_folder.make(data_config(root)),
        lambda: image_folder.make(data_config(root, subject_pattern="(nothing like that)")),
        lambda: folder.audit(str(root), "auto", [("data.cache_dir", str(tmp_path / "cache"))]),
    ):
        with pytest.raises(UserError, match=r"root holds test, train, val, with all, hem in them"):
            read()
    assert not (tmp_path / "cache").exists()
    assert image_folder.make(data_config(root / "train")).classes == ("all", "hem")
    path = zip_folder(root, tmp_path / "root.zip")
    with pytest.raises(UserError, match="after unpacking the zip"):
        image_folder.make(data_config(path))


def test_the_warning_is_among_the_notes(tmp_path):
    for number, location in enumerate(locations({"blast": "10x 40x", "normal": "10x 40x"})):
        write(tmp_path / location, encode(cell(number), "PNG"))
    notes = texts(image_folder.make(data_config(tmp_path)))
    assert notes[-1].startswith("WARNING: every class has the same sub-folders (10x, 40x)")
