"""Class maps: what is mapped, left out, and refused."""

import numpy as np
import pytest

from leukjax.data.class_map import apply, resolve
from leukjax.errors import UserError

THEIRS, OURS = ("L1", "L2", "normal", "smudge"), ("all", "hem")


def test_several_classes_become_one_and_others_are_left_out(tmp_path, caplog):
    path = tmp_path / "map.csv"
    path.write_text("\ufefftheirs,ours,why\nL1, all,\nL2,all,\nsmudge,,no cell\nnormal,hem,\n")
    ours_of = resolve(path, THEIRS, OURS)
    assert ours_of == {"L1": "all", "L2": "all", "normal": "hem", "smudge": ""}
    assert resolve({"L1": "all"}, THEIRS, OURS)["normal"] == ""
    labels = np.array([0, 1, 3, 2, -1, 3, 2])
    mapped = apply(ours_of, labels, THEIRS, OURS, np.array([6, 5, 4, 2, 1, 0]))
    assert mapped.rows.tolist() == [6, 1, 0]
    assert mapped.labels.tolist() == [1, 0, 0]
    assert mapped.theirs.tolist() == ["normal", "L2", "L1"]
    assert mapped.left_out == {"no label": 1, "smudge": 2}
    assert "the class map leaves out no label (1 images), smudge (2 images)" in caplog.text


def test_without_a_map_the_names_must_be_ours():
    assert resolve(None, ("hem",), OURS) == {"hem": "hem"}
    with pytest.raises(UserError, match=r"'L1'.*data have L1, hem; the run has all, hem\. Give a"):
        resolve(None, ("L1", "hem"), OURS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("theirs,ours\nL3,all\n", "'L3' is no class of the data; its classes are L1, L2, normal"),
        ("theirs,ours\nL1,blast\n", "'blast' is no class of the run; its classes are all, hem"),
        ("theirs,ours\nL1,\n", "leaves out every class of the data"),
        ("theirs,ours\nL1,all\nL1,hem\n", "row 3 lists 'L1' again"),
        ("theirs;ours\nL1;all\n", "has the columns theirs;ours; it needs theirs,ours"),
        ("theirs,ours\nL1\n", "more or fewer columns"),
        ("theirs,ours\nL1,\0\n", "class_map: "),
        ("", "it needs theirs,ours"),
        (None, "No such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, content, message):
    path = tmp_path / "map.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="class_map: ") as caught:
        resolve(path, THEIRS, OURS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_image_left():
    with pytest.raises(UserError, match="no image has a class that it keeps"):
        apply(resolve({"L1": "all"}, THEIRS, OURS), np.array([2]), THEIRS, OURS, np.array([0]))
