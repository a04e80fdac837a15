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
from leukjax.data.dataset import FileDataset
from leukjax.data.decode import BadImage, decode
from leukjax.data.image_stats import find_background, sample_rows
from leukjax.data.source import INFO, Entry, Note, positive_class
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
        paths = [file.place for file in images]
        levels.check_names(paths, root)
        classes = _classes(files, images, root)
        subjects, origin = _subjects(files.root, images, subject, subject_csv)
        warnings = levels.check_sub_folders(paths, subjects, positive, root)
        entries = [
            Entry(
                file.place,
                file.path,
                classes.index(file.place.split("/", 1)[0]),
                subjects[file.place],
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
        chosen = positive_class(positive, classes, classes[1] if len(classes) == 2 else "")
        if chosen and not positive:
            texts.append(f"positive class: {chosen} (data.positive chooses another)")
        super().__init__(
            name="image_folder",
            classes=classes,
            positive=chosen,
            entries=entries,
            notes=[*(Note(INFO, text) for text in texts), *warnings],
            subjects_known=bool(subject or subject_csv),
            background=background,
            bad_images=bad_images,
            config_fields={
                "data.root": os.path.abspath(root),
                "data.subject_pattern": subject,
                "data.subject_csv": os.path.abspath(subject_csv) if subject_csv else "",
                "data.positive": positive,
                "data.bad_images": bad_images,
            },
            files=files,
        )


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
    loose = [file for file in images if "/" not in file.place]
    if loose:
        raise UserError(
            f"data.root: {loose[0].place} lies in no class folder ({expected}): "
            "move it into one, or remove it"
        )
    names = {file.place.split("/", 1)[0] for file in images}
    zips = sorted(name for name in names if name.lower().endswith(".zip"))
    if zips:
        raise UserError(
            f"data.root: {zips[0]} would be a class ({expected}): unpack it or make it the root"
        )
    for folder in sorted(files.folders):
        if folder not in names:
            raise UserError(
                f"data.root: class {folder} has no image ({expected}): add images or remove the "
                "folder"
            )
    if len(names) < 2:
        found = ", ".join(sorted(names)) or "no image"
        raise UserError(
            f"data.root: {root} holds one class only ({found}; {expected}): "
            "is the root a level too high or too low?"
        )
    return tuple(sorted(names))


def _subjects(
    root: Path, images: list[File], expression: str, table: str
) -> tuple[dict[str, str], str]:
    """Returns the subject of each image by its path, and a phrase that says where it comes from."""
    if table:
        return _from_csv(table, root, images), f"read from {table}"
    if not expression:
        origin = (
            "each image its own (neither data.subject_pattern nor data.subject_csv is given): "
            "scores may be too high"
        )
        return {file.place: file.place for file in images}, origin
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(
            f"data.subject_pattern: no regular expression ({error}): mend it"
        ) from error
    if not pattern.groups:
        raise UserError("data.subject_pattern: has no group: put the subject in parentheses")
    names = [file.place for file in images]
    subjects = dict(zip(names, _first_groups(pattern.pattern, names), strict=True))
    missing = [name for name in names if not subjects[name]]
    if missing:
        raise UserError(
            f"data.subject_pattern: {pattern.pattern!r} finds no subject in {missing[0]} "
            f"({len(missing):,} of {len(names):,} files); change the pattern or move the files"
        )
    return subjects, f"read from the names by '{pattern.pattern}'"


_SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
groups = [match and match[1] or "" for match in map(re.compile(pattern).search, names)]
json.dump(groups, sys.stdout)
"""
_SEARCH_SECONDS = 10.0  # plus 0.1 ms per name; a usual pattern takes 1 us


def _first_groups(pattern: str, names: Sequence[str]) -> list[str]:
    """Returns the first group of a pattern's match in each name; "" without a match.

    Searches in a process with a time limit: the pattern may come from another person's run, and
    some, like ``(a+)+$``, take a time that doubles with each letter.

    Raises:
      UserError: it takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, names]),
            capture_output=True,
            encoding="utf-8",
            timeout=_SEARCH_SECONDS + 1e-4 * len(names),
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"data.subject_pattern: {pattern!r} takes too long on {len(names):,} names of files; "
            "avoid a repetition inside a repeated group, as in (a+)+"
        ) from None
    return json.loads(done.stdout)


def _from_csv(name: str, root: Path, images: list[File]) -> dict[str, str]:
    """Subject of each image by its place, from a CSV with the columns path, subject."""
    path = Path(native(os.fspath(name))).expanduser()
    if not path.is_file() and (root / path).is_file():
        path = root / path
    try:
        text = io.StringIO(read_text(path, MAX_TABLE_BYTES), newline="")
        rows = list(csv.DictReader(text, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"data.subject_csv: {name} cannot be read ({reason}): give a CSV with the columns "
            "path,subject"
        ) from error
    places = {file.place for file in images}
    subjects: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        place, subject = (row.get("path") or "").strip(), (row.get("subject") or "").strip()
        where = f"data.subject_csv: {path}: line {number}"
        if not place or not subject:
            raise UserError(f"{where} lacks a value of the columns path, subject: mend it")
        place = Path(place).as_posix()
        if place in subjects:
            raise UserError(f"{where}: {place} has two rows: remove one")
        if place not in places:
            raise UserError(
                f"{where}: {place} is no image below data.root: write paths relative to it"
            )
        subjects[place] = subject
    missing = sorted(places - set(subjects))
    if missing:
        raise UserError(
            f"data.subject_csv: {path} has no row for {missing[0]} ({len(missing)} such images): "
            "add them"
        )
    return subjects


def _sample(files: Files, images: list[File]) -> Iterator[np.ndarray]:
    """Yields a few decoded images."""
    for row in sample_rows(len(images)):
        try:
            yield decode(files.read(images[row].path), images[row].path)[0]
        except BadImage:
            continue  # the scan reports it
