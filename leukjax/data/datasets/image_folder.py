"""Any images sorted into one folder a class."""

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

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from leukjax.data import levels
from leukjax.data.archive import File, Files, native
from leukjax.data.builder import Builder
from leukjax.data.dataset import Entry, FileSource, positive_class
from leukjax.data.decode import BadImage, decode
from leukjax.errors import UserError
from leukjax.storage import MAX_TABLE_BYTES, read_text

# Enough to tell a black background from a bright one, few enough to be read at every start.
_SAMPLE = 24


def source(data: ConfigDict) -> FileSource:
    """Images as `data.root`/<class>/…/<image>, of any number of classes and of any format read.

    Classes are the folders' names, sorted; ids are the paths below the root. With two classes the
    second one is positive unless `data.positive` says otherwise; above two there is none. Subjects
    come from `data.subject_pattern` (searched in the path below the root; its first group) or from
    `data.subject_csv` (columns path, subject); with neither each image is its own subject.

    Raises:
      UserError: another layout, a root that is a level too high (train, val and test, or folds, in
        the place of classes; `leukjax.data.levels`), a class without images, an image without a
        subject, a CSV with missing, repeated or unknown rows.
    """
    files = Files(data.root)
    images = [file for file in files.files if file.suffix != ".csv"]
    places = [file.place for file in images]
    levels.check_names(places, data.root)
    classes = _classes(files, images, data.root)
    subjects, how = _subjects(data, files.root, images)
    warnings = levels.check_sub_folders(places, subjects, data.positive, data.root)
    entries = []
    for file in images:
        folder = file.place.split("/", 1)[0]
        subject = subjects[file.place]
        entries.append(Entry(file.place, file.path, classes.index(folder), subject))
    counts = Counter(entry.label for entry in entries)
    found = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(classes))
    people = len({entry.subject for entry in entries})
    positive = positive_class(data.positive, classes, classes[1] if len(classes) == 2 else "")
    background, share = _background(files, images)
    notes = [
        f"{len(entries):,} images ({found}) of {people:,} subjects, {how}",
        f"background: {background} ({share:.0%} of the border pixels are exactly black)",
    ]
    notes += files.notes()
    if not data.positive and positive:
        notes.append(f"positive class: {positive} (data.positive chooses another)")
    notes.extend(warnings)
    return FileSource(
        name="image_folder",
        classes=classes,
        positive=positive,
        entries=entries,
        notes=notes,
        subjects_known=bool(data.subject_pattern or data.subject_csv),
        background=background,
        files=files,
    )


class ImageFolder(Builder):
    """Images in one folder a class, of any number of classes and any sizes."""

    VERSION = tfds.core.Version("1.0.0")

    make_source = staticmethod(source)


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


def _subjects(data: ConfigDict, root: Path, images: list[File]) -> tuple[dict[str, str], str]:
    """Subject of each image by its place, and a phrase that says where it comes from."""
    if data.subject_csv:
        return _from_csv(data.subject_csv, root, images), f"read from {data.subject_csv}"
    if not data.subject_pattern:
        how = (
            "each image its own for want of data.subject_pattern or data.subject_csv: "
            "scores may be too high"
        )
        return {file.place: file.place for file in images}, how
    try:
        pattern = re.compile(data.subject_pattern)
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


def _background(files: Files, images: list[File]) -> tuple[str, float]:
    """The kind of background, and the share of exact black in the border of a sample of images."""
    shares = []
    for i in np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(int)):
        try:
            image, _ = decode(files.read(images[i].path), images[i].path)
        except BadImage:
            continue  # the scan names it
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        shares.append(float((border == 0).all(axis=1).mean()))
    share = float(np.mean(shares)) if shares else 0.0
    return ("black" if share > 0.5 else "bright"), share
