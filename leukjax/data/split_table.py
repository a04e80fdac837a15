"""`Split`: a part for each image; its checks, its shares, and split.csv."""

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from leukjax.data.dataset import Dataset, Subset
from leukjax.data.manifest import Manifest
from leukjax.data.parts import HELD_OUT, PARTS
from leukjax.data.source import Note
from leukjax.errors import UserError
from leukjax.storage import csv_writer, write_atomic


@dataclasses.dataclass(frozen=True)
class Split:
    """A part for each row of a manifest.

    Attributes:
      part: str[n] of "train", "val", "test", "held_out", or "" if the image is not used.
      protocol: the one that was applied; never "auto".
      notes: sentences for the log.
      leaky: a group may be on two sides (protocol image, or given with crossing "keep"): every
        score must say so.
      rare: classes that parts may lack: they have fewer groups than there are parts or folds, or
        a given part has none of them. Never one of two classes.
      dataset: the data set, if the split was made of one.
    """

    part: np.ndarray
    protocol: str
    notes: tuple[Note, ...] = ()
    leaky: bool = False
    rare: tuple[str, ...] = ()
    dataset: Dataset | None = None

    def __repr__(self) -> str:
        parts = (*PARTS, HELD_OUT) if (self.part == HELD_OUT).any() else PARTS
        counts = ", ".join(f"{part} {int((self.part == part).sum()):,}" for part in parts)
        return f"Split({self.protocol}: {counts} images)"

    def rows(self, part: str) -> Int[np.ndarray, "m"]:
        """Returns the rows of the manifest that belong to a part, ascending."""
        return np.flatnonzero(self.part == part)

    @property
    def train(self) -> Subset:
        """The images to train on."""
        return self._subset("train")

    @property
    def val(self) -> Subset:
        """The images to choose the best epoch by."""
        return self._subset("val")

    @property
    def test(self) -> Subset:
        """The images to report scores on."""
        return self._subset("test")

    def _subset(self, part: str) -> Subset:
        if self.dataset is None:
            raise ValueError("the split was made of a manifest: use split.rows(part)")
        return self.dataset.subset(self.rows(part), part)


def check(manifest: Manifest, split: Split) -> None:
    """Checks that a split may be used.

    Raises:
      UserError: a group is on two sides (unless the split is leaky), a part lacks a class that is
        not rare, or an unlabelled image is in a part.
    """
    used = split.part != ""
    if (manifest.label[used] < 0).any():
        row = np.flatnonzero(used & (manifest.label < 0))[0]
        raise UserError(f"split: {manifest.id[row]} has a part but no label. Split again")
    if not split.leaky:
        torn = crossing_groups(manifest, split)
        if torn:
            raise UserError(f"split: group {torn[0]} is on two sides. Split again by group")
    for part in PARTS:
        labels = manifest.label[split.part == part]
        for label, name in enumerate(manifest.classes):
            if name not in split.rare and not (labels == label).any():
                raise UserError(
                    f"split.protocol {split.protocol}: {part} has no image of class {name}. Add "
                    "data of that class, or choose another split.protocol (subject, kfold) or "
                    "split.seed"
                )


def crossing_groups(manifest: Manifest, split: Split) -> list[str]:
    """Returns the names of the groups that have images on more than one side."""
    names, codes = manifest.group_codes
    parts = (*PARTS, HELD_OUT)
    sides = np.zeros((len(names), len(parts)), bool)
    for i, part in enumerate(parts):
        sides[codes[split.part == part], i] = True
    return names[sides.sum(axis=1) > 1].tolist()


def shares(manifest: Manifest, split: Split) -> list[dict[str, str | int | float]]:
    """Returns the achieved shares: a row per part and class, and one per part for all classes.

    Images that are held out are not counted.

    Returns:
      Rows with part, class ("" = all), images, image_share, groups, group_share; shares are of the
      images or groups of that class in all parts. A group counts for each class that it holds.
    """
    used = np.isin(split.part, PARTS)
    codes = manifest.group_codes[1]
    table: list[dict[str, str | int | float]] = []
    for label, name in [(-1, ""), *enumerate(manifest.classes)]:
        in_class = used if label < 0 else used & (manifest.label == label)
        total_images, total_groups = int(in_class.sum()), len(np.unique(codes[in_class]))
        for part in PARTS:
            selected = in_class & (split.part == part)
            images, groups = int(selected.sum()), len(np.unique(codes[selected]))
            table.append(
                {
                    "part": part,
                    "class": name,
                    "images": images,
                    "image_share": images / max(1, total_images),
                    "groups": groups,
                    "group_share": groups / max(1, total_groups),
                }
            )
    return table


def to_csv(manifest: Manifest, split: Split) -> str:
    """Returns the text of split.csv: id, subject, group, label, part; rows sorted by id."""
    text = io.StringIO()
    writer = csv_writer(text)
    writer.writerow(["id", "subject", "group", "label", "part"])
    for row in np.argsort(manifest.id).tolist():
        label = int(manifest.label[row])
        name = manifest.classes[label] if label >= 0 else ""
        columns = (manifest.id, manifest.subject, manifest.group)
        writer.writerow([*(str(column[row]) for column in columns), name, split.part[row]])
    return text.getvalue()


def save_csv(manifest: Manifest, split: Split, path: Path) -> None:
    """Writes split.csv atomically."""
    write_atomic(path, to_csv(manifest, split))


def checksum(manifest: Manifest, split: Split) -> str:
    """Returns the hex SHA-256 of split.csv."""
    return hashlib.sha256(to_csv(manifest, split).encode()).hexdigest()
