"""The audit of a folder finds planted duplicates and shortcuts, and nothing else."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from leukjax import command
from leukjax.audit import cli, folder, shortcuts
from leukjax.data.source import WARNING


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
    audit = folder.audit(str(cells(tmp_path / "d", bright=60)), "auto", PATTERN)
    by_name = {shortcut.name: shortcut for shortcut in audit.shortcuts}
    assert by_name["brightness"].is_above_chance
    assert by_name["colour"].is_above_chance
    assert by_name["image size"].is_above_chance is None  # the same for all images
    assert not by_name["area"].is_above_chance
    score = by_name["brightness"].balanced_accuracy
    assert score.value > 0.99
    assert score.groups == 16


def test_scores_are_out_of_fold_and_by_group():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 5)
    labels = (groups % 2).astype(np.int32)
    # One number per group: it predicts the class of groups seen in training, and of no others.
    values = {"area": rng.normal(size=12)[groups][:, None]}
    area = shortcuts.shortcuts(values, labels, groups.astype(str), ("a", "b"), "b")[0]
    assert not area.is_above_chance
    values = {"area": (labels + 0.01 * rng.normal(size=60))[:, None]}
    area = shortcuts.shortcuts(values, labels, groups.astype(str), ("a", "b"), "b")[0]
    assert area.balanced_accuracy.value == 1
    assert area.is_above_chance
    area = shortcuts.shortcuts(values, labels, labels.astype(str), ("a", "b"), "b")[0]
    assert "fewer than two groups" in area.reason


def test_out_of_fold_scores_are_sklearns(tmp_path):
    audit = folder.audit(str(cells(tmp_path / "d", bright=10)), "image_folder", PATTERN)
    labels, groups = audit.manifest.label, audit.manifest.group
    folds, _ = shortcuts._folds(labels, groups, 2)
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
    probabilities = shortcuts._out_of_fold(audit.measured["brightness"], labels, folds, 2)
    expected = balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    (score,) = [s.balanced_accuracy for s in audit.shortcuts if s.name == "brightness"]
    assert score.value == pytest.approx(expected)


def test_duplicates_conflicts_and_damage_are_counted(tmp_path):
    root = cells(tmp_path / "d")
    picture = (root / "a" / "a0_0.png").read_bytes()
    (root / "a" / "a1_99.png").write_bytes(picture)  # across subjects
    (root / "b" / "b0_99.png").write_bytes(picture)  # across classes too
    (root / "b" / "b0_98.png").write_bytes(b"no image")
    (root / "b" / "b0_97.svg").write_bytes(b"another format")
    audit = folder.audit(str(root), "auto", PATTERN)
    identical = audit.crossings[0]
    assert (identical.pairs, identical.subjects, identical.classes) == (2, 2, 1)
    assert audit.conflicts == [["a/a0_0.png", "a/a1_99.png", "b/b0_99.png"]]
    assert [file.id for file in audit.skipped] == ["b/b0_98.png"]
    assert any("1 .svg" in note.text for note in audit.data_notes)
    assert {row["images"] for row in audit.counts()} == {49}
    # Subjects that share an image are one group, here of two classes.
    assert len(np.unique(audit.manifest.group)) == 14
    warnings = [note.text for note in audit.notes() if note.level == WARNING]
    assert warnings[0].startswith("2 pairs of identical images: 2 across subjects, 1 across")
    assert any(text.startswith("1 images occur with different labels") for text in warnings)
    assert any(text.startswith("1 files cannot be read as images") for text in warnings)


def run(capsys, *flags):
    for name in cli.FLAGS:
        cli.FLAGS[name].unparse()
    flags = [str(flag) for flag in flags]
    status = command.status(cli.main, cli.FLAGS, flags, doc=None)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_page_is_one_file_and_reproducible(tmp_path, capsys):
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
    assert pages[0].count("<figure>") == 16  # 8 images per class
    assert '<li class="warning">Brightness alone' in pages[0]
    content = json.loads((tmp_path / "one" / "audit.json").read_text())
    assert content["images"] == 96
    (brightness,) = [s for s in content["shortcuts"] if s["name"] == "brightness"]
    assert brightness["tells"] is True
    assert any(text.startswith("! Brightness alone") for text in content["sentences"])
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]  # nothing is written there


@pytest.mark.parametrize(
    ("given", "message"),
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
def test_mistakes_are_one_line(tmp_path, capsys, given, message):
    root = cells(tmp_path / "d", subjects=2, each=1)
    output = tmp_path / "out"
    flags = [flag.replace("ROOT", str(root)) for flag in given]
    status, _, err = run(capsys, *flags, f"--output={output}")
    assert status == 1
    assert message in err.splitlines()[-1]
    assert not output.exists()


def test_real_cells_of_cnmc(shared, tmp_path):
    audit = folder.audit(str(shared / "data" / "C-NMC_Leukemia"), "auto")
    assert audit.source.name == "cnmc"
    identical = audit.crossings[0]
    assert (identical.pairs, identical.subjects, identical.parts) == (2, 2, 2)
    # Uncompressed squares of one size: file size and border are constant.
    constant = {shortcut.name for shortcut in audit.shortcuts if shortcut.reason}
    assert constant == {"border", "image size", "file size"}
