"""ImageFolder: images in one folder per class.

Every module of this folder is a data set: its name is the value of `data.name`, and `make` builds
it from a config. A `FileDataset` like this one needs only an ``__init__``.
"""

import csv
import io
import os
from collections import Counter
from pathlib import Path

from ml_collections import ConfigDict

from leukjax.data import levels
from leukjax.data.archive import Files, native
from leukjax.data.dataset import FileDataset, names_config_fields, sampled_images
from leukjax.data.image_stats import find_background
from leukjax.data.parts import PART_NAMES, official_parts, part_of
from leukjax.data.path_pattern import search
from leukjax.data.source import INFO, Entry, Note
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, read_text


class ImageFolder(FileDataset):
    """Images in one folder per class, of any number of classes and any sizes."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        subject: str = "",
        subject_csv: str | os.PathLike[str] = "",
        label: str = "",
        part: str = "",
        part_from: str = "",
        source: str = "",
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Lists ROOT/CLASS/…/IMAGE, in folders or in one zip, in any supported image format.

        Classes are the names of the folders, sorted; ids are the paths below the root. A few
        images, evenly spaced, are decoded to find the background. Regular expressions are searched
        in the path below the root, and what their first parenthesis matches is the value.

        Args:
          root: a folder or a zip.
          subject: regular expression of the subject (the patient, or whatever must stay on one side
            of a split). Give this or `subject_csv`; with neither each image is its own subject.
          subject_csv: table with the columns path, subject; relative to the working directory or to
            the root.
          label: regular expression of the class, instead of the folder.
          part: regular expression of the part of the published split: train, val, test, or another
            name of `leukjax.data.parts.PART_NAMES`. With train and test these are the official
            parts.
          part_from: "folder": the folders below the root are the parts, and classes the folders in
            them: ROOT/train/CLASS/…/IMAGE. Names that begin with test are test.
          source: regular expression of the source (hospital, scanner), for scores by subgroup.
          positive: class of precision, recall and F1. Default: the second of two; none if there are
            more than two classes.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          ValueError: both `subject` and `subject_csv`, or both `part` and `part_from`; a root that
            does not hold one folder per class (it may be a level too high: train, val and test, or
            folds); a class without images; an image without a subject, class or part; an unknown
            part; a table with missing, repeated or unknown rows.
        """
        root, subject_csv = os.fspath(root), os.fspath(subject_csv)
        if subject and subject_csv:
            raise UserError("subject_csv: give either this or subject, not both")
        files = Files(root)
        images = [file for file in files.files if file.suffix != ".csv"]  # it lists both
        if subject_csv:
            subject_csv = os.fspath(_csv_path(subject_csv, files.root))
        locations = [file.location for file in images]
        parts, below = _parts(locations, part, part_from)
        if label:
            labels = search("label", label, locations)
        else:
            levels.check_names(below, root)
            labels = _class_folders(locations, below, set() if part_from else files.folders, root)
        classes = _classes(labels, root)
        subjects, origin = _subjects(locations, subject, subject_csv)
        warnings = []
        if not label:
            owners = {path: subjects[place] for path, place in zip(below, locations, strict=True)}
            warnings = levels.check_sub_folders(below, owners, positive, root)
        index = {name: number for number, name in enumerate(classes)}
        entries = [
            # The id is the path with a zip as a folder.
            Entry(file.location, file.path, index[name], subjects[file.location], phase)
            for file, name, phase in zip(images, labels, parts, strict=True)
        ]
        background, share = find_background(sampled_images(files, images))
        texts = [
            *_texts(entries, classes, origin, positive),
            f"background: {background} ({share:.0%} of the border pixels are exactly black)",
            *files.notes(),
        ]
        sources = search("source", source, locations) if source else []
        super().__init__(
            name="image_folder",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=[*(Note(INFO, text) for text in texts), *warnings],
            subjects_known=bool(subject or subject_csv),
            background=background,
            official_parts=official_parts(parts),
            attributes={"source": dict(zip(locations, sources, strict=True))} if source else {},
            bad_images=bad_images,
            config_fields={
                "data.root": str(files.root.absolute()),
                "data.subject_pattern": subject,
                "data.subject_csv": subject_csv,
                "data.label_pattern": label,
                "data.part_pattern": part,
                "data.part_from": part_from,
                "data.source_pattern": source,
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
            files=files,
        )


@names_config_fields
def make(data: ConfigDict) -> ImageFolder:
    """Returns the data set of the `data` section of a config.

    `make_dataset`, which calls this, sets ``bad_images``.
    """
    return ImageFolder(
        data.root,
        subject=data.subject_pattern,
        subject_csv=data.subject_csv,
        label=data.label_pattern,
        part=data.part_pattern,
        part_from=data.part_from,
        source=data.source_pattern,
        positive=data.positive,
    )


def _parts(locations: list[str], expression: str, part_from: str) -> tuple[list[str], list[str]]:
    """Returns the part of each image ("" = none), and its path below the folder of the part."""
    if expression and part_from:
        raise UserError("part: give either this or part_from, not both")
    if part_from not in ("", "folder"):
        raise ValueError(f'part_from: {part_from!r} is neither "" nor "folder"')
    if not expression and not part_from:
        return [""] * len(locations), locations
    if expression:
        parts, below = search("part", expression, locations), locations
    else:
        parts = [location.partition("/")[0] for location in locations]
        below = [location.partition("/")[2] for location in locations]
    unknown = sorted({part for part in parts if not part_of(part)})
    if unknown:
        names = ", ".join(unknown[:3])
        raise UserError(
            f"{'part' if expression else 'part_from'}: no part is called {names}; parts are "
            f"{', '.join(PART_NAMES)}, or begin with test: rename or remove it"
        )
    return parts, below


def _class_folders(
    locations: list[str], below: list[str], folders: set[str], root: str
) -> list[str]:
    """Returns the name of the folder of each image's class, after checking the layout."""
    expected = f"expected {root}/{'' if below is locations else '<part>/'}<class>/…/<image>"
    pairs = zip(locations, below, strict=True)
    loose = [location for location, path in pairs if "/" not in path]
    if loose:
        raise UserError(
            f"root: {loose[0]} is not in a class folder ({expected}; {len(loose):,} such "
            "images): move it into one, remove it, or give the folder above as the root"
        )
    labels = [path.split("/", 1)[0] for path in below]
    # Members of a zip have a location below it, as if it were a folder.
    zips = sorted(name for name in set(labels) if name.lower().endswith(".zip"))
    if zips:
        raise UserError(
            f"root: {zips[0]} would be a class ({expected}): unpack it or make it the root"
        )
    empty = sorted(folders - set(labels))
    if empty:
        raise UserError(
            f"root: class {empty[0]} has no image ({expected}): add images or remove the folder"
        )
    return labels


def _classes(labels: list[str], root: str) -> tuple[str, ...]:
    classes = tuple(sorted(set(labels)))
    if not classes:
        raise UserError(f"root: {root} holds no image")
    if len(classes) < 2:
        raise UserError(
            f"root: {root} holds only the class {classes[0]} (expected two or more, as "
            f"{root}/<class>/…/<image>): is the root a level too high or too low?"
        )
    return classes


def _texts(entries: list[Entry], classes: tuple[str, ...], origin: str, positive: str) -> list[str]:
    """Returns notes on the images, subjects, parts and classes."""
    counts = Counter(entry.label for entry in entries)
    per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    number = len({entry.subject for entry in entries})
    texts = [f"{len(entries):,} images ({per_class}) of {number:,} subjects, {origin}"]
    phases = Counter(entry.phase for entry in entries if entry.phase)
    if phases:
        named = (f"{name} ({count:,}) is {part_of(name)}" for name, count in phases.items())
        texts.append(f"parts: {', '.join(named)}")
    if not positive and len(classes) == 2:
        texts.append(f"positive class: {classes[1]}, the second of two; change it: data.positive")
    return texts


def _subjects(locations: list[str], expression: str, table: str) -> tuple[dict[str, str], str]:
    """Returns the subject of each image by its location, and where the subjects come from."""
    if table:
        return _from_csv(table, locations), f"read from {table}"
    if not expression:
        origin = "each image its own, because no subjects are given: scores may be too high"
        return {location: location for location in locations}, origin
    subjects = dict(zip(locations, search("subject", expression, locations), strict=True))
    return subjects, f"taken from the paths with '{expression}'"


def _csv_path(name: str, root: Path) -> Path:
    path = Path(native(name)).expanduser()
    if not path.is_file() and (root / path).is_file():
        path = root / path
    return path.absolute()


def _from_csv(name: str, locations: list[str]) -> dict[str, str]:
    """Returns the subject of each image from a CSV with the columns path, subject."""
    path = Path(name)
    try:
        reader = csv.DictReader(
            io.StringIO(read_text(path, MAX_TABLE_BYTES), newline=""), strict=True
        )
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"subject_csv: {name} cannot be read ({reason}): give a CSV with the columns "
            "path,subject"
        ) from error
    header = reader.fieldnames or []
    if not {"path", "subject"} <= set(header):
        raise UserError(
            f"subject_csv: {path}: line 1 has the columns {', '.join(header)}: it needs the "
            "columns path,subject"
        )
    known = set(locations)
    subjects: dict[str, str] = {}
    for number, row in rows:
        location, subject = (row.get("path") or "").strip(), (row.get("subject") or "").strip()
        line = f"subject_csv: {path}: line {number}"
        if not location or not subject:
            raise UserError(f"{line} lacks a value of the columns path, subject: add it")
        location = Path(location).as_posix()
        if location in subjects:
            raise UserError(f"{line}: {location} has two rows: remove one")
        if location not in known:
            raise UserError(
                f"{line}: {location} is not an image below the root: write paths relative to it"
            )
        subjects[location] = subject
    missing = sorted(known - set(subjects))
    if missing:
        raise UserError(
            f"subject_csv: {path} has no row for {missing[0]} ({len(missing):,} images): add them"
        )
    return subjects
