"""Scores of subgroups, and which have no interval or are left out."""

import numpy as np
from toy import made

from leukjax.metrics.evaluation import score
from leukjax.metrics.subgroups import NOT_STATED, subgroups


def test_a_subgroup_has_the_scores_of_its_images():
    p = made(1, groups=24)
    number = np.array([int(name[1:]) for name in p.group])
    sex = {i: "fm"[n // 2 % 2] for i, n in zip(p.id.tolist(), number, strict=True)}
    site = {i: "far" for i, n in zip(p.id.tolist(), number, strict=True) if n < 4}
    found = subgroups(p, {"sex": sex, "site": site}, "b")
    by_name = {(row.attribute, row.value): row for row in found.rows}
    assert list(by_name) == [("sex", "f"), ("sex", "m"), ("site", NOT_STATED), ("site", "far")]
    women = p.take(np.array([sex[i] == "f" for i in p.id.tolist()]))
    expected = score(women, "b").by_image
    row = by_name["sex", "f"]
    assert (row.images, row.groups) == (len(women), 12)
    assert all(row.scores[name] == expected[name] for name in row.scores)
    assert row.scores["auroc"].low is not None
    # Four groups: numbers only.
    far = by_name["site", "far"]
    assert far.groups == 4
    assert far.scores["accuracy"].value is not None
    assert all(s.low is None and s.high is None for s in far.scores.values())
    assert far.scores["accuracy"].reason == "fewer than 5 groups"


def test_attributes_that_make_no_subgroups_are_named():
    p = made(2)
    ids = p.id.tolist()
    found = subgroups(
        p, {"id2": {i: i for i in ids}, "same": dict.fromkeys(ids, "x"), "other": {"?": "y"}}, "b"
    )
    assert found.rows == []
    assert found.notes[0].startswith("id2 is left out: it has ")
    assert found.notes[1] == "same is left out: it is x for every image."
    assert found.notes[2] == f"other is left out: it is {NOT_STATED} for every image."
