"""Given splits: parts of the data or of a file, kept to the image."""

import numpy as np
import pytest
from test_split import manifest

import leukjax as lj
from leukjax.data.given_split import from_file
from leukjax.data.source import WARNING
from leukjax.data.split import HELD_OUT, crossing_groups, make_split, save_csv, split_given
from leukjax.errors import UserError

PHASES = {"Train": "train", "valid": "val", "Test": "test"}


def forty(phases=None):
    """Forty images of 20 groups of two, two classes, ids as in folders."""
    groups = [f"g{k // 2:02d}" for k in range(40)]
    ids = [f"{'ab'[k // 2 % 2]}/{k:02d}.png" for k in range(40)]
    return manifest(groups, [k // 2 % 2 for k in range(40)], phases, ids=ids)


def parts(test=12, val=8):
    """Parts of the forty images: the last test, those before validate."""
    return ["train"] * (40 - test - val) + ["val"] * val + ["test"] * test


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def given(m, **options):
    return make_split(m, "given", 0, **options)


def test_the_split_csv_of_a_run_gives_its_parts_to_the_image(tmp_path):
    m = forty()
    before = make_split(m, "subject", 7)
    save_csv(m, before, tmp_path / "split.csv")
    split = given(m, file=tmp_path / "split.csv")
    assert split.part.tolist() == before.part.tolist()
    assert split.protocol == "given"
    assert not split.notes
    rows = np.random.default_rng(0).permutation(40)
    assert given(m.take(rows), file=tmp_path / "split.csv").part.tolist() == (
        before.part[rows].tolist()
    )


def test_what_is_held_out_or_unused_stays_so(tmp_path):
    m = forty()
    stated = [*parts()[:-4], HELD_OUT, HELD_OUT, "", ""]
    file = write(tmp_path / "s.csv", "id,part", zip(m.id.tolist(), stated, strict=True))
    assert given(m, file=file).part.tolist() == stated


@pytest.mark.parametrize("header", ["path,part", "file,split", "Filename,Part", "id,part"])
def test_images_are_found_by_id_path_or_file_name(tmp_path, header):
    m = forty()
    names = [name if k % 3 else f"elsewhere/{name[2:]}" for k, name in enumerate(m.id.tolist())]
    called = [{"train": "Training", "val": "valid", "test": "TEST"}[part] for part in parts()]
    file = write(tmp_path / "s.csv", header, zip(names, called, strict=True))
    assert given(m, file=file).part.tolist() == parts()


def test_images_that_are_not_listed_are_unused_and_counted(tmp_path):
    m = forty()
    rows = [row for k, row in enumerate(zip(m.id.tolist(), parts(), strict=True)) if k % 20 > 3]
    split = given(m, file=write(tmp_path / "s.csv", "id,part", rows))
    assert split.part.tolist() == [p if k % 20 > 3 else "" for k, p in enumerate(parts())]
    assert [str(note) for note in split.notes] == [
        "8 labelled images are not in s.csv and are not used"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,part\nx1,test\nx2,test\na/00.png,test\nx3,test\nx4,test\n",
            "names 4 images that the data set lacks, or has several of: x1, x2, x3 and 1 more",
        ),
        ("id,part\na/00.png,test\na/00.png,train\n", "row 3 names a/00.png again"),
        ("id,part\na/00.png,exam\n", "row 2: the part 'exam' is none of train, val, test"),
        ("id,fold\na/00.png,1\n", "has the columns id, fold; it needs one of"),
        ("", "it needs one of"),
        ("id,part\na/00.png\n", "is no CSV"),
        ("id,part\na/00.png,train\n", "no labelled image is in the part test"),
        ("id,part\na/00.png,test\n", "no labelled image is in the part train"),
        (None, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, content, message):
    file = tmp_path / "s.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        given(forty(), file=file)
    assert "\n" not in str(caught.value)


def test_a_file_name_of_two_images_is_not_guessed(tmp_path):
    m = manifest(["g", "h"], [0, 1], ids=["a/1.png", "b/1.png"])
    with pytest.raises(UserError, match=r"names 1 images .* has several of: 1\.png"):
        from_file(write(tmp_path / "s.csv", "path,part", [("1.png", "test")]), m, [])


def test_parts_of_the_data_and_a_validation_that_is_made():
    m = forty(["Train"] * 28 + ["Test"] * 12)
    published = {"Train": "train", "Test": "test"}
    split = given(m, official_parts=published)
    assert (split.part[28:] == "test").all()
    number = int((split.part == "val").sum())
    assert number in (4, 6, 8)  # 15 % of 40, in whole groups of both classes
    assert crossing_groups(m, split) == []
    assert set(m.label[split.part == "val"].tolist()) == {0, 1}
    (note,) = split.notes
    assert str(note).startswith(f"validation is made of train: {number} images of ")
    other = make_split(m, "given", 1, official_parts=published)
    assert (other.part[28:] == "test").all()
    assert (other.part != split.part).any()  # the seed draws
    auto = make_split(m, "auto", 0, official_parts=published)
    assert (auto.protocol, auto.part.tolist()) == ("given", split.part.tolist())


def test_auto_takes_the_file(tmp_path):
    m = forty(["Train"] * 20 + ["valid"] * 8 + ["Test"] * 12)
    file = write(tmp_path / "s.csv", "id,part", zip(m.id.tolist(), parts()[::-1], strict=True))
    split = make_split(m, "auto", 0, official_parts=PHASES, file=file)
    assert split.part.tolist() == parts()[::-1]
    assert make_split(m, "auto", 0, official_parts=PHASES).protocol == "official"


@pytest.fixture
def crossing():
    """Group g19 has three test images and one of train; g00 one of test, one of train."""
    m = forty(["Train"] * 20 + ["valid"] * 8 + ["Test"] * 12)
    m.group[2], m.phase[0] = "g19", "Test"
    return m


def test_groups_that_cross_are_refused(crossing):
    message = r"2 groups have .*: g00 \(train, test\), g19 \(train, test\). Set split.crossing to"
    with pytest.raises(UserError, match=message):
        given(crossing, official_parts=PHASES)


def test_groups_that_cross_are_moved_dropped_or_kept(crossing):
    stated = np.array([PHASES[phase] for phase in crossing.phase.tolist()])
    moved = given(crossing, official_parts=PHASES, crossing="move")
    assert np.flatnonzero(moved.part != stated).tolist() == [0, 2]
    assert moved.part[[0, 2]].tolist() == ["train", "test"]  # a tie goes to train
    assert not moved.leaky
    dropped = given(crossing, official_parts=PHASES, crossing="drop")
    assert np.flatnonzero(dropped.part != stated).tolist() == [0, 2]
    assert dropped.part[[0, 2]].tolist() == ["", ""]
    kept = given(crossing, official_parts=PHASES, crossing="keep")
    assert kept.part.tolist() == stated.tolist()
    assert kept.leaky
    assert kept.notes[0].level == WARNING
    official = make_split(crossing, "official", 0, official_parts=PHASES, crossing="refuse")
    assert official.part.tolist() == moved.part.tolist()


def test_keep_is_leaky_only_if_a_group_crosses():
    m = forty(["Train"] * 20 + ["valid"] * 8 + ["Test"] * 12)
    assert not given(m, official_parts=PHASES, crossing="keep").leaky


def test_folds_leave_given_test_images_out(tmp_path):
    m = forty()
    stated = [*parts()[:-14], "", "", *parts()[-12:]]
    file = write(tmp_path / "s.csv", "id,part", zip(m.id.tolist(), stated, strict=True))
    tested = np.zeros(40, int)
    for fold in range(3):
        split = make_split(m, "kfold", 0, 3, fold, "given", file=file)
        assert (split.part[-12:] == HELD_OUT).all()
        assert (split.part[-14:-12] == "").all()
        tested += split.part == "test"
    assert tested.tolist() == [1] * 26 + [0] * 14


def test_without_parts_it_is_refused():
    with pytest.raises(UserError, match=r"no official split. Set .* or give split.file"):
        given(forty())


def test_the_python_function(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    data = lj.Arrays(images, np.arange(40) // 2 % 2, np.arange(40) // 2)
    ids = data.manifest.id.tolist()
    file = write(tmp_path / "s.csv", "path,part", zip(ids, parts(), strict=True))
    split = lj.split_given(data, file)
    assert [len(p) for p in (split.train, split.val, split.test)] == [20, 8, 12]
    assert split.test.manifest.id.tolist() == ids[28:]
    with pytest.raises(ValueError, match="crossing: 'split' is not one of refuse, move"):
        split_given(data, file, crossing="split")
    with pytest.raises(TypeError, match="expected a Dataset"):
        split_given([1])


def test_one_source_tests_and_the_others_train():
    m = forty()
    sources = {id: f"site{(1, 2, 10, 3)[k // 10]}" for k, id in enumerate(m.id.tolist())}
    tested = []
    for fold in range(4):
        split = make_split(m, "leave_one_source_out", 0, fold=fold, sources=sources)
        (tests,) = {sources[id] for id in m.id[split.part == "test"].tolist()}
        tested.append(tests)
        assert (split.part == "test").sum() == 10
        assert (split.part == "val").sum() in (4, 6, 8)
        assert crossing_groups(m, split) == []
        assert split.notes[0].text == f"the source {tests} tests; 3 others train"
    assert tested == ["site1", "site2", "site3", "site10"]
    with pytest.raises(UserError, match=r"split\.fold: 4 is not in 0\.\.3 \(4 sources\)"):
        make_split(m, "leave_one_source_out", 0, fold=4, sources=sources)


def test_a_group_of_two_sources_and_images_of_none():
    m = forty()
    sources = {id: "ab"[k // 20] for k, id in enumerate(m.id.tolist())}
    sources[m.id[0].item()] = ""
    sources[m.id[2].item()] = "b"  # its group has another image of a
    with pytest.raises(UserError, match=r"1 groups have images in several parts: g01"):
        make_split(m, "leave_one_source_out", 0, sources=sources)
    split = make_split(m, "leave_one_source_out", 0, sources=sources, crossing="drop")
    assert split.part[[0, 3]].tolist() == ["", ""]  # a tie keeps what trains
    assert any("1 labelled images have no source" in note.text for note in split.notes)


def test_no_sources_are_refused():
    with pytest.raises(UserError, match="of 0 sources, and it needs two"):
        make_split(forty(), "leave_one_source_out", 0)
