"""A folder of images under audit: layout, counts, duplicates, shortcuts."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.audit import shortcuts
from leukjax.audit.shortcuts import Shortcut
from leukjax.data import cache, duplicates
from leukjax.data.dataset import FileDataset
from leukjax.data.datasets import make_dataset
from leukjax.data.duplicates import Pair
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import conflicting_labels, scan
from leukjax.data.source import Skipped
from leukjax.errors import UserError

LAYOUTS = ("cnmc", "all_idb2", "image_folder")  # in this order a folder is tried


@dataclasses.dataclass(frozen=True)
class Crossings:
    """How many pairs of like images there are, and what they cross."""

    kind: str  # "identical" or "nearly identical"
    pairs: int
    subjects: int
    classes: int
    parts: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        folder: as given.
        source: the images.
        manifest: of every image that can be read.
        measured: numbers by image, see `shortcuts.measures`.
        skipped: files that are no images.
        notes: sentences of the source and the scan.
        pairs: like images, identical ones first.
        crossings: the pairs counted.
        conflicts: ids of identical images with different labels, a list for each picture.
        mixed_subjects: subjects whose images are of several classes.
        shortcuts: as `shortcuts.shortcuts` gives them.
    """

    folder: str
    source: FileDataset
    manifest: Manifest
    measured: dict[str, np.ndarray]
    skipped: list[Skipped]
    notes: list[str]
    pairs: list[Pair]
    crossings: list[Crossings]
    conflicts: list[list[str]]
    mixed_subjects: int
    shortcuts: list[Shortcut]

    def counts(self) -> list[dict[str, str | int]]:
        """A row for each official part and class: images, subjects, groups, image sizes."""
        manifest, rows = self.manifest, []
        sizes = self.measured["image size"]
        for phase in dict.fromkeys(np.sort(manifest.phase).tolist()):
            for label in range(-1, len(manifest.classes)):
                here = (manifest.phase == phase) & (manifest.label == label)
                if here.any():
                    low, high = sizes[here].min(axis=0), sizes[here].max(axis=0)
                    rows.append(
                        {
                            "part": phase,
                            "class": manifest.classes[label] if label >= 0 else "no label",
                            "images": int(here.sum()),
                            "subjects": len(np.unique(manifest.subject[here])),
                            "groups": len(np.unique(manifest.group[here])),
                            "size": _span(low, high),
                        }
                    )
        return rows

    def formats(self) -> dict[str, int]:
        """How many files of each suffix."""
        suffixes = Counter(path.rsplit(".", 1)[-1].lower() for path in self.manifest.path.tolist())
        return dict(sorted(suffixes.items()))


def audit(folder: str, layout: str, overrides: Iterable[tuple[str, str]] = ()) -> Audit:
    """Read every image of a folder (or of its zips) and look for what would deceive a model.

    Args:
      folder: with the images.
      layout: one of `LAYOUTS`, or "auto".
      overrides: fields of the config's `data` section, as texts.

    Raises:
      UserError: no such folder, a layout that is none, no image that can be read.
    """
    data, source = _source(folder, layout, list(overrides))
    manifest, skipped = scan(source, cache.root(data.cache_dir), data.threads, data.bad_images)
    measured = shortcuts.measures(source, manifest, data.threads)
    identical = duplicates.identical_pairs(manifest)
    near = duplicates.near_duplicates(manifest)
    labelled = manifest.label >= 0
    logging.info("fitting %d shortcuts", len(measured) + 1)
    return Audit(
        folder=folder,
        source=source,
        manifest=manifest,
        measured=measured,
        skipped=skipped,
        notes=[str(note) for note in source.notes],
        pairs=[*identical, *near],
        crossings=[
            _crossings("identical", identical, manifest),
            _crossings("nearly identical", near, manifest),
        ],
        conflicts=conflicting_labels(manifest),
        mixed_subjects=_mixed_subjects(manifest),
        shortcuts=shortcuts.shortcuts(
            {name: values[labelled] for name, values in measured.items()},
            manifest.label[labelled],
            manifest.group[labelled],
            source.classes,
            source.positive,
        ),
    )


def _source(
    folder: str, layout: str, overrides: list[tuple[str, str]]
) -> tuple[ConfigDict, FileDataset]:
    """The folder as the first layout that it has."""
    named = {field for field, _ in overrides}
    if layout == "auto" and named & {"data.subject_pattern", "data.subject_csv"}:
        layout = "image_folder"
    for name in LAYOUTS if layout == "auto" else (layout,):
        # An audit lists what cannot be read instead of stopping at it.
        fields = [("data.root", folder), ("data.bad_images", "skip"), *overrides]
        data = configs.load(f"default:{name}", fields).data
        try:
            source = make_dataset(data)
            assert isinstance(source, FileDataset)
            return data, source
        except UserError as error:
            if layout == "auto" and "is not laid out as" in str(error):
                continue
            raise UserError(str(error).replace("data.root", "FOLDER")) from error
    raise AssertionError("any folder of images is an image_folder, or an error")


def _crossings(kind: str, pairs: list[Pair], manifest: Manifest) -> Crossings:
    a, b = (np.array([getattr(pair, end) for pair in pairs], np.int64) for end in "ab")
    counts = (
        int((column[a] != column[b]).sum())
        for column in (manifest.subject, manifest.label, manifest.phase)
    )
    return Crossings(kind, len(pairs), *counts)


def _mixed_subjects(manifest: Manifest) -> int:
    known = manifest.label >= 0
    held = set(zip(manifest.subject[known].tolist(), manifest.label[known].tolist(), strict=True))
    return sum(count > 1 for count in Counter(subject for subject, _ in held).values())


def _span(low: np.ndarray, high: np.ndarray) -> str:
    """Heights and widths: "450 x 450", or "16 to 96 x 16 to 94"."""
    sides = [
        f"{a:.0f}" if a == b else f"{a:.0f} to {b:.0f}" for a, b in zip(low, high, strict=True)
    ]
    return " x ".join(sides)


def default_output(folder: str) -> Path:
    """Where the page goes: beside where the command is started, never into the data."""
    return Path(f"audit-{Path(folder).resolve().stem}")
