"""The parts of a split, and the names that tables and folders give them."""

import re
from collections.abc import Iterable

ONE_SOURCE = "leave_one_source_out"  # a protocol
PARTS = ("train", "val", "test")
HELD_OUT = "held_out"  # outside all folds; no run reads it
SHARES = (0.70, 0.15, 0.15)
CROSSING = ("refuse", "move", "drop", "keep")  # what becomes of groups that cross given parts
# Names of parts that data come with, in lower case.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def part_of(name: str) -> str:
    """Returns "train", "val" or "test", by the first word of a name; "" if it means none.

    Every name that begins with test is test: TestA, test_set.
    """
    word = re.match("[a-z]*", name.lower())[0]  # type: ignore[index]
    return PART_NAMES.get(word, "test" if word.startswith("test") else "")


def official_parts(phases: Iterable[str]) -> dict[str, str]:
    """Returns the part of each phase that names one; {} unless train and test are among them.

    Args:
      phases: `Entry.phase` of the images, as "Training", "valid" or "".
    """
    parts = {phase: part for phase in set(phases) if (part := part_of(phase))}
    return parts if {"train", "test"} <= set(parts.values()) else {}
