"""ImageFolder: images in one folder per class.

Every module of this folder is a data set: its name is the value of `data.name`, and `make` builds
it from a config. A `FileDataset` like this one needs only an ``__init__``.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from leukjax.data import levels
from leukjax.data.archive import File, Files, native
from leukjax.data.dataset import FileDataset, names_config_fields, sampled_images
from leukjax.data.image_stats import find_background
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
        positive: str = "",
        bad_images: str = "error",
    ) -> None:
        """Lists ROOT/CLASS/…/IMAGE, in folders or in one zip, in any supported image format.

        Classes are the names of the folders, sorted; ids are the paths below the root. A few
        images, evenly spaced, are decoded to find the background.

        Args:
          root: a folder or a zip.
          subject: regular expression, searched in the path below the root; what its first
            parenthesis matches is the subject (the patient, or whatever must stay on one side of a
            split). Give this or `subject_csv`; with neither each image is its own subject.
          subject_csv: table with the columns path, subject; relative to the working directory or to
            the root.
          positive: class of precision, recall and F1. Default: the second of two; none if there are
            more than two classes.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          UserError: both `subject` and `subject_csv`; a root that does not hold one folder per
            class (it may be a level too high: train, val and test, or folds); a class without
            images; an image without a subject; a table with missing, repeated or unknown rows.
        """
        root, subject_csv = os.fspath(root), os.fspath(subject_csv)
        if subject and subject_csv:
            raise UserError("subject_csv: give either this or subject, not both")
        files = Files(root)
        images = [file for file in files.files if file.suffix != ".csv"]  # it lists both
        if subject_csv:
            subject_csv = os.fspath(_csv_path(subject_csv, files.root))
        locations = [file.location for file in images]
        levels.check_names(locations, root)
        classes = _classes(files, images, root)
        subjects, origin = _subjects(images, subject, subject_csv)
        warnings = levels.check_sub_folders(locations, subjects, positive, root)
        entries = [
            Entry(
                id=file.location,  # the path with a zip as a folder
                path=file.path,
                label=classes.index(file.location.split("/", 1)[0]),
                subject=subjects[file.location],
            )
            for file in images
        ]
        counts = Counter(entry.label for entry in entries)
        per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
        number = len({entry.subject for entry in entries})
        background, share = find_background(sampled_images(files, images))
        texts = [
            f"{len(entries):,} images ({per_class}) of {number:,} subjects, {origin}",
            f"background: {background} ({share:.0%} of the border pixels are exactly black)",
            *files.notes(),
        ]
        if not positive and len(classes) == 2:
            texts.append(f"positive class: {classes[1]}, the second of two")
        super().__init__(
            name="image_folder",
            classes=classes,
            positive=positive,
            entries=entries,
            notes=[*(Note(INFO, text) for text in texts), *warnings],
            subjects_known=bool(subject or subject_csv),
            background=background,
            bad_images=bad_images,
            config_fields={
                "data.root": str(files.root.absolute()),
                "data.subject_pattern": subject,
                "data.subject_csv": subject_csv,
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
        positive=data.positive,
    )


def _classes(files: Files, images: list[File], root: str) -> tuple[str, ...]:
    """Returns the sorted names of the class folders, after checking the layout."""
    expected = f"expected {root}/<class>/…/<image>"
    loose = [file for file in images if "/" not in file.location]
    if loose:
        raise UserError(
            f"root: {loose[0].location} is not in a class folder ({expected}; {len(loose):,} such "
            "images): move it into one, or remove it"
        )
    names = {file.location.split("/", 1)[0] for file in images}
    # Members of a zip have a location below it, as if it were a folder.
    zips = sorted(name for name in names if name.lower().endswith(".zip"))
    if zips:
        raise UserError(
            f"root: {zips[0]} would be a class ({expected}): unpack it or make it the root"
        )
    empty = sorted(files.folders - names)
    if empty:
        raise UserError(
            f"root: class {empty[0]} has no image ({expected}): add images or remove the folder"
        )
    if not names:
        raise UserError(f"root: {root} holds no image ({expected})")
    if len(names) < 2:
        raise UserError(
            f"root: {root} holds only the class {names.pop()} ({expected}): "
            "is the root a level too high or too low?"
        )
    return tuple(sorted(names))


def _subjects(images: list[File], expression: str, table: str) -> tuple[dict[str, str], str]:
    """Returns the subject of each image by its location, and where the subjects come from."""
    locations = [file.location for file in images]
    if table:
        return _from_csv(table, locations), f"read from {table}"
    if not expression:
        origin = "each image its own, because no subjects are given: scores may be too high"
        return {location: location for location in locations}, origin
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"subject: {expression!r} is not a regular expression ({error})") from error
    if not pattern.groups:
        raise UserError("subject: the expression has no group: put the subject in parentheses")
    subjects = dict(zip(locations, _first_groups(expression, locations), strict=True))
    missing = [location for location in locations if not subjects[location]]
    if missing:
        raise UserError(
            f"subject: {expression!r} finds no subject in {missing[0]} ({len(missing):,} of "
            f"{len(locations):,} images): change the expression or move the files"
        )
    return subjects, f"taken from the paths with '{expression}'"


# The pattern may come from the config of another person's run, and a regular expression may take a
# time that doubles with each letter, as (a+)+$ does. So it runs in a process with a time limit.


_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
groups = [match and match[1] or "" for match in map(re.compile(pattern).search, names)]
json.dump(groups, sys.stdout)
"""
_SEARCH_SECONDS = 10.0  # plus 0.1 ms per name; a typical pattern takes 1 us


def _first_groups(pattern: str, locations: Sequence[str]) -> list[str]:
    """Returns the first group of the match in each location; "" without a match.

    Raises:
      UserError: the search exceeds its time limit, or fails.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],  # isolated, without site-packages: quick
            input=json.dumps([pattern, locations]),
            capture_output=True,
            encoding="utf-8",
            timeout=_SEARCH_SECONDS + 1e-4 * len(locations),
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"subject: {pattern!r} takes too long on {len(locations):,} paths; "
            "avoid a repetition inside a repeated group, as in (a+)+"
        ) from None
    except subprocess.CalledProcessError as error:
        line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"subject: {pattern!r} cannot be searched ({line})") from error
    return json.loads(done.stdout)


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
