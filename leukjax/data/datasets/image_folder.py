"""ImageFolder: images in one folder per class."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from leukjax.data import levels
from leukjax.data.archive import File, Files, native
from leukjax.data.dataset import FileDataset, names_config_fields
from leukjax.data.decode import BadImage, decode
from leukjax.data.image_stats import find_background, sample_rows
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
        """Lists ROOT/CLASS/…/IMAGE, in folders or in one zip, in any format that is read.

        Classes are the names of the folders, sorted; ids are the paths below the root.

        Args:
          root: a folder or a zip.
          subject: regular expression, searched in the path below the root; its first group is the
            subject.
          subject_csv: table with the columns path, subject. Without it and `subject` each image is
            its own subject.
          positive: class of precision, recall and F1; by default the second of two, and none above
            two.
          bad_images: "error" stops at an image that cannot be decoded, "skip" leaves it out.

        Raises:
          UserError: another layout, a root that is a level too high (train, val and test, or folds,
            instead of classes; `leukjax.data.levels`), a class without images, an image without a
            subject, a table with missing, repeated or unknown rows.
        """
        root, subject_csv = os.fspath(root), os.fspath(subject_csv)
        files = Files(root)
        images = [file for file in files.files if file.suffix != ".csv"]
        locations = [file.location for file in images]
        levels.check_names(locations, root)
        classes = _classes(files, images, root)
        subjects, origin = _subjects(files.root, images, subject, subject_csv)
        warnings = levels.check_sub_folders(locations, subjects, positive, root)
        entries = [
            Entry(
                file.location,
                file.path,
                classes.index(file.location.split("/", 1)[0]),
                subjects[file.location],
            )
            for file in images
        ]
        counts = Counter(entry.label for entry in entries)
        per_class = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
        number = len({entry.subject for entry in entries})
        background, share = find_background(_sample(files, images))
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
                "data.subject_csv": os.path.abspath(subject_csv) if subject_csv else "",
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
            files=files,
        )


@names_config_fields
def make(data: ConfigDict) -> ImageFolder:
    """Returns the data set of the `data` section of a config."""
    return ImageFolder(
        data.root,
        subject=data.subject_pattern,
        subject_csv=data.subject_csv,
        positive=data.positive,
    )


def _classes(files: Files, images: list[File], root: str) -> tuple[str, ...]:
    expected = f"expected {root}/<class>/…/<image>"
    loose = [file for file in images if "/" not in file.location]
    if loose:
        raise UserError(
            f"root: {loose[0].location} is in no class folder ({expected}; {len(loose):,} such "
            "images): move it into one, or remove it"
        )
    names = {file.location.split("/", 1)[0] for file in images}
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
    if len(names) < 2:
        classes = ", ".join(sorted(names)) or "no image"
        raise UserError(
            f"root: {root} holds one class only ({classes}; {expected}): "
            "is the root a level too high or too low?"
        )
    return tuple(sorted(names))


def _subjects(
    root: Path, images: list[File], expression: str, table: str
) -> tuple[dict[str, str], str]:
    """Returns the subject of each image by its location, and where the subjects come from."""
    locations = [file.location for file in images]
    if table:
        return _from_csv(table, root, locations), f"read from {table}"
    if not expression:
        origin = "each image its own, since no subjects are given: scores may be too high"
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
            f"subject: {expression!r} does not match {missing[0]} ({len(missing):,} of "
            f"{len(locations):,} images). Change the expression or move the files"
        )
    return subjects, f"read from the names by '{expression}'"


_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
groups = [match and match[1] or "" for match in map(re.compile(pattern).search, names)]
json.dump(groups, sys.stdout)
"""
_SEARCH_SECONDS = 10.0  # plus 0.1 ms per name; a usual pattern takes 1 us


def _first_groups(pattern: str, locations: Sequence[str]) -> list[str]:
    """Returns the first group of the match in each location; "" without a match.

    Searches in a process with a time limit: the pattern may come from another person's run, and
    some, like ``(a+)+$``, take a time that doubles with each letter.

    Raises:
      UserError: it takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, locations]),
            capture_output=True,
            encoding="utf-8",
            timeout=_SEARCH_SECONDS + 1e-4 * len(locations),
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"subject: {pattern!r} takes too long on {len(locations):,} names of files; "
            "avoid a repetition inside a repeated group, as in (a+)+"
        ) from None
    return json.loads(done.stdout)


def _from_csv(name: str, root: Path, locations: list[str]) -> dict[str, str]:
    """Returns the subject of each image from a CSV with the columns path, subject."""
    path = Path(native(name)).expanduser()
    if not path.is_file() and (root / path).is_file():
        path = root / path
    try:
        text = io.StringIO(read_text(path, MAX_TABLE_BYTES), newline="")
        rows = list(csv.DictReader(text, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"subject_csv: {name} cannot be read ({reason}): give a CSV with the columns "
            "path,subject"
        ) from error
    known = set(locations)
    subjects: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        location, subject = (row.get("path") or "").strip(), (row.get("subject") or "").strip()
        line = f"subject_csv: {path}: line {number}"
        if not location or not subject:
            raise UserError(f"{line} lacks a value of the columns path, subject: add it")
        location = Path(location).as_posix()
        if location in subjects:
            raise UserError(f"{line}: {location} has two rows: remove one")
        if location not in known:
            raise UserError(
                f"{line}: {location} is no image below root: write paths relative to it"
            )
        subjects[location] = subject
    missing = sorted(known - set(subjects))
    if missing:
        raise UserError(
            f"subject_csv: {path} has no row for {missing[0]} ({len(missing):,} images): add them"
        )
    return subjects


def _sample(files: Files, images: list[File]) -> Iterator[np.ndarray]:
    """Yields a few decoded images."""
    for row in sample_rows(len(images)):
        try:
            yield decode(files.read(images[row].path), images[row].path)[0]
        except BadImage:
            continue  # the scan reports it
