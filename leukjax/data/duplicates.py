"""Pictures that occur twice: equal in bytes, equal in pixels, or nearly equal."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from leukjax.data.manifest import Manifest
from leukjax.files import write_whole

# Chosen on real cells (tests/data/test_duplicates.py). Scaling by 3/4 or a tenth more brightness
# moves the hash of a C-NMC cell by at most 4 bits and its area by under 2 %. Of 946 pairs of C-NMC
# cells no two different ones came under 14 bits; of 1,021,735 pairs of BCCD cells one came to 4,
# and its areas differ by 11 %. A JPEG of a cell on black is missed: its noise is not black.
MAX_DISTANCE = 4
MAX_AREA_RATIO = 1.02

# A folder of all but equal pictures must not fill the memory with pairs.
MAX_PAIRS = 100_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images, as rows of a manifest, and how they are alike.

    Attributes:
      a: row of one.
      b: row of the other.
      kind: "bytes", "pixels" or "near".
      distance: bits between their perceptual hashes.
    """

    a: int
    b: int
    kind: str
    distance: int


def identical_pairs(manifest: Manifest) -> list[Pair]:
    """Each image that repeats an earlier one (by id), paired with it; by bytes, else by pixels."""
    pairs = []
    order = np.argsort(manifest.id).tolist()
    first: dict[str, int] = {}
    for row in order:
        sha256, pixels = str(manifest.sha256[row]), str(manifest.pixels[row])
        for kind, digest in (("bytes", sha256), ("pixels", pixels)):
            earlier = first.get(digest) if digest else None
            if earlier is not None:
                pairs.append(Pair(earlier, row, kind, 0))
                break
        for digest in (sha256, pixels):
            first.setdefault(digest, row)
    return pairs


def near_duplicates(manifest: Manifest) -> list[Pair]:
    """Pairs across groups whose perceptual hashes and areas all but agree.

    Pictures without structure (hash 0) are left out, and at most MAX_PAIRS are listed. The images
    are compared within a window of like area only, so that 10,000 take about a second.
    """
    rows = np.flatnonzero(manifest.phash != 0)
    rows = rows[np.argsort(manifest.area[rows], kind="stable")]
    hashes, areas = manifest.phash[rows], manifest.area[rows].astype(np.float64)
    groups = manifest.group_codes[1][rows]
    ends = np.searchsorted(areas, areas * MAX_AREA_RATIO, side="right")
    pairs: list[Pair] = []
    block = 256
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        last = int(ends[stop - 1])
        distance = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, start:last])
        i, j = np.nonzero(distance <= MAX_DISTANCE)
        keep = (j > i) & (start + j < ends[start + i]) & (groups[start + i] != groups[start + j])
        for x, y in zip(i[keep].tolist(), j[keep].tolist(), strict=True):
            a, b = sorted((int(rows[start + x]), int(rows[start + y])))
            pairs.append(Pair(a, b, "near", int(distance[x, y])))
            if len(pairs) == MAX_PAIRS:
                return pairs
    return sorted(pairs, key=lambda pair: (pair.distance, pair.a, pair.b))


def save_csv(manifest: Manifest, pairs: list[Pair], path: Path) -> None:
    """Writes duplicates.csv: id_a, id_b, kind, distance, group_a, group_b, same_group."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id_a", "id_b", "kind", "distance", "group_a", "group_b", "same_group"])
    for pair in pairs:
        rows = (pair.a, pair.b)
        ids = [str(manifest.id[row]) for row in rows]
        groups = [str(manifest.group[row]) for row in rows]
        same = "yes" if groups[0] == groups[1] else "no"
        writer.writerow([*ids, pair.kind, pair.distance, *groups, same])
    write_whole(path, text.getvalue())


def describe(manifest: Manifest, pairs: list[Pair]) -> list[str]:
    """Sentences for the log: how many identical and near-identical pairs, and what they cross."""
    sentences = []
    same = [pair for pair in pairs if pair.kind != "near"]
    if same:
        a, b = _ends(same)
        subjects = int((manifest.subject[a] != manifest.subject[b]).sum())
        phases = int((manifest.phase[a] != manifest.phase[b]).sum())
        joined = len(np.unique(manifest.subject)), len(np.unique(manifest.group))
        sentences.append(
            f"{len(same):,} images repeat another one exactly; {subjects:,} of these pairs cross "
            f"subjects and {phases:,} cross official parts: {joined[0]:,} subjects form "
            f"{joined[1]:,} groups"
        )
    near = [pair for pair in pairs if pair.kind == "near"]
    if near:
        shown = ", ".join(f"{manifest.id[p.a]} ~ {manifest.id[p.b]}" for p in near[:3])
        more = "at least " if len(near) >= MAX_PAIRS else ""
        sentences.append(
            f"WARNING: {more}{len(near):,} pairs of nearly identical images lie in different "
            f"groups ({shown}): look at them in duplicates.csv"
        )
    return sentences


def _ends(pairs: list[Pair]) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    rows = np.array([(pair.a, pair.b) for pair in pairs], np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
