"""Groups where subjects are not known: blocks of consecutive images, or joined near duplicates."""

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leukjax.data.duplicates import near_duplicates
from leukjax.data.manifest import Manifest, join_groups, joined_name, natural
from leukjax.data.parts import HELD_OUT
from leukjax.data.records import Records
from leukjax.data.source import INFO, WARNING, Note
from leukjax.data.split_table import Split, check
from leukjax.errors import UserError

AUTO, NEAR_DUPLICATES = "auto", "near_duplicates"
_EMBARGOED = ("subject", "kfold")  # protocols that make parts of the groups


def regrouped(records: Records, rule: str) -> Records:
    """Returns the records with the groups of a rule; they are the unit of splits and intervals.

    Args:
      records: prepared images.
      rule: value of ``split.groups``: "auto" (subjects, joined by identical images); "blocks:N":
        each N consecutive images of a folder, in the natural order of their ids;
        "near_duplicates": groups that share a nearly identical image are joined.

    Raises:
      UserError: blocks where subjects are known.
    """
    if rule == AUTO:
        return records
    if rule == NEAR_DUPLICATES:
        group = joined_near_duplicates(records.manifest)
    elif records.subjects_known:
        raise UserError(
            f"split.groups={rule}: the subjects of {records.name} are known, and blocks would tear "
            "them apart. Set split.groups to auto or near_duplicates"
        )
    else:
        size = int(rule.partition(":")[2])
        group = blocks(records.manifest, size, records.attributes.get("source", {}))
    result = copy.copy(records)
    result.manifest = dataclasses.replace(records.manifest, group=group)
    counts = [len(np.unique(column)) for column in (records.manifest.group, group)]
    note = f"split.groups={rule} is an assumption: {counts[0]:,} groups became {counts[1]:,}"
    result.notes = [*records.notes, Note(WARNING, note)]
    return result


def blocks(manifest: Manifest, size: int, sources: Mapping[str, str]) -> np.ndarray:
    """Returns the group of each image: its block, joined with others by identical images, str[n].

    Args:
      manifest: the images.
      size: images of a block; the last of a sequence may be smaller.
      sources: id -> where it was taken; images of a sequence share folder, phase and source.
    """
    order, start = _sequences(manifest, sources)
    names = np.empty(len(manifest), object)
    for place, (row, first) in enumerate(zip(order.tolist(), start.tolist(), strict=True)):
        key = _sequence(manifest, row, sources)
        names[row] = (
            f"{' '.join(filter(None, key)) or 'images'} block {(place - first) // size + 1}"
        )
    return join_groups(names.astype(np.str_), manifest.sha256, manifest.pixels)


def joined_near_duplicates(manifest: Manifest) -> np.ndarray:
    """Returns the group of each image, joined where images are nearly identical, str[n]."""
    # The finder lists a bounded number of pairs, between groups alone: until it finds none.
    while pairs := near_duplicates(manifest):
        names, codes = manifest.group_codes
        a, b = codes[[pair.a for pair in pairs]], codes[[pair.b for pair in pairs]]
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(names), len(names)))
        component = connected_components(graph, directed=False)[1]
        members: dict[int, set[str]] = {}
        for name, number in zip(names.tolist(), component.tolist(), strict=True):
            members.setdefault(number, set()).add(name)
        title = [joined_name(sorted(members[c], key=natural)) for c in range(len(members))]
        group = np.array(title, np.str_)[component[codes]]
        manifest = dataclasses.replace(manifest, group=group)
    return manifest.group


def with_embargo(manifest: Manifest, split: Split, rule: str, sources: Mapping[str, str]) -> Split:
    """Returns a split without the images on both sides of a boundary between parts.

    Two consecutive images of a sequence may be of one person although a block ends between them:
    if they are in different parts, neither is used. What is held out stays so. Only parts that were
    made of blocks have an embargo: given ones are kept to the image.

    Raises:
      UserError: a part lacks a class without these images.
    """
    if not rule.startswith("blocks:") or split.protocol not in _EMBARGOED:
        return split
    order, start = _sequences(manifest, sources)
    before, after = order[:-1], order[1:]
    part = split.part
    apart = (start[:-1] == start[1:]) & (part[before] != part[after])
    apart &= (part[before] != "") & (part[after] != "")
    dropped = np.zeros(len(part), bool)
    dropped[before[apart]] = dropped[after[apart]] = True
    dropped &= part != HELD_OUT
    text = (
        f"embargo: {int(dropped.sum()):,} images beside a boundary between two parts are not used"
    )
    notes = (*split.notes, Note(INFO, text))
    split = dataclasses.replace(split, part=np.where(dropped, "", part), notes=notes)
    check(manifest, split)
    return split


def _sequence(manifest: Manifest, row: int, sources: Mapping[str, str]) -> tuple[str, str, str]:
    """Returns source, phase and folder of an image."""
    id = str(manifest.id[row])
    folder = re.sub(r"^\.$", "", PurePosixPath(id).parent.as_posix())
    return sources.get(id, ""), str(manifest.phase[row]), folder


def _sequences(
    manifest: Manifest, sources: Mapping[str, str]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Returns the rows in order, sequence by sequence, and the place where each one's begins."""
    keys = [_sequence(manifest, row, sources) for row in range(len(manifest))]
    ids = manifest.id.tolist()
    order = sorted(range(len(ids)), key=lambda row: (keys[row], natural(ids[row])))
    start = np.zeros(len(order), np.int64)
    for place in range(1, len(order)):
        same = keys[order[place]] == keys[order[place - 1]]
        start[place] = start[place - 1] if same else place
    return np.array(order, np.int64), start
