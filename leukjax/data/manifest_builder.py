"""Reads all images of a data set: once to build the manifest, once more to preprocess them."""

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import UInt8

from leukjax.data import image_limits
from leukjax.data.decode import BadImage
from leukjax.data.image_stats import Measured, measure
from leukjax.data.manifest import Manifest, join_groups
from leukjax.data.parallel import map_in_order, progress
from leukjax.data.preprocess import Preprocessing
from leukjax.data.source import INFO, WARNING, Entry, Note, Skipped, Source
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, read_bytes, read_json, write_atomic

# Part of the cache key: raise it when a measure, a decoding rule or the file's format changes.
VERSION = 3

# Images that every start reads again and compares with the cached scan. A synthetic image has no
# file that could change, and takes longer.
_SAMPLE = 16
_SAMPLE_SYNTHETIC = 2


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is kept of an image; not its pixels."""

    sha256: str
    measured: Measured
    conversions: tuple[str, ...]


def scan(
    source: Source, cache_dir: Path | None, threads: int, bad_images: str
) -> tuple[Manifest, list[Skipped]]:
    """Reads every image once, in parallel, with a progress bar, and returns the manifest.

    The result is kept as `cache_dir`/scans/KEY.csv, where KEY comes from `source.stat_key()`. A
    later start uses it if ids, paths, labels, subjects and phases are those that the source lists
    now, and if a random sample of images, drawn again at every start, has the recorded checksums;
    otherwise all images are read again. Findings (conversions, identical images with different
    labels, skipped files) are appended to `source.notes`.

    Args:
      source: the data set.
      cache_dir: the cache folder; None = keep nothing. If it cannot be written, a warning is
        logged.
      threads: threads that read and decode.
      bad_images: "error" or "skip".

    Returns:
      The manifest, rows sorted by id, and the images that were left out.

    Raises:
      BadImage: an image cannot be decoded and `bad_images` is "error".
      UserError: a file cannot be read, or a class lost all its images.
    """
    key = _key(source, bad_images)
    if cache_dir is None or not key:
        manifest, skipped, findings = _scan(source, threads, bad_images)
        source.notes.extend(findings)
        return manifest, skipped
    folder = Path(cache_dir) / "scans"
    cached = _load(folder, key)
    if cached is not None:
        difference = _difference(source, cached[0], cached[1], threads, bad_images)
        if difference:
            logging.warning(
                "the cached scan %s %s: reading all images again", folder / f"{key}.csv", difference
            )
            cached = None
    if cached is None:
        cached = _scan(source, threads, bad_images)
        _save(folder, key, *cached)
    manifest, skipped, findings = cached
    source.notes.extend(findings)
    return manifest, skipped


def forget(source: Source, cache_dir: Path, bad_images: str) -> None:
    """Removes the cached scan of a source, so that the next start reads every image again."""
    path = Path(cache_dir) / "scans" / f"{_key(source, bad_images)}.json"
    with contextlib.suppress(OSError):
        path.unlink()


class ChangedImage(UserError):
    """An image is not the one that was scanned."""


def preprocessed(
    source: Source, manifest: Manifest, preprocessing: Preprocessing, threads: int
) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], tuple[int, int]]]:
    """Yields each image of the manifest, preprocessed, and its original height and width.

    Raises:
      ChangedImage: the checksum of an image is not that of the manifest.
    """
    entries = {entry.id: entry for entry in source.entries}
    wanted = [entries[name] for name in manifest.id.tolist()]
    scanned = dict(zip(manifest.id.tolist(), manifest.sha256.tolist(), strict=True))

    def load(entry: Entry) -> tuple[np.ndarray, tuple[int, int]]:
        with image_limits.one_image():
            loaded = source.load(entry)
            if hashlib.sha256(loaded.data).hexdigest() != scanned[entry.id]:
                raise ChangedImage(
                    f"{entry.path or entry.id}: is not the image that was scanned: the data set "
                    "was changed. Start again to scan all images again"
                )
            return preprocessing(loaded.image, source.background), loaded.image.shape[:2]

    results = map_in_order(load, wanted, threads)
    yield from progress(results, len(wanted), f"preparing {source.name}")


def _key(source: Source, bad_images: str) -> str:
    """The name of a scan in the cache; "" if the source has no fingerprint."""
    stat_key = source.stat_key()
    if not stat_key:
        return ""
    return hashlib.sha256(f"{VERSION} {bad_images} {stat_key}".encode()).hexdigest()[:32]


def _difference(
    source: Source, manifest: Manifest, skipped: list[Skipped], threads: int, bad_images: str
) -> str:
    """How a cached scan differs from the source; "" if it does not."""
    if manifest.classes != tuple(source.classes):
        return "has other classes"
    if skipped and bad_images == "error":
        return "leaves images out"
    listed = {entry.id: entry for entry in source.entries}
    left_out = {skip.id: skip.path for skip in skipped}
    columns = (manifest.id, manifest.path, manifest.label, manifest.subject, manifest.phase)
    rows = [Entry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    expected = [listed[name] for name in sorted(listed) if name not in left_out]
    known = all(name in listed and listed[name].path == path for name, path in left_out.items())
    if rows != expected or not known or len(left_out) != len(skipped):
        return "lists other images, labels, subjects or phases than the data set"
    groups = join_groups(manifest.subject, manifest.sha256, manifest.pixels)
    if not np.array_equal(groups, manifest.group):
        return "groups subjects differently"
    return _changed(source, manifest, [listed[skip.id] for skip in skipped], threads)


def _changed(source: Source, manifest: Manifest, skipped: list[Entry], threads: int) -> str:
    """Compares a random sample of images with the scan; names the first that differs, else ""."""
    random = np.random.default_rng()
    size = _SAMPLE_SYNTHETIC if source.synthetic else _SAMPLE
    digests = dict(zip(manifest.id.tolist(), manifest.sha256.tolist(), strict=True))
    taken = [entry for entry in source.entries if entry.id in digests]
    sample = [
        entries[row]
        for entries in (taken, skipped)
        for row in random.permutation(len(entries))[:size].tolist()
    ]

    def same(entry: Entry) -> bool:
        try:
            if entry.id in digests:
                return hashlib.sha256(source.read(entry)).hexdigest() == digests[entry.id]
            source.load(entry)
        except BadImage:
            return entry.id not in digests
        return False

    results = map_in_order(same, sample, threads)
    changed = [entry for entry, is_same in zip(sample, results, strict=True) if not is_same]
    return f"was made of another {changed[0].path or changed[0].id}" if changed else ""


def _scan(
    source: Source, threads: int, bad_images: str
) -> tuple[Manifest, list[Skipped], list[Note]]:
    entries = sorted(source.entries, key=lambda entry: entry.id)
    skipped: list[Skipped] = []
    taken: list[tuple[Entry, _Read]] = []

    def read(entry: Entry) -> _Read | BadImage:
        try:
            with image_limits.one_image():
                loaded = source.load(entry)
                digest = hashlib.sha256(loaded.data).hexdigest()
                return _Read(digest, measure(loaded.image, source.background), loaded.conversions)
        except BadImage as error:
            if bad_images == "error":
                raise
            return error

    results = map_in_order(read, entries, threads)
    for entry, result in zip(
        entries, progress(results, len(entries), f"scanning {source.name}"), strict=True
    ):
        if isinstance(result, BadImage):
            skipped.append(Skipped(entry.id, entry.path, str(result)))
        else:
            taken.append((entry, result))

    manifest = _manifest(source.classes, taken)
    lost = [
        name
        for label, name in enumerate(source.classes)
        if not (manifest.label == label).any() and any(e.label == label for e in entries)
    ]
    if lost or not taken:
        raise UserError(
            f"data.root: no image of {', '.join(lost) or source.name} can be decoded "
            f"(first: {skipped[0].reason}). Replace the files"
        )
    findings = _findings(source, manifest, taken, skipped)
    return manifest, skipped, findings


def _manifest(classes: tuple[str, ...], taken: list[tuple[Entry, _Read]]) -> Manifest:
    sha256 = [read.sha256 for _, read in taken]
    pixels = [read.measured.pixels for _, read in taken]
    subject = [entry.subject for entry, _ in taken]
    return Manifest(
        classes=classes,
        id=np.array([entry.id for entry, _ in taken], np.str_),
        path=np.array([entry.path for entry, _ in taken], np.str_),
        label=np.array([entry.label for entry, _ in taken], np.int32),
        subject=np.array(subject, np.str_),
        group=join_groups(subject, sha256, pixels),
        phase=np.array([entry.phase for entry, _ in taken], np.str_),
        sha256=np.array(sha256, np.str_),
        pixels=np.array(pixels, np.str_),
        phash=np.array([read.measured.phash for _, read in taken], np.uint64),
        area=np.array([read.measured.area for _, read in taken], np.float32),
    )


def _findings(
    source: Source,
    manifest: Manifest,
    taken: list[tuple[Entry, _Read]],
    skipped: list[Skipped],
) -> list[Note]:
    findings = []
    if skipped:
        findings.append(
            Note(
                WARNING,
                f"{len(skipped)} of {len(source.entries)} images cannot be decoded and are left "
                f"out; the first: {skipped[0].reason}",
            )
        )
    conversions = Counter(name for _, read in taken for name in read.conversions)
    if conversions:
        counts = ", ".join(f"{name}: {count}" for name, count in sorted(conversions.items()))
        findings.append(Note(INFO, f"converted to 8-bit RGB ({counts} images)"))
    flat = sum(read.measured.phash == 0 for _, read in taken)
    if flat:
        findings.append(Note(WARNING, f"{flat} images have one uniform colour, or nearly so"))
    conflicts = conflicting_labels(manifest)
    if conflicts:
        examples = "; ".join(" = ".join(ids) for ids in conflicts[:3])
        findings.append(
            Note(
                WARNING,
                f"{len(conflicts)} sets of identical images carry DIFFERENT labels: {examples}",
            )
        )
    sides = np.array([read.measured.side for _, read in taken], np.int32)
    return findings + source.findings(manifest, sides)


def conflicting_labels(manifest: Manifest) -> list[list[str]]:
    """Returns the ids of identical images (by pixels) with different labels, one list per image."""
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(manifest.label >= 0).tolist():
        rows_of.setdefault(str(manifest.pixels[row]), []).append(row)
    return [
        sorted(manifest.id[rows].tolist())
        for rows in rows_of.values()
        if len(set(manifest.label[rows].tolist())) > 1
    ]


def _save(
    folder: Path, key: str, manifest: Manifest, skipped: list[Skipped], findings: list[Note]
) -> None:
    table = folder / f"{key}.csv"
    try:
        manifest.save(table)
        side = {
            "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
            "skipped": [dataclasses.asdict(skip) for skip in skipped],
            "findings": [dataclasses.astuple(note) for note in findings],
        }
        # Written last: without it, or with another checksum, the table is not used.
        write_atomic(folder / f"{key}.json", json.dumps(side, indent=1))
    except OSError as error:
        # A shared cache may be read-only for this machine, and yet hold the records it needs.
        logging.warning(
            "data.cache_dir: the scan cannot be kept in %s (%s); the next start reads every image "
            "again",
            folder,
            error.strerror or error,
        )


def _load(folder: Path, key: str) -> tuple[Manifest, list[Skipped], list[Note]] | None:
    """Returns what `_save` wrote; None if it is missing, incomplete or not readable."""
    table = folder / f"{key}.csv"
    try:
        side = read_json(folder / f"{key}.json", MAX_TABLE_BYTES)
        content = read_bytes(table, MAX_TABLE_BYTES)
        if hashlib.sha256(content).hexdigest() != side["sha256"]:
            raise ValueError("checksum")
        skipped = [Skipped(**skip) for skip in side["skipped"]]
        findings = [Note(level, text) for level, text in side["findings"]]
        rows: list[Skipped | Note] = [*skipped, *findings]
        if not all(isinstance(text, str) for row in rows for text in dataclasses.astuple(row)):
            raise ValueError("not text")
        return Manifest.parse(content, table), skipped, findings
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        logging.warning("the cached scan %s is damaged: reading all images again", table)
        return None
