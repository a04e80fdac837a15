"""Classes with fewer groups than parts or folds."""

import numpy as np
import pytest
from test_split import manifest

from leukjax.data.baselines import baselines
from leukjax.data.source import WARNING
from leukjax.data.split import PARTS, make_split
from leukjax.errors import UserError


def with_rare(groups_of_rare=2):
    """Ten groups of two images for each of two classes, and a few of a third."""
    labels = [k // 2 % 2 for k in range(40)] + [2] * groups_of_rare
    groups = [f"g{k // 2}" for k in range(40)] + [f"r{k}" for k in range(groups_of_rare)]
    return manifest(groups, labels, classes=("a", "b", "rare"))


def test_their_groups_train():
    m = with_rare()
    split = make_split(m, "subject", 0)
    assert split.rare == ("rare",)
    assert set(split.part[m.label == 2].tolist()) == {"train"}
    assert set(split.part[m.label != 2].tolist()) == set(PARTS)
    (note,) = split.notes
    assert note.level == WARNING
    assert "fewer groups than parts: rare (2); these groups train" in note.text
    # The other groups are split as if the class were not there.
    alone = manifest(m.group[:40], m.label[:40])
    assert split.part[:40].tolist() == make_split(alone, "subject", 0).part.tolist()


def test_folds_share_them_as_they_fit():
    m = with_rare(groups_of_rare=3)
    tested = np.zeros(len(m), int)
    for fold in range(5):
        split = make_split(m, "kfold", 0, 5, fold)
        assert split.rare == ("rare",)
        assert {0, 1} <= set(m.label[split.part == "test"].tolist())
        assert (m.label[split.part == "test"] == 2).sum() <= 1
        tested += split.part == "test"
    assert (tested == 1).all()


@pytest.mark.parametrize(
    ("labels", "protocol"),
    [
        ([0] * 5 + [1] * 2, "subject"),  # two classes
        ([0] * 5 + [1] * 2 + [2] * 2, "subject"),  # one class is left
        ([0] * 5 + [1] * 5 + [2] * 2, "image"),
    ],
)
def test_what_is_still_refused(labels, protocol):
    classes = ("a", "b", "c")[: max(labels) + 1]
    m = manifest([f"g{k}" for k in range(len(labels))], labels, classes=classes)
    with pytest.raises(UserError, match=r"class [bc] has 2 (groups|images) for 3 parts"):
        make_split(m, protocol, 0)


def test_a_class_without_images_is_refused():
    m = manifest([f"g{k}" for k in range(9)], [0, 1, 2] * 3, classes=("a", "b", "c", "none"))
    with pytest.raises(UserError, match="class none has 0 groups"):
        make_split(m, "subject", 0)


def test_baselines_of_a_training_part_that_lacks_a_class():
    m = with_rare(groups_of_rare=1)
    fold = next(
        f for f in range(4) if (make_split(m, "kfold", 0, 4, f).part[m.label == 2] == "test").all()
    )
    for baseline in baselines(m, make_split(m, "kfold", 0, 4, fold)):
        assert baseline.probabilities["test"].shape[1] == 3
        assert (baseline.probabilities["test"][:, 2] == 0).all()
