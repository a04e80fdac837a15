"""C-NMC in every layout that it is met in."""

import re
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import (
    cell,
    cnmc_rows,
    data_config,
    encode,
    small_cnmc,
    texts,
    write,
    write_cnmc,
    zip_folder,
)

from leukjax.data.datasets import cnmc
from leukjax.data.datasets.cnmc import PUBLISHED, Name, parse_name
from leukjax.data.manifest_builder import scan
from leukjax.data.split import make_split
from leukjax.errors import UserError

LABELS = "C-NMC_test_prelim_phase_data_labels.csv"


def entries(root):
    return cnmc.make(data_config(root)).entries


def content(source):
    """The content of the data set, in any layout."""
    return {(e.id, e.label, e.subject, e.phase) for e in source.entries}


@pytest.fixture(scope="module")
def tcia(tmp_path_factory):
    return small_cnmc(tmp_path_factory.mktemp("tcia"))


def kaggle(tcia, folder):
    base = folder / "C-NMC_Leukemia"
    shutil.copytree(tcia / "C-NMC_training_data", base / "training_data")
    prelim = "C-NMC_test_prelim_phase_data"
    shutil.copytree(tcia / prelim, base / "validation_data" / prelim)
    shutil.copy(tcia / LABELS, base / "validation_data" / LABELS)
    final = "C-NMC_test_final_phase_data"
    shutil.copytree(tcia / final, base / "testing_data" / final)
    return folder


def doubled(tcia, folder):
    for part in sorted(tcia.iterdir()):
        if part.is_dir():
            shutil.copytree(part, folder / part.name / part.name)
    inside = folder / "C-NMC_test_prelim_phase_data" / "C-NMC_test_prelim_phase_data"
    shutil.copy(tcia / LABELS, inside / LABELS)
    return folder


def zips(tcia, folder):
    for part in sorted(tcia.iterdir()):
        if part.is_dir():
            zip_folder(part, folder / f"{part.name}.zip", f"{part.name}/")
    shutil.copy(tcia / LABELS, folder)
    return folder


def one_zip(tcia, folder):
    kaggle(tcia, folder / "k")
    return zip_folder(folder / "k", folder / "archive.zip")


def fold_zips(tcia, folder):
    for fold in range(3):
        part = f"fold_{fold}"
        zip_folder(tcia / "C-NMC_training_data" / part, folder / f"{part}.zip")
    for part in ("C-NMC_test_prelim_phase_data", "C-NMC_test_final_phase_data"):
        shutil.copytree(tcia / part, folder / part)
    shutil.copy(tcia / LABELS, folder / "C-NMC_test_prelim_phase_data" / LABELS)
    return folder


@pytest.mark.parametrize("layout", [kaggle, doubled, zips, one_zip, fold_zips])
def test_every_layout_gives_the_same(tcia, tmp_path, layout):
    expected = cnmc.make(data_config(tcia))
    found = cnmc.make(data_config(layout(tcia, tmp_path)))
    assert content(found) == content(expected)
    assert len(found.entries) == 24 + 8 + 3
    a = {e.id: found.read(e) for e in found.entries}
    assert a == {e.id: expected.read(e) for e in expected.entries}
    official = [re.sub(r"of \S*labels\.csv", "", n) for n in texts(found)]
    assert official == [re.sub(r"of \S*labels\.csv", "", n) for n in texts(expected)]


def test_labels_subjects_and_phases(tcia):
    source = cnmc.make(data_config(tcia))
    assert source.classes == ("all", "hem")
    assert source.positive == "all"
    by_id = {e.id: e for e in source.entries}
    first = by_id["UID_1_1_1_all"]
    assert (first.label, first.subject, first.phase) == (0, "1", "fold_0")
    healthy = by_id["UID_H1_1_1_hem"]
    assert (healthy.label, healthy.subject, healthy.phase) == (1, "H1", "fold_0")
    # 1 = all, 0 = hem in the labels file; label 0 = all, 1 = hem here.
    one, two = by_id["preliminary/1"], by_id["preliminary/2"]
    assert (one.label, one.subject, one.phase) == (0, "50", "preliminary")
    assert (two.label, two.subject, two.phase) == (1, "H50", "preliminary")
    final = by_id["final/3"]
    assert (final.label, final.subject, final.phase) == (-1, "final/3", "final")
    assert cnmc.make(data_config(tcia, positive="hem")).positive == "hem"
    with pytest.raises(UserError, match=r"data\.positive: 'ALL'"):
        cnmc.make(data_config(tcia, positive="ALL"))


def test_h3_is_one_person(tmp_path):
    small_cnmc(tmp_path, test_phases=False)
    hem = tmp_path / "C-NMC_training_data" / "fold_1" / "hem"
    write(hem / "UID_h3_9_1_hem.bmp", encode(cell(90)))
    by_id = {e.id: e for e in entries(tmp_path)}
    assert by_id["UID_h3_9_1_hem"].subject == by_id["UID_H3_1_1_hem"].subject == "H3"


def test_final_images_are_cropped_and_the_cells_compared(tcia, tmp_path):
    source = cnmc.make(data_config(tcia))
    entry = next(e for e in source.entries if e.id == "final/1")
    image = source.image(entry)
    assert image.shape == (450, 450, 3)
    whole = encode(cell(33, 600))
    assert source.read(entry) == whole
    np.testing.assert_array_equal(image, cell(33, 600)[75:525, 75:525])
    manifest, _ = scan(source, tmp_path, 2, "error")
    (note,) = [n for n in texts(source) if "final images" in n]
    assert note.startswith("WARNING: final images")
    assert "the scales differ" in note
    split = make_split(manifest, "auto", 0)
    assert set(split.part[manifest.phase == "final"].tolist()) == {""}


def test_partial_downloads(tcia, tmp_path):
    root = tmp_path / "one"
    shutil.copytree(tcia / "C-NMC_training_data" / "fold_1", root / "fold_1")
    source = cnmc.make(data_config(root))
    assert {e.phase for e in source.entries} == {"fold_1"}
    assert "fold_0: not there (published: 3,527 images)" in texts(source)
    assert "final: not there (published: 2,586 images)" in texts(source)
    # The fold itself as root.
    assert content(cnmc.make(data_config(root / "fold_1"))) == content(source)


def test_preliminary_without_its_labels(tcia, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tcia, root)
    (root / LABELS).unlink()
    source = cnmc.make(data_config(root))
    assert {e.label for e in source.entries if e.phase == "preliminary"} == {-1}
    assert any("8 preliminary images are not labelled" in n for n in texts(source))
    assert any("8 images without labels (published: 1,867)" in n for n in texts(source))


def test_counts_are_compared_with_the_published_ones(shared, tmp_path):
    kinds = ["all"] * 1219 + ["hem"] * 648
    lines = ["Patient_ID,new_names,labels"]
    for number, kind in enumerate(kinds, start=1):
        person = f"{160 + number % 13}" if kind == "all" else f"H{160 + number % 15}"
        lines.append(f"UID_{person}_{number}_1_{kind}.bmp,{number}.bmp,{int(kind == 'all')}")
    paths = [row["path"] for row in cnmc_rows(shared) if row["path"].endswith(".bmp")]

    def packed(name, paths):
        # Names are enough: no image is read before the scan.
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in paths:
                archive.writestr(path, b"")
            archive.writestr(LABELS, "\ufeff" + "\r\n".join(lines))
        return data_config(tmp_path / name)

    source = cnmc.make(packed("whole.zip", paths))
    assert len(source.entries) == 15_114
    labelled = [e for e in source.entries if e.label >= 0]
    assert len(labelled) == 12_528
    assert len({e.subject for e in labelled}) == 101
    assert [n.rsplit(": ", 1)[-1] for n in texts(source)[:4]] == ["as published"] * 4
    assert texts(source)[4] == "final: 2,586 images without labels (as published)"
    assert len(texts(source)) == 5

    paths.remove("C-NMC_training_data/fold_2/hem/UID_h3_1_1_hem.bmp")
    note = texts(cnmc.make(packed("less.zip", paths)))[2]
    assert "hem 1,095 images of 14 subjects (published: 1,096 of 14)" in note
    assert "differs" in note


def test_unpacked_and_zipped_at_once(tcia, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tcia, root)
    zip_folder(tcia / "C-NMC_training_data", root / "C-NMC_training_data.zip")
    source = cnmc.make(data_config(root))
    assert not any("!" in e.path for e in source.entries)
    assert any("24 images are both unpacked and in a zip" in n for n in texts(source))


def place(root, name, data=None):
    return write(root / "C-NMC_training_data" / "fold_0" / name, data or encode(cell(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: place(r, "all/UID_1_1_1_all (1).bmp"), "not a file name of C-NMC"),
        (lambda r: place(r, "hem/UID_1_9_9_hem.bmp"), "not a file name of C-NMC"),
        (
            lambda r: place(r, "all/UID_H1_9_9_hem.bmp"),
            "name is of class hem, its folder of",
        ),
        (lambda r: place(r, "again/all/UID_1_1_1_all.bmp"), "the same image is at"),
    ],
)
def test_a_training_folder_that_contradicts_itself(tmp_path, change, message):
    small_cnmc(tmp_path, test_phases=False)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        entries(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("UID_50_1_1_all.bmp,1.bmp,1\n", ""), "no row for 1.bmp"),
        (lambda t: t + "UID_50_1_1_all.bmp,1.bmp,1\n", "1.bmp has two rows"),
        (lambda t: t + "UID_50_1_1_all.bmp,1868.bmp,1\n", "'1868.bmp' is none"),
        (lambda t: t + "UID_50_1_1_all.bmp,x.bmp,1\n", "'x.bmp' is none of the preliminary files"),
        (lambda t: t.replace("_all.bmp,1.bmp,1", "_all.bmp,1.bmp,0"), "line 2.*label '0'"),
        (lambda t: t.replace("_all.bmp,1.bmp,1", "_all.bmp,1.bmp,2"), "label '2'"),
        (lambda t: t.replace("UID_50_1_1_all", "somebody"), "'somebody.bmp'"),
        (lambda t: t.replace("labels", "label"), "lacks one of the columns"),
        (lambda t: t + "UID_50_1_1_all.bmp\n", "lacks one of the columns"),
        (lambda t: t + '"open', "no readable CSV"),
        (lambda t: "", "no row for 1.bmp"),
    ],
)
def test_a_labels_file_that_is_not_consistent(tmp_path, change, message):
    small_cnmc(tmp_path)
    path = tmp_path / LABELS
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        entries(tmp_path)
    assert LABELS in str(caught.value)


def test_damaged_labels_files_give_entries_or_a_line(tmp_path):
    small_cnmc(tmp_path)
    path = tmp_path / LABELS
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(5)
    refused = []
    for _ in range(150):
        data = whole.copy()
        places = random.integers(0, len(data), random.integers(1, 4))
        data[places] = random.integers(0, 256, len(places))
        path.write_bytes(data.tobytes()[: random.integers(1, 4 * len(data))])
        try:
            entries(tmp_path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)


def test_labels_of_images_that_are_not_there(tmp_path):
    small_cnmc(tmp_path)
    (tmp_path / "C-NMC_test_prelim_phase_data" / "3.bmp").unlink()
    notes = texts(cnmc.make(data_config(tmp_path)))
    assert any(n.startswith(f"1 of 8 rows of {LABELS} name images") for n in notes)


def test_files_that_are_left_out_are_counted(tcia, tmp_path):
    folder = shutil.copytree(tcia, tmp_path / "copy")
    (folder / "readme.pdf").write_bytes(b"x")
    note = "left out 1 file that is no image that leukjax reads: 1 .pdf"
    assert note in texts(cnmc.make(data_config(folder)))


def test_two_labels_files(tcia, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tcia, root)
    inside = root / "C-NMC_test_prelim_phase_data" / LABELS
    shutil.copy(root / LABELS, inside)
    assert content(cnmc.make(data_config(root))) == content(cnmc.make(data_config(tcia)))
    inside.write_text(inside.read_text() + "\n")
    with pytest.raises(UserError, match="differs from"):
        entries(root)


def test_another_layout(tmp_path):
    write(tmp_path / "cats" / "1.bmp", encode(cell(0)))
    with pytest.raises(UserError, match=r"not laid out as C-NMC 2019: found cats/1\.bmp; expected"):
        entries(tmp_path)
    write(tmp_path / "C-NMC_test_final_phase_data" / "1.bmp", encode(cell(0)))
    with pytest.raises(UserError, match="no labelled image"):
        entries(tmp_path)


def test_the_real_sample(shared, tmp_path):
    source = cnmc.make(data_config(shared / "data" / "C-NMC_Leukemia"))
    manifest, _ = scan(source, tmp_path, 2, "error")
    assert len(manifest) == 44
    assert len(set(manifest.subject.tolist())) == 21
    assert "20+21" in manifest.group
    assert manifest.subject[manifest.id == "UID_h3_1_1_hem"] == ["H3"]
    official = {row["path"].rsplit("/", 1)[-1][:-4]: row["sha256"] for row in cnmc_rows(shared)}
    assert [official[i] for i in manifest.id.tolist()] == manifest.sha256.tolist()
    assert 1 - 0.907 < manifest.area.min() < manifest.area.max() < 1 - 0.755
    split = make_split(manifest, "auto", 0)
    assert split.protocol == "subject"


@pytest.mark.slow
def test_a_complete_tree_of_synthetic_cells(shared, tmp_path):
    rows = [r for r in cnmc_rows(shared) if r["path"].startswith("C-NMC_training_data/")]
    source = cnmc.make(data_config(write_cnmc(tmp_path / "data", rows)))
    manifest, _ = scan(source, tmp_path / "cache", 2, "error")
    assert len(manifest) == 10_661
    assert len(set(manifest.subject.tolist())) == 73
    assert len(set(manifest.group.tolist())) == 66


numbers = st.integers(1, 99_999)


@given(numbers, numbers, numbers, st.sampled_from(["all", "hem"]), st.booleans())
def test_a_name_is_parsed_to_its_parts(subject, source_image, cell, label, small):
    marker = "" if label == "all" else "h" if small else "H"
    name = parse_name(f"UID_{marker}{subject}_{source_image}_{cell}_{label}.bmp")
    person = f"H{subject}" if label == "hem" else str(subject)
    assert name == Name(person, source_image, cell, label)


@given(st.from_regex(re.compile(r"UID_[Hh]?[0-9]+_[0-9]+_[0-9]+_(all|hem)\.bmp"), fullmatch=True))
def test_the_marker_is_there_if_and_only_if_the_cell_is_healthy(name):
    parsed = parse_name(name)
    assert (parsed is not None) == ((name[4] in "Hh") == name.endswith("_hem.bmp"))


@given(st.text(max_size=30))
def test_other_names_are_no_names(text):
    assert parse_name(text) is None


def test_near_misses_are_no_names():
    for name in (
        "UID_1_1_1_all.bmp ",
        "UID_1_1_1_all.BMP",
        "UID_1_1_all.bmp",
        "UID_1_1_1_all (1).bmp",
        "UID_١_1_1_all.bmp",
        "uid_1_1_1_all.bmp",
    ):
        assert parse_name(name) is None, name


def test_every_official_name_parses_to_the_published_counts(shared):
    found = {}
    for row in cnmc_rows(shared):
        parts = row["path"].split("/")
        if parts[0] != "C-NMC_training_data":
            continue
        name = parse_name(parts[3])
        assert name is not None, row["path"]
        assert name.label == parts[2]
        found.setdefault((parts[1], name.label), []).append(name.subject)
    for (fold, label), subjects in found.items():
        assert (len(subjects), len(set(subjects))) == PUBLISHED[fold][label]
    everyone = {subject for subjects in found.values() for subject in subjects}
    assert len(everyone) == 73
    assert "H3" in everyone
    assert sum(len(subjects) for subjects in found.values()) == 10_661
    # Without the H, 19 healthy people would be taken for leukaemic ones.
    assert len({s for s in everyone if s[0] == "H" and s[1:] in everyone}) == 19
