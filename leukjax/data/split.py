"""Splits: which images train, validate and test. A group is never on two sides."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Bool

from leukjax.data import assignment, given_split
from leukjax.data.dataset import Dataset
from leukjax.data.manifest import Manifest
from leukjax.data.parts import CROSSING, HELD_OUT, ONE_SOURCE, PARTS, SHARES
from leukjax.data.source import INFO, WARNING, Note
from leukjax.data.split_table import (
    Split,
    check,
    checksum,
    crossing_groups,
    save_csv,
    shares,
    to_csv,
)
from leukjax.errors import UserError

__all__ = [
    "HELD_OUT",
    "PARTS",
    "PROTOCOLS",
    "SHARES",
    "Split",
    "check",
    "checksum",
    "crossing_groups",
    "make_split",
    "save_csv",
    "shares",
    "split_by_group",
    "split_given",
    "to_csv",
]

PROTOCOLS = ("auto", "subject", "official", "given", "kfold", ONE_SOURCE, "image")


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
    _require_dataset(dataset)
    if len(shares) != len(PARTS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares: {tuple(shares)} are not three positive numbers that sum to 1")
    manifest = dataset.manifest
    part, rare = assignment.by_shares(manifest, "subject", seed, shares)
    notes = _on_rare(manifest, rare, part != "", "train")
    split = Split(part, "subject", tuple(notes), rare=rare, dataset=dataset)
    check(manifest, split)
    return split


def split_given(
    dataset: Dataset,
    file: str | PathLike[str] | None = None,
    *,
    crossing: str = "refuse",
    seed: int = 0,
) -> Split:
    """Splits a data set by parts that come with it or are in a file, kept to the image.

    Where there is no validation part it is made of groups of train.

    Args:
      dataset: labelled images with a group per image.
      file: CSV of images and parts: ``split.csv`` of a run, or the columns path and part. Default:
        the parts that the data set was published with.
      crossing: what becomes of groups with images in several parts: "refuse", "move" (to the part
        with more of them), "drop" (the others are not used) or "keep" (a leaky split, to reproduce
        a published one; `Trainer.fit` refuses its subsets).
      seed: of the validation part, if it is made.

    Returns:
      A `Split` whose `train`, `val` and `test` are subsets of `dataset`.

    Raises:
      ValueError: there are no parts, groups cross them, or the file does not fit the data set.
    """
    _require_dataset(dataset)
    if crossing not in CROSSING:
        choices = ", ".join(CROSSING)
        raise ValueError(f"crossing: {crossing!r} is not one of {choices}")
    split = make_split(
        dataset.manifest,
        "given",
        seed,
        official_parts=dataset.official_parts,
        file=file or "",
        crossing=crossing,
    )
    return dataclasses.replace(split, dataset=dataset)


def _require_dataset(dataset: Dataset) -> None:
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset: expected a Dataset, as lj.Arrays(images, labels, groups), got "
            f"{type(dataset).__name__}"
        )


def make_split(
    manifest: Manifest,
    protocol: str,
    seed: int,
    folds: int = 5,
    fold: int = 0,
    held_out: str = "none",
    *,
    official_parts: Mapping[str, str] | None = None,
    file: str | PathLike[str] = "",
    crossing: str = "refuse",
    sources: Mapping[str, str] | None = None,
) -> Split:
    """Splits the labelled images of a manifest.

    The result depends on ids, groups, labels and phases, not on the order of the rows.

    Args:
      manifest: the images.
      protocol: "subject": 70/15/15 by group, stratified by class and balanced in images and groups.
        "given": the parts of `file`, or those that the data set was published with, kept to the
        image; validation is made of train where there is none. "official": the published parts; a
        group that crosses them goes to the side with more of its images. "kfold": fold `fold`
        tests, the next one validates, by group. "leave_one_source_out": source `fold`, in natural
        order, tests; validation is made of groups of the others. "image": 70/15/15 by image, leaky.
        "auto": see `_choose`.
      seed: of the assignment; no effect on parts that are given.
      folds: number of folds ("kfold").
      fold: the fold that tests, 0 <= fold < folds ("kfold"), or the source.
      held_out: "kfold": the protocol whose test part stays outside all folds; "none" folds
        everything.
      official_parts: `Dataset.official_parts`; None or {} = the data set has no official split.
      file: CSV of images and parts ("given"); "" = the parts of the data set.
      crossing: what becomes of groups that cross given parts or sources; see `given_split.settle`.
      sources: id -> where it was taken, "" = not known ("leave_one_source_out").

    Raises:
      UserError: an unknown protocol, too few groups, a part that lacks a class, or parts that do
        not fit the images.
    """
    official_parts = official_parts or {}
    if protocol not in PROTOCOLS:
        raise UserError(f"split.protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    notes: list[Note] = []
    if protocol == "auto":
        protocol, reason = _choose(manifest, official_parts, file)
        notes.append(Note(INFO, f"split.protocol auto: {protocol} ({reason})"))
    leaky = protocol == "image"
    given: dict[str, Any] = {"official_parts": official_parts, "file": file, "crossing": crossing}
    if protocol in ("given", "official", ONE_SOURCE):
        if protocol == ONE_SOURCE:
            part = given_split.by_source(manifest, sources or {}, fold, notes)
            part, leaky = given_split.settle(manifest, part, crossing, notes, "sources'")
        else:
            part, leaky = _given(manifest, protocol, notes, **given)
        part = given_split.with_validation(manifest, part, seed, notes, protocol)
        rare = given_split.lacking(manifest, part, notes)
    elif protocol == "kfold":
        outside, leaky = _outside(manifest, held_out, seed, notes, **given)
        part, rare = assignment.by_folds(manifest, seed, folds, fold, outside != "")
        part = np.where(outside == "unused", "", part)
        notes += _on_rare(manifest, rare, np.isin(part, PARTS), "are spread over the folds")
    else:
        part, rare = assignment.by_shares(manifest, protocol, seed, SHARES)
        notes += _on_rare(manifest, rare, part != "", "train")
    if protocol == "image":
        notes.append(
            Note(
                WARNING,
                "split.protocol image puts images of one subject on several sides: scores are too "
                "high, and comparable only with others of that kind",
            )
        )
    split = Split(part, protocol, tuple(notes), leaky, rare if len(manifest.classes) > 2 else ())
    check(manifest, split)
    return split


def _why_not_official(manifest: Manifest, official_parts: Mapping[str, str]) -> str:
    """Returns why there is no official split; "" if there is one."""
    if not official_parts:
        return "the data set has no official split"
    labelled = set(np.unique(manifest.phase[manifest.label >= 0]).tolist())
    missing = [phase for phase in official_parts if phase not in labelled]
    return f"no labelled image of {', '.join(missing)}" if missing else ""


def _choose(
    manifest: Manifest, official_parts: Mapping[str, str], file: str | PathLike[str]
) -> tuple[str, str]:
    """Returns the protocol of "auto" and the reason.

    A file is used. Else the official split is, if all its parts have labelled images; one without
    validation is a given one, whose crossing groups need a decision.
    """
    if file:
        return "given", "split.file"
    reason = _why_not_official(manifest, official_parts)
    if reason:
        return "subject", reason
    if "val" not in official_parts.values():
        return "given", "the data set has train and test"
    return "official", "all its parts have labelled images"


def _given(
    manifest: Manifest,
    protocol: str,
    notes: list[Note],
    *,
    official_parts: Mapping[str, str],
    file: str | PathLike[str],
    crossing: str,
) -> tuple[np.ndarray, bool]:
    """Returns the parts of "given" or "official", and whether groups cross them."""
    if protocol == "given" and file:
        part = given_split.from_file(file, manifest, notes)
        return given_split.settle(manifest, part, crossing, notes)
    reason = _why_not_official(manifest, official_parts)
    if protocol == "given" and official_parts:
        reason = ""  # a part without labelled images is found later
    if reason:
        fix = "Add that part of the data set, or set" if official_parts else "Set"
        file_too = " or give split.file" if protocol == "given" else ""
        raise UserError(
            f"split.protocol {protocol}: {reason}. {fix} split.protocol to subject{file_too}"
        )
    part = given_split.from_data(manifest, official_parts)
    crossing = "move" if protocol == "official" else crossing
    return given_split.settle(manifest, part, crossing, notes, protocol)


def _outside(
    manifest: Manifest, protocol: str, seed: int, notes: list[Note], **given: Any
) -> tuple[np.ndarray, bool]:
    """Returns the images that are in no fold, and whether groups cross.

    Returns:
      str[n]: "held_out" for the test part of another protocol (and what a file holds out), "unused"
      for images without a part in given ones, "" for those to fold.
    """
    if protocol == "none":
        return np.full(len(manifest), "", "<U8"), False
    if protocol not in ("auto", "subject", "official", "given"):
        raise UserError(
            f"split.held_out: {protocol!r} is not one of none, auto, subject, official, given. "
            "Folds consist of groups, and no group may have images on both sides"
        )
    if protocol == "auto":
        protocol, reason = _choose(manifest, given["official_parts"], given["file"])
        notes.append(Note(INFO, f"split.held_out auto: {protocol} ({reason})"))
    if protocol == "given":  # folds need no validation part
        part, leaky = _given(manifest, protocol, notes, **given)
    else:
        base = make_split(manifest, protocol, seed, **given)
        part, leaky = base.part, base.leaky
        notes += base.notes
    outside = np.isin(part, ("test", HELD_OUT))
    groups = len(np.unique(manifest.group[outside]))
    text = (
        f"held out of all folds: {int(outside.sum())} images of {groups} groups, the test part of "
        f"the protocol {protocol}"
    )
    notes.append(Note(INFO, text))
    unused = (part == "") & (protocol == "given")
    return np.select([outside, unused], [HELD_OUT, "unused"], ""), leaky


def _on_rare(
    manifest: Manifest, rare: Sequence[str], used: Bool[np.ndarray, "n"], what: str
) -> list[Note]:
    """Returns a warning that lists the rare classes and what their groups do."""
    if not rare:
        return []
    groups = assignment.groups_of_classes(manifest, used)
    listed = ", ".join(f"{name} ({groups[manifest.classes.index(name)]})" for name in rare)
    text = f"classes with fewer groups than parts: {listed}; these groups {what}"
    return [Note(WARNING, f"{text}. Macro scores are given with and without these classes")]
