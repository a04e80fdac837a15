"""Which images train, validate and test; a group is never on two sides."""

import dataclasses
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from leukjax.data.datasets import cnmc_names
from leukjax.data.group_split import best_draw
from leukjax.data.manifest import Manifest
from leukjax.errors import UserError
from leukjax.storage import csv_writer, write_atomic

PARTS = ("train", "val", "test")
HELD_OUT = "held_out"  # out of all folds; no run reads it
SHARES = (0.70, 0.15, 0.15)
PROTOCOLS = ("auto", "subject", "official", "kfold", "image")

# C-NMC's releases as parts; the final phase has no labels and no part.
_OFFICIAL = {
    "fold_0": "train",
    "fold_1": "train",
    "fold_2": "val",
    cnmc_names.PRELIMINARY: "test",
}


@dataclasses.dataclass(frozen=True)
class Split:
    """A part for each row of a manifest.

    Attributes:
      part: str[n] of "train", "val", "test", "held_out", or "" where the image is not used.
      protocol: the one that was applied; never "auto".
      notes: sentences for the log; the grave ones begin with "WARNING:".
      leaky: a group may lie on two sides (protocol image): every score must say so.
    """

    part: np.ndarray
    protocol: str
    notes: tuple[str, ...] = ()
    leaky: bool = False

    def rows(self, part: str) -> Int[np.ndarray, "m"]:
        """Rows of the manifest that belong to a part, ascending."""
        return np.flatnonzero(self.part == part)


def make_split(
    manifest: Manifest,
    protocol: str,
    seed: int,
    folds: int = 5,
    fold: int = 0,
    held_out: str = "none",
) -> Split:
    """Splits the labelled images of a manifest.

    The result depends on ids, groups, labels and phases, not on the order of the rows.

    Args:
      manifest: the images.
      protocol: "subject": 70/15/15 by group, stratified by class and balanced in images and groups.
        "official": C-NMC's folds 0 and 1 train, 2 validates, preliminary tests; a group that
        crosses them goes to the side with more of its images. "kfold": fold `fold` tests, the next
        one validates, by group. "image": 70/15/15 by image, leaky. "auto": official where it can be
        had, else subject.
      seed: of the drawing; no effect on "official".
      folds: number of folds ("kfold").
      fold: the fold that tests, 0 <= fold < folds ("kfold").
      held_out: "kfold": the protocol whose test part stays out of all folds; "none" folds
        everything.

    Raises:
      UserError: an unknown protocol, too few groups, or a part that lacks a class.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"split.protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}")
    notes: list[str] = []
    if protocol == "auto":
        missing = _missing_for_official(manifest)
        protocol = "subject" if missing else "official"
        reason = f"no labelled image of {', '.join(missing)}" if missing else "all parts are there"
        notes.append(f"split.protocol auto: {protocol}, for {reason}")
    if protocol == "official":
        part = _official(manifest, notes)
    elif protocol == "kfold":
        outside = _outside(manifest, held_out, seed, notes)
        part = _kfold(manifest, seed, folds, fold, outside)
    else:
        part = _shares(manifest, protocol, seed)
    leaky = protocol == "image"
    if leaky:
        notes.append(
            "WARNING: split.protocol image puts images of one subject on several sides: scores are "
            "too high and comparable with nothing but the like"
        )
    split = Split(part, protocol, tuple(notes), leaky)
    check(manifest, split)
    return split


def check(manifest: Manifest, split: Split) -> None:
    """Proves that a split may be used.

    Raises:
      UserError: a group is on two sides (unless the protocol is "image"), a part lacks a class, or
        an unlabelled image is in a part.
    """
    used = split.part != ""
    if (manifest.label[used] < 0).any():
        row = np.flatnonzero(used & (manifest.label < 0))[0]
        raise UserError(f"split: {manifest.id[row]} has no label but a part: split again")
    if not split.leaky:
        torn = crossing_groups(manifest, split)
        if torn:
            raise UserError(f"split: group {torn[0]} is on two sides: split again by group")
    for part in PARTS:
        labels = manifest.label[split.part == part]
        for label, name in enumerate(manifest.classes):
            if not (labels == label).any():
                raise UserError(
                    f"split.protocol {split.protocol}: {part} has no image of class {name}: add "
                    "data of that class, or choose another split.protocol (subject, kfold) or "
                    "split.seed"
                )


def crossing_groups(manifest: Manifest, split: Split) -> list[str]:
    """Names of the groups that have images on more than one side."""
    names, codes = manifest.group_codes
    parts = (*PARTS, HELD_OUT)
    sides = np.zeros((len(names), len(parts)), bool)
    for i, part in enumerate(parts):
        sides[codes[split.part == part], i] = True
    return names[sides.sum(axis=1) > 1].tolist()


def shares(manifest: Manifest, split: Split) -> list[dict[str, str | int | float]]:
    """What was achieved: a row for each part and class, and one a part for all classes.

    What is held out counts nowhere.

    Returns:
      Rows with part, class ("" = all), images, image_share, groups, group_share; shares are of that
      class' images or groups in all parts. A group counts for each class that it holds.
    """
    used = np.isin(split.part, PARTS)
    codes = manifest.group_codes[1]
    rows: list[dict[str, str | int | float]] = []
    for label, name in [(-1, ""), *enumerate(manifest.classes)]:
        of_class = used if label < 0 else used & (manifest.label == label)
        images = int(of_class.sum())
        groups = len(np.unique(codes[of_class]))
        for part in PARTS:
            here = of_class & (split.part == part)
            n, g = int(here.sum()), len(np.unique(codes[here]))
            rows.append(
                {
                    "part": part,
                    "class": name,
                    "images": n,
                    "image_share": n / max(1, images),
                    "groups": g,
                    "group_share": g / max(1, groups),
                }
            )
    return rows


def to_csv(manifest: Manifest, split: Split) -> str:
    """The text of split.csv: id, subject, group, label, part; rows sorted by id."""
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
    """Writes split.csv, whole or not at all."""
    write_atomic(path, to_csv(manifest, split))


def checksum(manifest: Manifest, split: Split) -> str:
    """Hex SHA-256 of split.csv."""
    return hashlib.sha256(to_csv(manifest, split).encode()).hexdigest()


def _missing_for_official(manifest: Manifest) -> list[str]:
    there = set(np.unique(manifest.phase[manifest.label >= 0]).tolist())
    return [phase for phase in _OFFICIAL if phase not in there]


def _official(manifest: Manifest, notes: list[str]) -> np.ndarray:
    missing = _missing_for_official(manifest)
    if missing:
        raise UserError(
            f"split.protocol official: no labelled image of {', '.join(missing)}: download that "
            "part of C-NMC, or set split.protocol to subject"
        )
    side = np.full(len(manifest), -1)
    for phase, part in _OFFICIAL.items():
        side[(manifest.phase == phase) & (manifest.label >= 0)] = PARTS.index(part)
    names, codes = manifest.group_codes
    counts = np.zeros((len(names), len(PARTS)), np.int64)
    np.add.at(counts, (codes[side >= 0], side[side >= 0]), 1)
    settled = counts.argmax(axis=1)[codes]  # the first of equals: train, then val
    moved = (side >= 0) & (side != settled)
    if moved.any():
        groups = ", ".join(np.unique(manifest.group[moved]).tolist())
        notes.append(
            f"{int(moved.sum())} images of groups that cross the official parts ({groups}) were "
            "moved to the side that holds more of their group"
        )
    parts = np.array((*PARTS, ""))
    return parts[np.where(side >= 0, settled, -1)]


def _shares(manifest: Manifest, protocol: str, seed: int) -> np.ndarray:
    units, counts, labelled = _units(manifest, by_image=protocol == "image")
    _enough(manifest, counts, len(PARTS), protocol)
    assigned = best_draw(counts, SHARES, _generator(seed, protocol))
    part = np.zeros(len(manifest), "<U5")
    part[labelled] = np.array(PARTS)[assigned[units]]
    return part


def _outside(
    manifest: Manifest, protocol: str, seed: int, notes: list[str]
) -> Bool[np.ndarray, "n"]:
    """The images that no fold gets: the test part of another protocol."""
    if protocol == "none":
        return np.zeros(len(manifest), bool)
    if protocol not in ("auto", "subject", "official"):
        raise UserError(
            f"split.held_out: {protocol!r} is none of none, auto, subject, official: folds are "
            "made of groups, and no group may have images on both sides"
        )
    base = make_split(manifest, protocol, seed)
    outside = base.part == "test"
    groups = len(np.unique(manifest.group[outside]))
    notes += base.notes
    notes.append(
        f"held out of all folds: {int(outside.sum())} images of {groups} groups, the test part of "
        f"the protocol {base.protocol}"
    )
    return outside


def _kfold(
    manifest: Manifest, seed: int, folds: int, fold: int, outside: Bool[np.ndarray, "n"]
) -> np.ndarray:
    if folds < 3:
        raise UserError(
            f"split.folds: {folds} is too few: one fold tests, one validates, the others train"
        )
    if not 0 <= fold < folds:
        raise UserError(f"split.fold: {fold} is not in 0..{folds - 1} (split.folds is {folds})")
    units, counts, labelled = _units(manifest, by_image=False, outside=outside)
    _enough(manifest, counts, folds, "kfold")
    assigned = best_draw(counts, (1 / folds,) * folds, _generator(seed, f"kfold {folds}"))
    part = np.where(outside, HELD_OUT, "")
    own = assigned[units]
    part[labelled] = np.where(
        own == fold, "test", np.where(own == (fold + 1) % folds, "val", "train")
    )
    return part


def _units(
    manifest: Manifest, by_image: bool, outside: Bool[np.ndarray, "n"] | None = None
) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "u c"], Bool[np.ndarray, "n"]]:
    """What is dealt out whole: the unit of each labelled row, images by unit and class, the rows.

    Units are numbered by name, so that the order of the rows does not matter. Rows that are
    `outside` are left alone.
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
    """Refuses a class that has fewer units than there are parts to fill."""
    what = "images" if protocol == "image" else "groups"
    for label, name in enumerate(manifest.classes):
        units = int((counts[:, label] > 0).sum())
        if units < parts:
            mend = "lower split.folds or add data" if protocol == "kfold" else "add data"
            raise UserError(
                f"split.protocol {protocol}: class {name} has {units} {what}, and {parts} parts "
                f"are to be filled: {mend}"
            )


def _generator(seed: int, protocol: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(protocol.encode())])
