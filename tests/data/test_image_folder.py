"""Images in one folder a class."""

import numpy as np
import pytest
from trees import cell, data_config, encode, texts, write, zip_folder

from leukjax import config
from leukjax.data import path_pattern
from leukjax.data.datasets import image_folder, make_dataset
from leukjax.data.manifest_builder import scan
from leukjax.data.split import crossing_groups, make_split
from leukjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    write(root / "normal" / "p1_a.BMP", encode(cell(0)))
    write(root / "normal" / "deep" / "er" / "p2_b.tiff", encode(cell(1, 32), "TIFF"))
    write(root / "blast" / "p1_c.JPG", encode(cell(2), "JPEG"))
    write(root / "blast" / "p3_d.jpeg", encode(cell(3, 50), "JPEG"))
    write(root / "blast" / "p3_e.png", encode(cell(4), "PNG"))
    write(root / "blast" / "notes.txt", "x")
    return root


def make(root, **fields):
    return image_folder.make(data_config(root, **fields))


def test_classes_ids_and_labels(root):
    source = make(root)
    assert source.classes == ("blast", "normal")
    assert source.positive == "normal"
    assert make(root, positive="blast").positive == "blast"
    assert not source.subjects_known
    found = {e.id: (e.label, e.subject, e.path) for e in source.entries}
    expected = {
        "blast/p1_c.JPG": 0,
        "blast/p3_d.jpeg": 0,
        "blast/p3_e.png": 0,
        "normal/deep/er/p2_b.tiff": 1,
        "normal/p1_a.BMP": 1,
    }
    assert found == {id: (label, id, id) for id, label in expected.items()}
    assert source.image(source.entries[1]).shape == (50, 50, 3)
    assert "5 images (blast 3, normal 2) of 5 subjects, each image its own" in texts(source)[0]
    assert any("positive class: normal" in n for n in texts(source))


def test_every_format_is_read_and_other_files_are_named(root, tmp_path):
    for kind, suffix in (("WEBP", "webp"), ("GIF", "gif"), ("JPEG", "jfif")):
        write(root / "normal" / f"p9_x.{suffix}", encode(cell(9), kind))
    write(root / "normal" / "p9_y.heic", "x")
    source = make(root)
    assert len(source.entries) == 8
    note = "left out 2 files that are no image that leukjax reads: 1 .heic, 1 .txt"
    assert note in texts(source)
    manifest, skipped = scan(source, tmp_path / "cache", 2, "error")
    assert (len(manifest), skipped) == (8, [])


def test_three_classes_have_no_positive_one(root):
    write(root / "other" / "x.png", encode(cell(5), "PNG"))
    assert make(root).positive == ""
    with pytest.raises(UserError, match="none of the classes blast, normal, other"):
        make(root, positive="alien")


def test_subjects_by_pattern(root):
    source = make(root, subject_pattern=r"(p\d)_")
    assert source.subjects_known
    assert {e.id: e.subject for e in source.entries} == {
        "blast/p1_c.JPG": "p1",
        "blast/p3_d.jpeg": "p3",
        "blast/p3_e.png": "p3",
        "normal/deep/er/p2_b.tiff": "p2",
        "normal/p1_a.BMP": "p1",
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(p[12])_", r"data\.subject_pattern: .* finds no subject in blast/p3_d\.jpeg \(2 of "),
        (r"p\d", "has no group"),
        (r"(p\d", "is not a regular expression"),
        (r"(q?)", "finds no subject in"),
    ],
)
def test_a_pattern_that_does_not_fit(root, pattern, message):
    with pytest.raises(UserError, match=message) as caught:
        make(root, subject_pattern=pattern)
    assert str(caught.value).startswith("data.subject_pattern: ")


def test_a_pattern_that_takes_exponential_time_is_stopped(root, monkeypatch):
    """It may come from the config of another person's run."""
    monkeypatch.setattr(path_pattern, "_SEARCH_SECONDS", 0.5)
    (root / "blast" / ("a" * 64 + "!.png")).write_bytes((root / "blast" / "p3_d.jpeg").read_bytes())
    with pytest.raises(UserError, match=r"data.subject_pattern: '\(a\+\)\+\$' takes too long"):
        make(root, subject_pattern="(a+)+$")


ROWS = {
    "blast/p1_c.JPG": "A",
    "blast/p3_d.jpeg": "B",
    "blast/p3_e.png": "B",
    "normal/deep/er/p2_b.tiff": "C",
    "normal/p1_a.BMP": "A",
}


def table(rows, header="path,subject"):
    return "\n".join([header, *(f"{path},{subject}" for path, subject in rows)]) + "\n"


@pytest.mark.parametrize("inside", [True, False])
def test_subjects_by_csv(root, tmp_path, inside):
    text = table([(f"./{p}", s) for p, s in ROWS.items()], "\ufeffpath,subject,remark")
    path = write((root if inside else tmp_path) / "subjects.csv", text)
    source = make(root, subject_csv="subjects.csv" if inside else str(path))
    assert {e.id: e.subject for e in source.entries} == ROWS
    assert source.subjects_known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table(list(ROWS.items())[1:]), r"no row for blast/p1_c\.JPG \(1 such images"),
        (table([*ROWS.items(), ("blast/p1_c.JPG", "Z")]), "line 7: .* has two rows"),
        (table([*ROWS.items(), ("blast/none.png", "Z")]), "blast/none.png is not an image"),
        (table([*ROWS.items(), ("blast/none.png", "")]), "lacks a value"),
        (table(ROWS.items(), "file,person"), "line 1 has the columns file, person: it needs"),
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        ('path,subject\n"open', "cannot be read"),
    ],
)
def test_a_csv_that_does_not_fit(root, tmp_path, text, message):
    path = tmp_path / "subjects.csv"
    if text is not None:
        write(path, text)
    with pytest.raises(UserError, match=message) as caught:
        make(root, subject_csv=str(path))
    assert str(caught.value).startswith("data.subject_csv: ")
    assert "\n" not in str(caught.value)


def empty_class(root):
    (root / "empty").mkdir()


def loose(root):
    write(root / "x.png", encode(cell(0), "PNG"))


def zipped_class(root):
    zip_folder(root / "blast", root / "more.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty_class, "class empty has no image"),
        (loose, r"x\.png is not in a class folder"),
        (zipped_class, r"more\.zip would be a class"),
    ],
)
def test_another_layout(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message):
        make(root)


def test_a_root_that_is_a_level_too_high(root):
    with pytest.raises(UserError, match=r"only the class root \(.*a level too high"):
        make(root.parent)


def test_one_zip_with_the_classes(root, tmp_path):
    path = zip_folder(root, tmp_path / "all.zip")
    zipped, plain = make(path), make(root)
    assert [(e.id, e.label) for e in zipped.entries] == [(e.id, e.label) for e in plain.entries]
    for a, b in zip(zipped.entries, plain.entries, strict=True):
        np.testing.assert_array_equal(zipped.image(a), plain.image(b))


def test_the_background_is_looked_at(root, tmp_path):
    assert make(root).background == "black"
    for number in range(4):
        write(
            tmp_path / "b" / "ab"[number % 2] / f"{number}.png",
            encode(cell(1, 40, "bright"), "PNG"),
        )
    source = make(tmp_path / "b")
    assert source.background == "bright"
    assert any(n.startswith("background: bright (0% of") for n in texts(source))


def test_a_bad_image_does_not_hinder_the_look(root):
    write(root / "blast" / "p9_bad.png", b"nothing")
    assert make(root).background == "black"


def test_real_cells_of_fields_with_several_classes(shared, tmp_path):
    pattern = r"(BloodImage_\d+)"
    source = make(shared / "data" / "bccd_cells", subject_pattern=pattern)
    assert source.classes == ("Platelets", "RBC", "WBC")
    assert source.background == "bright"
    m, _ = scan(source, tmp_path, 2, "error")
    assert len(m) == 1430
    assert np.bincount(m.label).tolist() == [361, 697, 372]
    assert len(set(m.subject.tolist())) == 364
    for seed in range(20):
        split = make_split(m, "subject", seed)
        assert crossing_groups(m, split) == []
        for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            for label in range(3):
                of_class = m.label == label
                got = (of_class & (split.part == part)).sum() / of_class.sum()
                assert abs(got - share) < 0.02


@pytest.fixture
def raabin(tmp_path):
    """Folders of parts, as those of Raabin-WBC: Train, TestA, TestB, and a class in two only."""
    for number, part in enumerate(("Train", "TestA", "TestB", "validation_set")):
        for name in ("Lymphocyte", "Monocyte", "Rare")[: 3 - number % 2]:
            for image in range(3):
                write(
                    tmp_path / part / name / f"s{number % 2}_{part}{image}.png",
                    encode(cell(100 * number + 10 * image + len(name)), "PNG"),
                )
    return tmp_path


def test_parts_from_folders(raabin, tmp_path):
    with pytest.raises(UserError, match=r"keep their split with --config\.data\.part_from=folder"):
        make(raabin)
    source = make(raabin, part_from="folder", source_pattern="(s[01])_")
    assert source.classes == ("Lymphocyte", "Monocyte", "Rare")
    assert source.official_parts == {
        "Train": "train", "TestA": "test", "TestB": "test", "validation_set": "val",
    }  # fmt: skip
    assert len(source.entries) == 30
    first = source.entries[0]
    assert (first.id, first.label, first.phase) == (
        "TestA/Lymphocyte/s1_TestA0.png", 0, "TestA",
    )  # fmt: skip
    assert source.attributes["source"][first.id] == "s1"
    assert any(
        text.startswith("parts: TestA (6) is test, TestB (9) is test") for text in texts(source)
    )
    # The same by expressions, and by Python's arguments.
    by_pattern = image_folder.ImageFolder(
        raabin, part="^([^/]+)/", label="/([A-Z][a-z]+)/", source="(s[01])_"
    )
    assert by_pattern.entries == source.entries
    assert by_pattern.official_parts == source.official_parts
    again = config.load("cnn:image_folder", source.config_fields).data
    assert make_dataset(again).entries == source.entries


def test_classes_from_the_names_of_files(tmp_path):
    for number, name in enumerate(("MMY_1", "MMY_2", "BNE_1", "BNE_2")):
        write(tmp_path / f"{name}.png", encode(cell(number), "PNG"))
    source = make(tmp_path, label_pattern="([A-Z]+)_[0-9]")
    assert source.classes == ("BNE", "MMY")
    assert [entry.label for entry in source.entries] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"label_pattern": "(Mono)"},
            r"data\.label_pattern: .* finds no label in TestA/L.* \(18 of",
        ),
        ({"label_pattern": r"(\.png)"}, r"holds only the class \.png"),
        ({"part_pattern": "Mono"}, r"data\.part_pattern: the expression has no group"),
        (
            {"part_pattern": "/(s[01])_"},
            r"data\.part_pattern: no part is called s0, s1; parts are t",
        ),
        ({"source_pattern": "(s0)_"}, r"data\.source_pattern: .* finds no source in"),
        ({"part_pattern": "(T)", "part_from": "folder"}, r"give either this or part_from"),
    ],
)
def test_patterns_that_do_not_fit(raabin, fields, message):
    fields = ({} if "part_pattern" in fields else {"part_from": "folder"}) | fields
    with pytest.raises(UserError, match=message):
        make(raabin, **fields)


def test_parts_that_are_none(raabin):
    write(raabin / "extra" / "Rare" / "x.png", encode(cell(1), "PNG"))
    with pytest.raises(
        UserError, match=r"data\.part_from: no part is called extra; parts are train"
    ):
        make(raabin, part_from="folder")
    (raabin / "extra" / "Rare" / "x.png").rename(raabin / "Train" / "x.png")
    with pytest.raises(
        UserError, match=r"Train/x\.png is not in a class folder \(expected .*<part>/"
    ):
        make(raabin, part_from="folder")
    with pytest.raises(
        UserError, match=r"data\.part_from=folder: give either this or data\.part_p"
    ):
        config.load("cnn:image_folder", {"data.part_from": "folder", "data.part_pattern": "(t)"})


def test_real_cells_in_folders_of_parts(shared, tmp_path):
    """bccd_cells as Train/<class> and TestA/<class>: the same images, classes and subjects."""
    pattern = r"(BloodImage_\d+)"
    plain = make(shared / "data" / "bccd_cells", subject_pattern=pattern)
    part = {}
    for entry in plain.entries:
        side = "Train" if int(entry.subject[-3:]) % 4 else "TestA"
        part[f"{side}/{entry.id}"] = entry
        link = tmp_path / side / entry.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shared / "data" / "bccd_cells" / entry.path)
    source = make(tmp_path, subject_pattern=pattern, part_from="folder")
    assert source.official_parts == {"Train": "train", "TestA": "test"}
    assert source.classes == plain.classes
    for entry in source.entries:
        was = part.pop(entry.id)
        assert (entry.label, entry.subject) == (was.label, was.subject)
        assert source.read(entry) == plain.read(was)
    assert not part
