"""The file names of C-NMC 2019, the published counts and sizes."""

import dataclasses
import re

# label 0 = all, 1 = hem: the order of `classes` here, and the reverse of the labels file, where
# 1 = all and 0 = hem.
CLASSES = ("all", "hem")
OF_LABELS_FILE = {"1": "all", "0": "hem"}

TRAINING = ("fold_0", "fold_1", "fold_2")
PRELIMINARY = "preliminary"
FINAL = "final"

# phase -> class -> (images, subjects); "" where the labels were never published.
PUBLISHED: dict[str, dict[str, tuple[int, int]]] = {
    "fold_0": {"all": (2397, 19), "hem": (1130, 9)},
    "fold_1": {"all": (2418, 11), "hem": (1163, 3)},
    "fold_2": {"all": (2457, 17), "hem": (1096, 14)},
    PRELIMINARY: {"all": (1219, 13), "hem": (648, 15)},
    FINAL: {"": (2586, 17)},
}

# Pixels a side of all images but those of the final phase, and of these.
SIDE, FINAL_SIDE = 450, 600

_NAME = re.compile(r"UID_([Hh]?)([0-9]+)_([0-9]+)_([0-9]+)_(all|hem)\.bmp")


@dataclasses.dataclass(frozen=True)
class Name:
    """What an official file name says.

    Attributes:
      subject: "1", "H3": "1" and "H1" are two people, "h3" and "H3" are one.
      source_image: number of the field that the cell was cut from.
      cell: number of the cell in it.
      label: "all" or "hem".
    """

    subject: str
    source_image: int
    cell: int
    label: str


def parse(name: str) -> Name | None:
    """Parses `UID_H3_1_2_hem.bmp`; None if it is no official name.

    The marker H stands if and only if the class is hem; one subject's files are written with a
    small h.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    marker, subject, source_image, cell, label = match.groups()
    if bool(marker) != (label == "hem"):
        return None
    return Name(f"{marker.upper()}{int(subject)}", int(source_image), int(cell), label)
