"""Splits: which images train, validate and test. A group is never on two sides."""

import dataclasses
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from leukjax.data.dataset import Dataset, Subset
from leukjax.data.group_split import best_draw
from leukjax.data.manifest import Manifest
from leukjax.data.source import INFO, WARNING, Note
from leukjax.errors import UserError
from leukjax.storage import csv_writer, write_atomic

PARTS = ("train", "val", "test")
HELD_OUT = "held_out"  # outside all folds; no run reads it
SHARES = (0.70, 0.15, 0.15)
PROTOCOLS = ("auto", "subject", "official", "kfold", "image")


@dataclasses.dataclass(frozen=True)
class Split:
    """A part for each row of a manifest.

    Attributes:
      part: str[n] of "train", "val", "test", "held_out", or "" if the image is not used.
      protocol: the one that was applied; never "auto".
      notes: sentences for the log.
      leaky: a group may be on two sides (protocol image): every score must say so.
      dataset: the data set, if the split was made of one.
    """

    part: np.ndarray
    protocol: str
    notes: tuple[Note, ...] = ()
    leaky: bool = False
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


def split_by_group(dataset: Dataset, *, shares: Sequence[float] = SHARES, seed: int = 0) -> Split:
    """Splits a data set into train, validation and test parts without splitting any group.

    Groups are subjects, joined if they share an identical image. Parts are stratified by class and
    balanced in images as well as in groups.

    Args:
      dataset: labelled images with a group per image.
      shares: fractions of train, validation and test; they sum to 1.
      seed: seed of the assignment.

    Returns:
      A `Split` whose `train`, `val` and `test` are subsets of `dataset`.

    Raises:
      ValueError: the shares are not three positive numbers that sum to 1, or a class has too few
        groups.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset: expected a Dataset, as lj.Arrays(images, labels, groups), got "
            f"{type(dataset).__name__}"
        )
    if len(shares) != len(PARTS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares: {tuple(shares)} are not three positive numbers that sum to 1")
    manifest = dataset.manifest
    part = _by_shares(manifest, "subject", seed, shares)
    split = Split(part, "subject", dataset=dataset)
    check(manifest, split)
    return split


def make_split(
    manifest: Manifest,
    protocol: str,
    seed: int,
    folds: int = 5,
    fold: int = 0,
    held_out: str = "none",
    *,
    official_parts: Mapping[str, str] | None = None,
) -> Split:
    """Splits the labelled images of a manifest.

    The result depends on ids, groups, labels and phases, not on the order of the rows.

    Args:
      manifest: the images.
      protocol: "subject": 70/15/15 by group, stratified by class and balanced in images and groups.
        "official": the parts that the data set was published with; a group that crosses them goes
        to the side with more of its images. "kfold": fold `fold` tests, the next one validates, by
        group. "image": 70/15/15 by image, leaky. "auto": official if all its parts have labelled
        images, else subject.
      seed: of the assignment; no effect on "official".
      folds: number of folds ("kfold").
      fold: the fold that tests, 0 <= fold < folds ("kfold").
      held_out: "kfold": the protocol whose test part stays outside all folds; "none" folds
        everything.
      official_parts: `Dataset.official_parts`; None or {} = the data set has no official split.

    Raises:
      UserError: an unknown protocol, too few groups, or a part that lacks a class.
    """
    official_parts = official_parts or {}
    if protocol not in PROTOCOLS:
        raise UserError(f"split.protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    notes: list[Note] = []
    if protocol == "auto":
        reason = _why_not_official(manifest, official_parts)
        protocol = "subject" if reason else "official"
        reason = reason or "all its parts have labelled images"
        notes.append(Note(INFO, f"split.protocol auto: {protocol} ({reason})"))
    if protocol == "official":
        part = _official(manifest, official_parts, notes)
    elif protocol == "kfold":
        outside = _outside(manifest, held_out, seed, official_parts, notes)
        part = _kfold(manifest, seed, folds, fold, outside)
    else:
        part = _by_shares(manifest, protocol, seed, SHARES)
    leaky = protocol == "image"
    if leaky:
        notes.append(
            Note(
                WARNING,
                "split.protocol image puts images of one subject on several sides: scores are too "
                "high, and comparable only with others of that kind",
            )
        )
    split = Split(part, protocol, tuple(notes), leaky)
    check(manifest, split)
    return split


def check(manifest: Manifest, split: Split) -> None:
    """Checks that a split may be used.

    Raises:
      UserError: a group is on two sides (unless the protocol is "image"), a part lacks a class, or
        an unlabelled image is in a part.
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
            if not (labels == label).any():
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


def _why_not_official(manifest: Manifest, official_parts: Mapping[str, str]) -> str:
    """Returns why there is no official split; "" if there is one."""
    if not official_parts:
        return "the data set has no official split"
    labelled = set(np.unique(manifest.phase[manifest.label >= 0]).tolist())
    missing = [phase for phase in official_parts if phase not in labelled]
    return f"no labelled image of {', '.join(missing)}" if missing else ""


def _official(
    manifest: Manifest, official_parts: Mapping[str, str], notes: list[Note]
) -> np.ndarray:
    reason = _why_not_official(manifest, official_parts)
    if reason:
        fix = "Add that part of the data set, or set" if official_parts else "Set"
        raise UserError(f"split.protocol official: {reason}. {fix} split.protocol to subject")
    side = np.full(len(manifest), -1)
    for phase, part in official_parts.items():
        side[(manifest.phase == phase) & (manifest.label >= 0)] = PARTS.index(part)
    names, codes = manifest.group_codes
    counts = np.zeros((len(names), len(PARTS)), np.int64)
    np.add.at(counts, (codes[side >= 0], side[side >= 0]), 1)
    settled = counts.argmax(axis=1)[codes]  # ties go to train, then to val
    moved = (side >= 0) & (side != settled)
    if moved.any():
        groups = ", ".join(np.unique(manifest.group[moved]).tolist())
        notes.append(
            Note(
                INFO,
                f"{int(moved.sum())} images of groups that cross the official parts ({groups}) "
                "were moved to the side that holds more of their group",
            )
        )
    parts = np.array((*PARTS, ""))
    return parts[np.where(side >= 0, settled, -1)]


def _by_shares(manifest: Manifest, protocol: str, seed: int, shares: Sequence[float]) -> np.ndarray:
    units, counts, labelled = _units(manifest, by_image=protocol == "image")
    _enough(manifest, counts, len(PARTS), protocol)
    assigned = best_draw(counts, shares, _generator(seed, protocol))
    part = np.zeros(len(manifest), "<U5")
    part[labelled] = np.array(PARTS)[assigned[units]]
    return part


def _outside(
    manifest: Manifest,
    protocol: str,
    seed: int,
    official_parts: Mapping[str, str],
    notes: list[Note],
) -> Bool[np.ndarray, "n"]:
    """Returns the images that are in no fold: the test part of another protocol."""
    if protocol == "none":
        return np.zeros(len(manifest), bool)
    if protocol not in ("auto", "subject", "official"):
        raise UserError(
            f"split.held_out: {protocol!r} is not one of none, auto, subject, official. Folds "
            "consist of groups, and no group may have images on both sides"
        )
    base = make_split(manifest, protocol, seed, official_parts=official_parts)
    outside = base.part == "test"
    groups = len(np.unique(manifest.group[outside]))
    text = (
        f"held out of all folds: {int(outside.sum())} images of {groups} groups, the test part of "
        f"the protocol {base.protocol}"
    )
    notes += [*base.notes, Note(INFO, text)]
    return outside


def _kfold(
    manifest: Manifest, seed: int, folds: int, fold: int, outside: Bool[np.ndarray, "n"]
) -> np.ndarray:
    if folds < 3:
        raise UserError(
            f"split.folds: {folds} is too few; one fold tests, one validates, the others train"
        )
    if not 0 <= fold < folds:
        raise UserError(f"split.fold: {fold} is not in 0..{folds - 1} (split.folds is {folds})")
    units, counts, labelled = _units(manifest, by_image=False, outside=outside)
    _enough(manifest, counts, folds, "kfold")
    assigned = best_draw(counts, (1 / folds,) * folds, _generator(seed, f"kfold {folds}"))
    part = np.where(outside, HELD_OUT, "")
    fold_of_row = assigned[units]
    validates = fold_of_row == (fold + 1) % folds
    part[labelled] = np.where(fold_of_row == fold, "test", np.where(validates, "val", "train"))
    return part


def _units(
    manifest: Manifest, by_image: bool, outside: Bool[np.ndarray, "n"] | None = None
) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "u c"], Bool[np.ndarray, "n"]]:
    """Returns the unit of each labelled row, the images by unit and class, and these rows.

    Units are assigned to parts as a whole. They are numbered by name, so that the order of the
    rows does not matter. Rows that are `outside` are left out.
    """
    labelled = manifest.label >= 0
    if outside is not None:
        labelled &= ~outside
    if by_image:
        rows = np.flatnonzero(labelled)
        units = np.empty(len(rows), np.int64)
        units[np.argsort(manifest.id[rows])] = np.arange(len(rows))
        number = len(rows)
    else:
        # Groups without a labelled image would be empty units.
        present, units = np.unique(manifest.group_codes[1][labelled], return_inverse=True)
        number = len(present)
    counts = np.zeros((number, len(manifest.classes)))
    np.add.at(counts, (units, manifest.label[labelled]), 1)
    return units, counts, labelled


def _enough(
    manifest: Manifest, counts: Float[np.ndarray, "u c"], parts: int, protocol: str
) -> None:
    """Raises UserError if a class has fewer units than there are parts."""
    what = "images" if protocol == "image" else "groups"
    for label, name in enumerate(manifest.classes):
        units = int((counts[:, label] > 0).sum())
        if units < parts:
            fix = "Lower split.folds or add data" if protocol == "kfold" else "Add data"
            raise UserError(
                f"split.protocol {protocol}: class {name} has {units} {what} for {parts} parts. "
                f"{fix}"
            )


def _generator(seed: int, protocol: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(protocol.encode())])
