"""Duplicate images: equal in bytes, equal in pixels, or nearly equal."""

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
from jaxtyping import Int

from leukjax.data.manifest import Manifest
from leukjax.data.source import INFO, WARNING, Note
from leukjax.storage import csv_writer, write_atomic

# Chosen on real cells (tests/data/test_duplicates.py). Scaling by 3/4 or 10 % more brightness
# changes the hash of a C-NMC cell by at most 4 bits and its area by less than 2 %. Of 946 pairs of
# different C-NMC cells none was closer than 14 bits; of 1,021,735 pairs of BCCD cells one was at 4,
# with areas that differ by 11 %. A JPEG of a cell on black is missed: its noise is not black.
MAX_DISTANCE = 4
MAX_AREA_RATIO = 1.02

# A folder of nearly equal images must not fill the memory with pairs.
MAX_PAIRS = 100_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two similar images, as rows of a manifest.

    Attributes:
      a: row of the first.
      b: row of the second.
      kind: "bytes", "pixels" or "near".
      distance: bits between their perceptual hashes.
    """

    a: int
    b: int
    kind: str
    distance: int


def identical_pairs(manifest: Manifest) -> list[Pair]:
    """Returns each image that repeats an earlier one (by id), by bytes or else by pixels."""
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
    """Returns pairs across groups whose perceptual hashes and areas nearly agree.

    Images without structure (hash 0) are left out, and at most MAX_PAIRS are listed. Time grows as
    n log n: hashes that differ in at most MAX_DISTANCE = 4 bits agree in at least two of six parts,
    so that only images that share two parts are compared (Manku et al. 2007, "Detecting
    near-duplicates for web crawling", doi 10.1145/1242572.1242592).
    """
    rows = np.flatnonzero(manifest.phash != 0)
    rows = rows[np.argsort(manifest.area[rows], kind="stable")]
    hashes, areas = manifest.phash[rows], manifest.area[rows].astype(np.float64)
    groups = manifest.group_codes[1][rows]
    close: set[tuple[int, int]] = set()
    for mask_a, mask_b in itertools.combinations(_parts(MAX_DISTANCE + 2), 2):
        key = hashes & (mask_a | mask_b)
        order = np.argsort(key, kind="stable")  # equal keys stay sorted by area
        key = key[order]
        first, step = np.arange(len(rows)), 0
        while len(first):  # neighbours in that order, then those two apart, …
            step += 1
            first = first[first < len(rows) - step]
            first = first[key[first] == key[first + step]]
            a, b = order[first], order[first + step]
            alike = areas[b] <= areas[a] * MAX_AREA_RATIO
            first, a, b = first[alike], a[alike], b[alike]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= MAX_DISTANCE
            near &= groups[a] != groups[b]
            close.update(zip(a[near].tolist(), b[near].tolist(), strict=True))
            if len(close) >= MAX_PAIRS:
                break
    pairs = []
    for a, b in sorted(close)[:MAX_PAIRS]:
        distance = int(np.bitwise_count(hashes[a] ^ hashes[b]))
        low, high = sorted((int(rows[a]), int(rows[b])))
        pairs.append(Pair(low, high, "near", distance))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.a, pair.b))


def _parts(count: int) -> list[np.uint64]:
    """Returns masks that divide the 64 bits of a hash into parts."""
    edges = [round(64 * part / count) for part in range(count + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(edges)]


def save_csv(manifest: Manifest, pairs: list[Pair], path: Path) -> None:
    """Writes duplicates.csv: id_a, id_b, kind, distance, group_a, group_b, same_group."""
    text = io.StringIO()
    writer = csv_writer(text)
    writer.writerow(["id_a", "id_b", "kind", "distance", "group_a", "group_b", "same_group"])
    for pair in pairs:
        rows = (pair.a, pair.b)
        ids = [str(manifest.id[row]) for row in rows]
        groups = [str(manifest.group[row]) for row in rows]
        same = "yes" if groups[0] == groups[1] else "no"
        writer.writerow([*ids, pair.kind, pair.distance, *groups, same])
    write_atomic(path, text.getvalue())


def describe(manifest: Manifest, pairs: list[Pair]) -> list[Note]:
    """Returns how many identical and near-identical pairs there are, and what they cross."""
    notes = []
    same = [pair for pair in pairs if pair.kind != "near"]
    if same:
        a, b = _ends(same)
        subjects = int((manifest.subject[a] != manifest.subject[b]).sum())
        phases = int((manifest.phase[a] != manifest.phase[b]).sum())
        joined = len(np.unique(manifest.subject)), len(np.unique(manifest.group))
        notes.append(
            Note(
                INFO,
                f"{len(same):,} images repeat another one exactly; {subjects:,} of these pairs "
                f"cross subjects and {phases:,} cross official parts: {joined[0]:,} subjects form "
                f"{joined[1]:,} groups",
            )
        )
    near = [pair for pair in pairs if pair.kind == "near"]
    if near:
        examples = ", ".join(f"{manifest.id[p.a]} ~ {manifest.id[p.b]}" for p in near[:3])
        more = "at least " if len(near) >= MAX_PAIRS else ""
        notes.append(
            Note(
                WARNING,
                f"{more}{len(near):,} pairs of nearly identical images are in different groups "
                f"({examples}): look at them in duplicates.csv",
            )
        )
    return notes


def _ends(pairs: list[Pair]) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    rows = np.array([(pair.a, pair.b) for pair in pairs], np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
