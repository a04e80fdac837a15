"""Given splits: parts that come with the data or in a file, kept to the image."""

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Bool

from leukjax.data import assignment
from leukjax.data.manifest import Manifest, natural
from leukjax.data.parts import HELD_OUT, ONE_SOURCE, PART_NAMES, PARTS, SHARES
from leukjax.data.source import INFO, WARNING, Note
from leukjax.errors import UserError
from leukjax.storage import read_csv

MAX_BYTES = 256 * 2**20  # of a file of parts
_NAMES = ("id", "path", "file", "filename", "file_name", "image")  # columns that name an image
_PARTS = ("part", "split")
_SIDES = (*PARTS, HELD_OUT)
_LISTED = 3  # images or groups that a message names


def from_data(manifest: Manifest, official_parts: Mapping[str, str]) -> np.ndarray:
    """Returns the part of each labelled image in the published split, str[n]; "" = none."""
    parts = [official_parts.get(phase, "") for phase in manifest.phase.tolist()]
    return np.where(manifest.label >= 0, np.array(parts, "<U8"), "")


def from_file(path: str | os.PathLike[str], manifest: Manifest, notes: list[Note]) -> np.ndarray:
    """Returns the part of each labelled image that a file states, str[n]; "" = none.

    Args:
      path: CSV with a header: ``split.csv`` of a run, or a column of images (id, path, file or
        filename) and one of parts (part or split). An image is found by its id, by its path, or by
        a file name that one image alone has. Parts may be called as in `PART_NAMES`; held_out and
        "" stay as they are.
      manifest: the images.
      notes: gets a note that counts the images without a row.

    Raises:
      UserError: a file that cannot be read, or names images or parts that do not exist.
    """
    rows = _read(path)
    row_of = _rows_by_name(manifest)
    part = np.full(len(manifest), "", "<U8")
    listed = np.zeros(len(manifest), bool)
    unknown = []
    for number, (name, stated) in enumerate(rows, start=2):
        row = _find(name, row_of)
        if row is None:
            unknown.append(name)
            continue
        if listed[row]:
            raise UserError(f"split.file: {path}: row {number} names {name} again. Remove one")
        listed[row] = True
        known = {HELD_OUT: HELD_OUT, "": "", **PART_NAMES}
        if stated.lower() not in known:
            raise UserError(
                f"split.file: {path}: row {number}: the part {stated[:100]!r} is none of "
                f"{', '.join(_SIDES)}. Change it, or leave it empty"
            )
        part[row] = known[stated.lower()]
    if unknown:
        raise UserError(
            f"split.file: {path} names {len(unknown):,} images that the data set lacks, or has "
            f"several of: {_some(unknown)}. Give the file of this data set"
        )
    missing = int((~listed & (manifest.label >= 0)).sum())
    if missing:
        text = f"{missing:,} labelled images are not in {os.path.basename(path)} and are not used"
        notes.append(Note(INFO, text))
    return np.where(manifest.label >= 0, part, "")


def by_source(
    manifest: Manifest, sources: Mapping[str, str], fold: int, notes: list[Note]
) -> np.ndarray:
    """Returns parts in which one source tests and the others train, str[n].

    Args:
      manifest: the images.
      sources: id -> where it was taken, "" = not known.
      fold: number of the source that tests, see `names_of_sources`.
      notes: gets a note that names it, and counts the images without a source.

    Raises:
      UserError: fewer than two sources, or no such one.
    """
    labelled = manifest.label >= 0
    source = np.array([sources.get(id, "") for id in manifest.id.tolist()], np.str_)
    names = names_of_sources(source[labelled].tolist())
    if len(names) < 2:
        raise UserError(
            f"split.protocol {ONE_SOURCE}: the labelled images are of {len(names)} sources, and it "
            "needs two. Give a table with the sources (data.columns: source=COLUMN)"
        )
    if not 0 <= fold < len(names):
        raise UserError(f"split.fold: {fold} is not in 0..{len(names) - 1} ({len(names)} sources)")
    notes.append(Note(INFO, f"the source {names[fold]} tests; {len(names) - 1} others train"))
    unknown = int((labelled & (source == "")).sum())
    if unknown:
        notes.append(Note(INFO, f"{unknown:,} labelled images have no source and are not used"))
    part = np.where(source == names[fold], "test", "train")
    return np.where(labelled & (source != ""), part, "").astype("<U8")


def names_of_sources(sources: Iterable[str]) -> list[str]:
    """Returns the different sources in natural order: their order as folds."""
    return sorted({source for source in sources if source}, key=natural)


def settle(
    manifest: Manifest, part: np.ndarray, crossing: str, notes: list[Note], name: str = "given"
) -> tuple[np.ndarray, bool]:
    """Decides what becomes of groups that cross parts.

    Args:
      manifest: the images.
      part: str[n].
      crossing: "refuse"; "move": the images of such a group go to the side with more of them (in a
        tie to train, then to val); "drop": those on the other sides are not used; "keep".
      notes: gets what was done.
      name: of the parts, for the notes.

    Returns:
      str[n], and whether groups still cross parts.

    Raises:
      UserError: groups cross and `crossing` is "refuse".
    """
    sides = np.array([_SIDES.index(p) if p else -1 for p in part.tolist()], np.int64)
    names, codes = manifest.group_codes
    counts = np.zeros((len(names), len(_SIDES)), np.int64)
    np.add.at(counts, (codes[sides >= 0], sides[sides >= 0]), 1)
    crosses = (counts > 0).sum(axis=1) > 1
    if not crosses.any():
        return part, False
    if crossing == "refuse":
        examples = [
            f"{names[group]} ({', '.join(np.array(_SIDES)[counts[group] > 0])})"
            for group in np.flatnonzero(crosses).tolist()
        ]
        raise UserError(
            f"split.crossing=refuse: {len(examples):,} groups have images in several parts: "
            f"{_some(examples)}. Set split.crossing to move (to the part with more of the group), "
            "drop (the others are not used) or keep (every score is marked as leaky)"
        )
    if crossing == "keep":
        notes.append(
            Note(
                WARNING,
                f"split.crossing keep: {int(crosses.sum()):,} groups have images in several parts: "
                "scores are too high, and comparable only with others of that kind",
            )
        )
        return part, True
    majority = counts.argmax(axis=1)[codes]
    elsewhere = (sides >= 0) & (sides != majority)
    notes.append(Note(INFO, _what_was_done(manifest, elsewhere, crossing, name)))
    target = np.array(_SIDES)[majority] if crossing == "move" else ""
    return np.where(elsewhere, target, part), False


def with_validation(
    manifest: Manifest, part: np.ndarray, seed: int, notes: list[Note], protocol: str = "given"
) -> np.ndarray:
    """Returns parts with validation, made of groups of train where there is none.

    It gets about 15 % of the images of the three parts, stratified by class.

    Raises:
      UserError: train or test has no image, or train has too few groups.
    """
    for name in ("train", "test"):
        if not (part == name).any():
            raise UserError(
                f"split.protocol {protocol}: no labelled image is in the part {name}. Add it to "
                "the parts, or set split.protocol to subject"
            )
    if (part == "val").any():
        return part
    train = part == "train"
    share = min(0.5, SHARES[1] * np.isin(part, PARTS).sum() / train.sum())
    chosen = assignment.some_groups(manifest, train, share, seed, protocol)
    groups = len(np.unique(manifest.group[chosen]))
    text = (
        f"validation is made of train: {int(chosen.sum()):,} images of {groups:,} groups "
        f"({share:.0%} of train, split.seed {seed})"
    )
    notes.append(Note(INFO, text))
    return np.where(chosen, "val", part)


def lacking(manifest: Manifest, part: np.ndarray, notes: list[Note]) -> tuple[str, ...]:
    """Returns the classes that a part lacks or that have fewer groups than there are parts.

    Args:
      manifest: the images.
      part: str[n].
      notes: gets a warning that lists what each part lacks.
    """
    groups = assignment.groups_of_classes(manifest, np.isin(part, PARTS))
    present = {name: np.unique(manifest.label[part == name]) for name in PARTS}
    lacks = {
        name: [c for label, c in enumerate(manifest.classes) if label not in labels]
        for name, labels in present.items()
    }
    if any(lacks.values()):
        text = "; ".join(f"{name} has no {', '.join(c)}" for name, c in lacks.items() if c)
        notes.append(Note(WARNING, f"{text}: scores are over the classes that are there"))
    few = {c for c, count in zip(manifest.classes, groups, strict=True) if count < len(PARTS)}
    return tuple(c for c in manifest.classes if c in few.union(*lacks.values()))


def _read(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Returns the name and the stated part of each row."""
    try:
        header, rows = read_csv(path, MAX_BYTES)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"split.file: {path} cannot be read ({reason})") from error
    except ValueError as error:
        raise UserError(f"split.file: {path} is no CSV ({str(error)[:200]})") from error
    by_lower = {name.strip().lower(): name for name in reversed(header)}
    columns = [
        next((by_lower[name] for name in names if name in by_lower), None)
        for names in (_NAMES, _PARTS)
    ]
    name, part = columns
    if name is None or part is None:
        raise UserError(
            f"split.file: {path} has the columns {', '.join(header)[:200]}; it needs one of "
            f"{', '.join(_NAMES)} and one of {', '.join(_PARTS)}"
        )
    return [(row[name].strip(), row[part].strip()) for row in rows]


def _rows_by_name(manifest: Manifest) -> list[dict[str, int | None]]:
    """Returns name -> row by id, by path and by file name; None where several images share it."""
    tables: list[dict[str, int | None]] = []
    files = [_file_name(path) for path in manifest.path.tolist()]
    for names in (manifest.id.tolist(), manifest.path.tolist(), files):
        table: dict[str, int | None] = {}
        for row, name in enumerate(names):
            table[name] = None if name in table else row
        tables.append(table)
    return tables


def _find(name: str, tables: list[dict[str, int | None]]) -> int | None:
    by_id, by_path, by_file = tables
    for table, key in ((by_id, name), (by_path, name), (by_file, _file_name(name))):
        row = table.get(key) if key else None
        if row is not None:
            return row
    return None


def _file_name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/").replace("!", "/")).name


def _what_was_done(
    manifest: Manifest, elsewhere: Bool[np.ndarray, "n"], crossing: str, name: str
) -> str:
    groups = _some(np.unique(manifest.group[elsewhere]).tolist(), 20)
    done = (
        "were moved to the side that holds more of their group"
        if crossing == "move"
        else "are not used: another side holds more of their group"
    )
    return f"{int(elsewhere.sum())} images of groups that cross the {name} parts ({groups}) {done}"


def _some(names: list[str], most: int = _LISTED) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name[:200] for name in names[:most]) + more
