"""Names of C-NMC files: how they are parsed, and that none is dropped silently."""

import re

from hypothesis import given
from hypothesis import strategies as st
from trees import cnmc_rows

from leukjax.data.datasets.cnmc import PUBLISHED, Name, parse_name

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
