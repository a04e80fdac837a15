"""The manifest: groups, checksum, and the file that it is kept in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import cnmc_training

from leukjax.data.manifest import Manifest, join_groups, natural
from leukjax.errors import UserError


def manifest(n=6, **columns):
    defaults = {
        "classes": ("all", "hem"),
        "id": [f"i{k}" for k in range(n)],
        "path": [f"a,b/{k}.bmp" for k in range(n)],
        "label": [k % 2 for k in range(n)],
        "subject": [f"H{k // 2}" for k in range(n)],
        "group": [f"H{k // 2}" for k in range(n)],
        "phase": [""] * n,
        "sha256": [f"{k:064x}" for k in range(n)],
        "pixels": [f"{k + 99:064x}" for k in range(n)],
        "phash": [2**64 - 1 - k for k in range(n)],
        "area": [1 / (k + 3) for k in range(n)],
    }
    return Manifest(**(defaults | columns))


def test_what_is_saved_is_loaded(tmp_path):
    first = manifest(id=['quo"te', "com,ma", "ünï", "new\nline", " space ", "6"])
    first.save(tmp_path / "deep" / "manifest.csv")
    second = Manifest.load(tmp_path / "deep" / "manifest.csv")
    assert second.classes == first.classes
    for name in ("id", "path", "label", "subject", "group", "phase", "sha256", "phash", "area"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name), err_msg=name)
    assert second.area.dtype == np.float32
    assert second.phash.dtype == np.uint64
    assert second.checksum() == first.checksum()


@pytest.mark.parametrize("damage", ["", "#{}\n", '#{"classes": ["a"]}\nid,path\n1,2\n', None])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "m.csv"
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(UserError, match=r"m\.csv"):
        Manifest.load(path)


def test_columns_must_fit():
    with pytest.raises(ValueError, match="unique"):
        manifest(2, id=["a", "a"])
    with pytest.raises(ValueError, match="lengths"):
        manifest(2, label=[0])
    with pytest.raises(ValueError, match="labels"):
        manifest(2, label=[0, 2])


def test_the_checksum_is_of_the_content_and_not_of_the_order():
    m = manifest()
    assert m.take(np.arange(6)[::-1]).checksum() == m.checksum()
    assert manifest(path=["x"] * 6, area=[0.5] * 6).checksum() == m.checksum()
    changed = {
        "label": [1, 1, 0, 1, 0, 1],
        "subject": ["x", "H0", "H1", "H1", "H2", "H2"],
        "group": ["x", "H0", "H1", "H1", "H2", "H2"],
        "pixels": ["0"] * 6,
        "id": ["a", "b", "c", "d", "e", "f"],
        "classes": ("hem", "all"),
    }
    for name, value in changed.items():
        assert manifest(**{name: value}).checksum() != m.checksum(), name
    assert m.take(np.arange(5)).checksum() != m.checksum()


def test_groups_of_cnmc(shared):
    m = cnmc_training(shared)
    names = set(m.group.tolist())
    assert len(set(m.subject.tolist())) == 73
    assert len(names) == 66
    joined = {name for name in names if "+" in name}
    assert joined == {"20+21", "51+75+78", "H2+H4+H5+H6", "H3+H10"}


def test_equal_bytes_or_equal_pixels_join():
    subject = ["H10", "H2", "b", "c", "d", "e"]
    sha256 = ["1", "1", "2", "3", "4", ""]
    pixels = ["p", "q", "r", "r", "", ""]
    expected = ["H2+H10", "H2+H10", "b+c", "b+c", "d", "e"]
    assert join_groups(subject, sha256, pixels).tolist() == expected


def test_long_groups_get_a_short_name():
    assert set(join_groups([str(k) for k in range(20)], ["same"] * 20, [""] * 20)) == {
        "0+19 others"
    }
    assert join_groups([], [], []).shape == (0,)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 12), st.integers(0, 12))))
def test_groups_are_the_connected_components(rows):
    subject = [row[0] for row in rows]
    sha256 = [f"s{row[1]}" for row in rows]
    pixels = [f"p{row[2]}" for row in rows]
    group = join_groups(subject, sha256, pixels)
    # Reference: spread labels until nothing changes.
    reference = list(range(len(rows)))
    for _ in rows:
        for i in range(len(rows)):
            for j in range(len(rows)):
                if subject[i] == subject[j] or sha256[i] == sha256[j] or pixels[i] == pixels[j]:
                    reference[i] = reference[j] = min(reference[i], reference[j])
    for i in range(len(rows)):
        for j in range(len(rows)):
            assert (group[i] == group[j]) == (reference[i] == reference[j])


def test_natural_order():
    assert sorted(["H10", "H2", "3", "H2x", "20"], key=natural) == ["3", "20", "H2", "H2x", "H10"]
