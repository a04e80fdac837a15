"""The audit of a folder: what is planted is found, and nothing else."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from leukjax import command
from leukjax.audit import cli as command_module
from leukjax.audit import folder, shortcuts


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LEUKJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def cells(root, *, bright=0, subjects=8, each=6):
    """Two classes of discs on black; class b is brighter by `bright` grey levels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] - 11.5
    for label, name in enumerate("ab"):
        for subject in range(subjects):
            for number in range(each):
                disc = y**2 + x**2 < rng.uniform(7, 10) ** 2
                picture = rng.integers(80, 140, (24, 24, 3)) + label * bright
                picture = np.where(disc[..., None], picture, 0).astype(np.uint8)
                path = root / name / f"{name}{subject}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return root


PATTERN = [("data.subject_pattern", r"/(\w\d+)_")]


@pytest.mark.smoke("audit")
def test_a_planted_shortcut_is_found_and_no_other(tmp_path):
    found = folder.audit(str(cells(tmp_path / "d", bright=60)), "auto", PATTERN)
    tells = {one.name: one.tells for one in found.shortcuts}
    assert tells["brightness"]
    assert tells["colour"]
    assert tells["image size"] is None  # the same for all
    assert not tells["area"]
    score = {one.name: one.balanced_accuracy for one in found.shortcuts}["brightness"]
    assert score.value > 0.99
    assert score.groups == 16


def test_scores_are_out_of_fold_and_by_group():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 5)
    labels = (groups % 2).astype(np.int32)
    # A number of the group's own: it tells groups and, seen before, their class; else nothing.
    values = {"area": rng.normal(size=12)[groups][:, None]}
    found = shortcuts.shortcuts(values, labels, groups.astype(str), ("a", "b"), "b")
    assert not found[0].tells
    told = {"area": (labels + 0.01 * rng.normal(size=60))[:, None]}
    found = shortcuts.shortcuts(told, labels, groups.astype(str), ("a", "b"), "b")
    assert found[0].balanced_accuracy.value == 1
    assert found[0].tells
    few = shortcuts.shortcuts(told, labels, labels.astype(str), ("a", "b"), "b")
    assert "fewer than two groups" in few[0].reason


def test_out_of_fold_scores_are_sklearns(tmp_path):
    found = folder.audit(str(cells(tmp_path / "d", bright=10)), "image_folder", PATTERN)
    folds, _ = shortcuts._folds(found.manifest.label, found.manifest.group, 2)
    for train, test in folds:
        assert not set(found.manifest.group[train]) & set(found.manifest.group[test])
    values = found.measured["brightness"]
    told = shortcuts._out_of_fold(values, found.manifest.label, folds, 2)
    expected = balanced_accuracy_score(found.manifest.label, told.argmax(axis=1))
    score = {one.name: one.balanced_accuracy for one in found.shortcuts}["brightness"]
    assert score.value == pytest.approx(expected)


def test_duplicates_conflicts_and_damage_are_counted(tmp_path):
    root = cells(tmp_path / "d")
    picture = (root / "a" / "a0_0.png").read_bytes()
    (root / "a" / "a1_99.png").write_bytes(picture)  # across subjects
    (root / "b" / "b0_99.png").write_bytes(picture)  # across classes too
    (root / "b" / "b0_98.png").write_bytes(b"no image")
    (root / "b" / "b0_97.svg").write_bytes(b"another format")
    found = folder.audit(str(root), "auto", PATTERN)
    identical = found.crossings[0]
    assert (identical.pairs, identical.subjects, identical.classes) == (2, 2, 1)
    assert found.conflicts == [["a/a0_0.png", "a/a1_99.png", "b/b0_99.png"]]
    assert [one.id for one in found.skipped] == ["b/b0_98.png"]
    assert "left out 1 file that is no image that leukjax reads: 1 .svg" in found.notes
    assert {row["images"] for row in found.counts()} == {49}
    # Joined subjects are one group, which is of two classes then.
    assert len(np.unique(found.manifest.group)) == 14


def run(capsys, *flags):
    for name in command_module.FLAGS:
        command_module.FLAGS[name].unparse()
    flags = [str(flag) for flag in flags]
    status = command.status(command_module.main, command_module.FLAGS, flags, doc=None)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_page_is_one_file_and_the_same_again(tmp_path, capsys):
    root = cells(tmp_path / "d", bright=60)
    pages = []
    for name in ("one", "two"):
        output = tmp_path / name
        status, screen, err = run(
            capsys, root, f"--output={output}", "--config.data.subject_pattern=/(\\w\\d+)_"
        )
        assert status == 0, err
        pages.append((output / "audit.html").read_text())
        assert "Brightness" in screen
    assert pages[0] == pages[1]
    assert not re.search(r'(src|href)="(?!data:)', pages[0])
    content = json.loads((tmp_path / "one" / "audit.json").read_text())
    assert content["images"] == 96
    brightness = next(one for one in content["shortcuts"] if one["name"] == "brightness")
    assert brightness["tells"] is True
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]  # nothing written there


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((), "nothing is given"),
        (("nowhere",), "nowhere"),
        (("a", "b"), "2 folders or papers are given"),
        (("a", "--config.seed=1"), "fields of data only"),
        (("a", "--config=configs/cnn.py"), "--config.data.FIELD=VALUE only"),
        (("ROOT", "--config.data.subject_pattern=("), "not a regular expression"),
        (("ROOT", "--layout=cnmc"), "not laid out as C-NMC"),
    ],
)
def test_mistakes_are_answered_by_one_line(tmp_path, capsys, given, says):
    root = cells(tmp_path / "d", subjects=2, each=1)
    output = tmp_path / "out"
    flags = [flag.replace("ROOT", str(root)) for flag in given]
    status, _, err = run(capsys, *flags, f"--output={output}")
    assert status == 1
    assert says in err.splitlines()[-1]
    assert not output.exists()


def test_real_cells_of_cnmc(shared, tmp_path):
    found = folder.audit(str(shared / "data" / "C-NMC_Leukemia"), "auto")
    assert found.source.name == "cnmc"
    identical = found.crossings[0]
    assert (identical.pairs, identical.subjects, identical.parts) == (2, 2, 2)
    # Uncompressed squares of one size: neither file nor frame can tell anything.
    same = {one.name for one in found.shortcuts if one.reason}
    assert same == {"border", "image size", "file size"}
