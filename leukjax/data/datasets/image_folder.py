"""ImageFolder: images in one folder per class.

Every module of this package defines one data set. The name of the module is a value of `data.name`,
and its `make` builds the data set from a config. A subclass of `FileDataset`, such as this one,
needs only an ``__init__``.
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
        """Lists ROOT/CLASS/IMAGE, with or without folders between CLASS and IMAGE.

        Classes are the names of the folders, sorted. The id of an image is its path below the root,
        where a zip counts as a folder. A few images, evenly spaced, are decoded to find out whether
        the background is black or bright. A regular expression is searched in the path below the
        root; its first group is the value.

        Args:
          root: a folder or a zip of images in any supported format.
          subject: regular expression of the subject (the patient): all images of a subject are in
            one part of a split. Give this or `subject_csv`; with neither, each image is its own
            subject.
          subject_csv: a table with the columns path (the id of an image) and subject. A relative
            name is looked up in the working directory, then in the root.
          label: regular expression of the class, instead of the folder.
          part: regular expression of the part of the published split. A part begins with test, or
            its first word is in `leukjax.data.parts.PART_NAMES` (train_set). If both train and test
            occur, this is the official split. The class is still the first folder below the root,
            unless `label` is given.
          part_from: "folder": the folders below the root are the parts, and classes the folders in
            them: ROOT/train/CLASS/IMAGE.
          source: regular expression of the source (hospital, scanner), for scores by subgroup.
          positive: class for precision, recall and F1. Default: the second class if there are two,
            else none.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          UserError: a ValueError; its message starts with the name of the argument. Both `subject`
            and `subject_csv` are given, or both `part` and `part_from`; a regular expression is
            malformed or has no group; the root does not hold one folder per class (it may be a
            level too high, and hold train, val and test, or folds); there are fewer than two
            classes, or one without an image; an image has no subject, class, part or source; a part
            is unknown; a row of the table is missing, repeated or unknown.
        """
        root, subject_csv = os.fspath(root), os.fspath(subject_csv)
        if subject and subject_csv:
            raise UserError("subject_csv: give either this or subject, not both")
        files = Files(root)
        images = [file for file in files.files if file.suffix != ".csv"]  # `Files` has tables too
        if subject_csv:
            subject_csv = os.fspath(_csv_path(subject_csv, files.root))
        # Paths below the root, with a zip as a folder; `path` of a file is "zip!member".
        locations = [file.location for file in images]
        parts, below = _parts(locations, part, part_from)
        if label:
            labels = search("label", label, locations)
        else:
            levels.check_names(below, root)
            # The folders directly below the root, empty ones too; with `part_from` they are parts.
            folders = set() if part_from else files.folders
            labels = _class_folders(locations, below, folders, root)
        classes = _classes(labels, root)
        subjects, origin = _subjects(locations, subject, subject_csv)
        warnings = []
        if not label:
            # With `part_from`, equal paths below two parts share an entry. For this check of the
            # layout it does not matter which subject they get.
            pairs = zip(below, locations, strict=True)
            subject_of_path = {path: subjects[location] for path, location in pairs}
            warnings = levels.check_sub_folders(below, subject_of_path, positive, root)
        index = {name: number for number, name in enumerate(classes)}
        entries = [
            Entry(
                id=file.location,
                path=file.path,
                label=index[name],
                subject=subjects[file.location],
                phase=phase,  # the name of the part in the path, for instance Training
            )
            for file, name, phase in zip(images, labels, parts, strict=True)
        ]
        background, black_share = find_background(sampled_images(files, images))
        texts = [
            *_texts(entries, classes, origin, positive),
            f"background: {background} ({black_share:.0%} of the border pixels are exactly black)",
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
            # A run on a data set made in Python records these, to build it again.
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


@names_config_fields  # an error that starts with "part:" then starts with "data.part_pattern:"
def make(data: ConfigDict) -> ImageFolder:
    """Returns the data set of the `data` section of a config.

    ``bad_images`` is not passed: `make_dataset`, which calls this, sets it for every data set.
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
    """Returns each image's part as its path names it ("" = none), and its path below that part."""
    if expression and part_from:
        raise UserError("part: give either this or part_from, not both")
    if part_from not in ("", "folder"):
        raise UserError(f'part_from: {part_from!r} is neither "" nor "folder"')
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
            f"{', '.join(PART_NAMES)}, alone or as the first word, or begin with test: "
            "rename or remove it"
        )
    return parts, below


def _class_folders(
    locations: list[str], below: list[str], folders: set[str], root: str
) -> list[str]:
    """Returns the class of each image, the first folder of `below`; checks the layout."""
    expected = f"expected {root}/{'' if below is locations else '<part>/'}<class>/…/<image>"
    pairs = zip(locations, below, strict=True)
    loose = [location for location, path in pairs if "/" not in path]
    if loose:
        raise UserError(
            f"root: {loose[0]} is not in a class folder ({expected}; {len(loose):,} such "
            "images): move it into one, remove it, or give the folder above as the root"
        )
    labels = [path.split("/", 1)[0] for path in below]
    # A zip below the root counts as a folder, but is no class.
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
    subjects = len({entry.subject for entry in entries})
    texts = [f"{len(entries):,} images ({per_class}) of {subjects:,} subjects, {origin}"]
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
        return _from_csv(Path(table), locations), f"read from {table}"
    if not expression:
        origin = "each image its own, because no subjects are given: scores may be too high"
        return {location: location for location in locations}, origin
    subjects = dict(zip(locations, search("subject", expression, locations), strict=True))
    return subjects, f"taken from the paths with '{expression}'"


def _csv_path(name: str, root: Path) -> Path:
    """Returns the absolute path of the CSV: in the working directory, else below the root."""
    path = Path(native(name)).expanduser()
    if not path.is_file() and (root / path).is_file():
        path = root / path
    return path.absolute()


def _from_csv(path: Path, locations: list[str]) -> dict[str, str]:
    """Returns the subject of each image from a CSV with the columns path, subject."""
    try:
        reader = csv.DictReader(
            io.StringIO(read_text(path, MAX_TABLE_BYTES), newline=""), strict=True
        )
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"subject_csv: {path} cannot be read ({reason}): give a CSV with the columns "
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
            f"subject_csv: {path} has no row for {missing[0]} ({len(missing):,} such images): "
            "add their rows"
        )
    return subjects
