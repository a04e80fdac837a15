"""Public data sets of the field as published: names, counts, labels.

C-NMC 2019: doi 10.7937/tcia.2019.dc64i46r; counts of its files, class counts of the preliminary
phase as published with the challenge. ALL-IDB: Labati et al. 2011, ICIP.
"""

import dataclasses
import re
from collections.abc import Mapping

from leukjax.audit.paper import Paper


@dataclasses.dataclass(frozen=True)
class Part:
    """A released part: number of images, and of each class; None: the labels were never public."""

    name: str
    images: int
    classes: Mapping[str, int] | None


@dataclasses.dataclass(frozen=True)
class PublishedDataset:
    """A public data set.

    Attributes:
        name: name of the data set.
        pattern: matches its name in print.
        images: published totals.
        subjects: published totals; empty if unpublished.
        parts: released parts.
        labelled: numbers of images and subjects with public labels.
        positive: the positive class.
    """

    name: str
    pattern: str
    images: tuple[int, ...]
    subjects: tuple[int, ...]
    parts: tuple[Part, ...]
    labelled: tuple[int, int | None]
    positive: str


DATA_SETS = (
    PublishedDataset(
        "C-NMC 2019",
        r"c[-_ ]?nmc|leukemia-classification|isbi[-_ ]?2019",
        (15_114, 15_135),
        (118,),
        (
            Part("training", 10_661, {"all": 7_272, "hem": 3_389}),
            Part("preliminary test", 1_867, {"all": 1_219, "hem": 648}),
            Part("final test", 2_586, None),
        ),
        (12_528, 101),
        "all",
    ),
    PublishedDataset(
        "ALL-IDB1", r"all[-_ ]?idb[-_ ]?(version[-_ ]?|v)?1", (108, 109), (),
        (Part("all", 108, {"all": 49, "healthy": 59}),), (108, None), "all",
    ),
    PublishedDataset(
        "ALL-IDB2", r"all[-_ ]?idb[-_ ]?(version[-_ ]?|v)?2", (260,), (),
        (Part("all", 260, {"all": 130, "healthy": 130}),), (260, None), "all",
    ),
)  # fmt: skip


def by_name(paper: Paper) -> PublishedDataset | None:
    """Returns the data set that the paper names."""
    name = paper.data.get("name", "")
    return next((d for d in DATA_SETS if re.search(d.pattern, name, re.IGNORECASE)), None)


def by_numbers(paper: Paper) -> PublishedDataset | None:
    """Returns the data set whose published totals or parts the paper prints."""
    totals = {value for key, value in paper.data.items() if key.startswith("images")}
    sizes = set(paper.split.values())
    for known in DATA_SETS:
        released = {part.images for part in known.parts}
        if totals & set(known.images) or (len(released) > 1 and sizes and sizes <= released):
            return known
    return None


def part_of(paper: Paper, images: int | None) -> Part | None:
    """Returns the released part of the paper's data set with this number of images."""
    known = by_numbers(paper) or by_name(paper)
    parts = known.parts if known is not None else ()
    return next((part for part in parts if part.images == images), None)


def class_counts(paper: Paper, part: str, images: int | None) -> Mapping[str, int] | None:
    """Returns the class counts of a split of the paper: as printed, else as published."""
    printed = paper.data.get("classes_printed", {}).get(part)
    if printed:
        return printed
    released = part_of(paper, images)
    return released.classes if released is not None else None
