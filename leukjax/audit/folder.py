"""The audit of a folder of images: counts, duplicates, shortcuts, and notes on what matters."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax import config as configs
from leukjax.audit import attributes, shortcuts
from leukjax.audit.attributes import Association
from leukjax.audit.shortcuts import Shortcut
from leukjax.data import cache, duplicates
from leukjax.data.dataset import FileDataset
from leukjax.data.datasets import make_dataset
from leukjax.data.duplicates import Pair
from leukjax.data.manifest import Manifest
from leukjax.data.manifest_builder import conflicting_labels, scan
from leukjax.data.source import INFO, WARNING, Note, Skipped
from leukjax.errors import UserError
from leukjax.report.tables import number, span

LAYOUTS = ("cnmc", "all_idb2", "image_folder")  # tried in this order
# Fields that only an image_folder has.
_FOLDER_FIELDS = {
    "data.part_from",
    "data.subject_csv",
    *(f"data.{name}_pattern" for name in ("subject", "label", "part", "source")),
}


@dataclasses.dataclass(frozen=True)
class Crossings:
    """Number of pairs of duplicates, and of those across subjects, classes and official parts."""

    kind: str  # "identical" or "nearly identical"
    pairs: int
    subjects: int
    classes: int
    parts: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """Results of an audit.

    Attributes:
      folder: as given.
      source: the images.
      manifest: every image that can be read.
      measured: numbers by image, see `shortcuts.measures`.
      skipped: files that cannot be read as images.
      data_notes: notes of the source and the scan.
      pairs: duplicates, identical ones first.
      crossings: the number of pairs.
      conflicts: ids of identical images with different labels, one list per image.
      mixed_subjects: number of subjects with images of several classes.
      shortcuts: see `shortcuts.shortcuts`.
      associations: of the attributes with the class; [] without attributes.
      source_shortcuts: how well the measures tell the source of an image; [] without sources.
    """

    folder: str
    source: FileDataset
    manifest: Manifest
    measured: dict[str, np.ndarray]
    skipped: list[Skipped]
    data_notes: list[Note]
    pairs: list[Pair]
    crossings: list[Crossings]
    conflicts: list[list[str]]
    mixed_subjects: int
    shortcuts: list[Shortcut]
    associations: list[Association]
    source_shortcuts: list[Shortcut]

    def counts(self) -> list[dict[str, str | int]]:
        """One row per official part and class: images, subjects, groups, image sizes."""
        manifest, rows = self.manifest, []
        sizes = self.measured["image size"]
        for phase in dict.fromkeys(np.sort(manifest.phase).tolist()):
            for label in range(-1, len(manifest.classes)):
                is_member = (manifest.phase == phase) & (manifest.label == label)
                if is_member.any():
                    rows.append(
                        {
                            "part": phase,
                            "class": manifest.classes[label] if label >= 0 else "no label",
                            "images": int(is_member.sum()),
                            "subjects": len(np.unique(manifest.subject[is_member])),
                            "groups": len(np.unique(manifest.group[is_member])),
                            "size": _size_range(sizes[is_member]),
                        }
                    )
        return rows

    def formats(self) -> dict[str, int]:
        """Number of files by suffix."""
        suffixes = Counter(path.rsplit(".", 1)[-1].lower() for path in self.manifest.path.tolist())
        return dict(sorted(suffixes.items()))

    def notes(self) -> list[Note]:
        """What to know before training on these images; warnings invalidate results."""
        notes = [_duplicates_note(crossings) for crossings in self.crossings]
        if self.conflicts:
            listed = "; ".join(" = ".join(ids) for ids in self.conflicts[:3])
            text = f"{len(self.conflicts):,} images occur with different labels: {listed}."
            notes.append(Note(WARNING, text))
        if self.mixed_subjects:
            text = (
                f"{self.mixed_subjects:,} subjects have images of several classes: a split must "
                "not divide them, and no score by subject exists."
            )
            notes.append(Note(INFO, text))
        if not self.source.subjects_known:
            text = (
                "The subjects are unknown: a split by subject is impossible. A pattern finds them "
                "in the paths: --config.data.subject_pattern='(patient_\\d+)'."
            )
            notes.append(Note(WARNING, text))
        if self.skipped:
            first = self.skipped[0].reason
            text = f"{len(self.skipped):,} files cannot be read as images; first: {first}."
            notes.append(Note(WARNING, text))
        above_chance = [shortcut for shortcut in self.shortcuts if shortcut.is_above_chance]
        for shortcut in above_chance:
            score = shortcut.balanced_accuracy
            assert score is not None
            name = f"{shortcut.name[0].upper()}{shortcut.name[1:]}"
            subject = f"{name} alone ({shortcut.what}) predicts"
            if shortcut.name == shortcuts.TOGETHER:
                subject = "All these measures together predict"
            text = (
                f"{subject} the class: balanced accuracy {number(score.value)} ({span(score)}), "
                f"chance {number(shortcut.chance)}."
            )
            notes.append(Note(WARNING, text))
        if not above_chance:
            notes.append(Note(INFO, "No shortcut predicts the class significantly above chance."))
        return [*notes, *_attribute_notes(self.associations, self.source_shortcuts)]


def audit(folder: str, layout: str, overrides: Iterable[tuple[str, str]] = ()) -> Audit:
    """Reads every image of a folder (or of its zips) and looks for duplicates and shortcuts.

    Args:
      folder: with the images.
      layout: one of `LAYOUTS`, "table" (with ``data.table``), or "auto".
      overrides: fields of the config's `data` section, as texts.

    Raises:
      UserError: no such folder, an unknown layout, or no image that can be read.
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
        data_notes=list(source.notes),
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
        associations=attributes.associations(manifest, source.attributes),
        source_shortcuts=attributes.source_shortcuts(measured, manifest, source.attributes),
    )


def _source(
    folder: str, layout: str, overrides: list[tuple[str, str]]
) -> tuple[ConfigDict, FileDataset]:
    """Returns the images of the first layout that the folder has."""
    fields_given = {field for field, _ in overrides}
    if layout == "auto" and "data.table" in fields_given:
        layout = "table"
    if layout == "auto" and fields_given & _FOLDER_FIELDS:
        layout = "image_folder"
    for name in LAYOUTS if layout == "auto" else (layout,):
        # An audit lists the files that cannot be read instead of stopping at the first.
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
    columns = (manifest.subject, manifest.label, manifest.phase)
    return Crossings(kind, len(pairs), *(int((x[a] != x[b]).sum()) for x in columns))


def _duplicates_note(crossings: Crossings) -> Note:
    if not crossings.pairs:
        return Note(INFO, f"No pairs of {crossings.kind} images.")
    crossing = crossings.subjects or crossings.classes or crossings.parts
    return Note(
        WARNING if crossing else INFO,
        f"{crossings.pairs:,} pairs of {crossings.kind} images: {crossings.subjects:,} across "
        f"subjects, {crossings.classes:,} across classes, {crossings.parts:,} across official "
        "parts.",
    )


def _attribute_notes(
    associations: Sequence[Association], sources: Sequence[Shortcut]
) -> list[Note]:
    notes = [
        Note(
            WARNING if a.cramers_v >= attributes.STRONG else INFO,
            f"{a.attribute} and the class: Cramér's V {number(a.cramers_v)} ({a.groups:,} groups).",
        )
        for a in associations
        if a.cramers_v is not None
    ]
    for shortcut in sources:
        score = shortcut.balanced_accuracy
        if shortcut.name == shortcuts.TOGETHER and score is not None and shortcut.is_above_chance:
            text = (
                "All these measures together tell the source: balanced accuracy "
                f"{number(score.value)} ({span(score)}), chance {number(shortcut.chance)}. A model "
                "can learn the source where it predicts the class."
            )
            notes.append(Note(WARNING, text))
    return notes


def _mixed_subjects(manifest: Manifest) -> int:
    is_labelled = manifest.label >= 0
    subjects, labels = manifest.subject[is_labelled], manifest.label[is_labelled]
    pairs = set(zip(subjects.tolist(), labels.tolist(), strict=True))
    return sum(count > 1 for count in Counter(subject for subject, _ in pairs).values())


def _size_range(sizes: np.ndarray) -> str:
    """Heights and widths: "450 x 450", or "16 to 96 x 16 to 94"."""
    sides = zip(sizes.min(axis=0), sizes.max(axis=0), strict=True)
    return " x ".join(f"{a:.0f}" if a == b else f"{a:.0f} to {b:.0f}" for a, b in sides)


def default_output(folder: str) -> Path:
    """The folder for the page: in the current folder, never in the data."""
    return Path(f"audit-{Path(folder).resolve().stem}")
