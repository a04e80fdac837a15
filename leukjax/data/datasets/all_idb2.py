"""ALL-IDB2: single cells on a bright field, from patients who are not named."""

import re

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from leukjax.data.archive import Files
from leukjax.data.builder import Builder
from leukjax.data.dataset import Entry, FileSource, positive_class
from leukjax.errors import UserError

# The number after the underscore: 1 = a leukaemic blast, 0 = a healthy cell.
CLASSES = ("all", "healthy")
_CLASS_OF = {"1": "all", "0": "healthy"}
PUBLISHED = {"all": 130, "healthy": 130}

_NAME = re.compile(r"(Im[0-9]+_([01]))\.tiff?", re.IGNORECASE)


def source(data: ConfigDict) -> FileSource:
    """ALL-IDB2 anywhere below `data.root`: Im001_1.tif and so on, in folders or in zips.

    Classes are ("all", "healthy"), positive is all; ids are the names without suffix. No subjects
    are known: each image is its own.

    Raises:
      UserError: no such file, or the same name twice.
    """
    files = Files(data.root)
    entries: dict[str, Entry] = {}
    other = []
    for file in files.files:
        match = _NAME.fullmatch(file.name)
        if match is None:
            other.append(file)
            continue
        id, digit = match.groups()
        if id in entries:
            raise UserError(
                f"{file.path}: the same image is at {entries[id].path} too: remove one of them"
            )
        entries[id] = Entry(id, file.path, CLASSES.index(_CLASS_OF[digit]), subject=id)
    if not entries:
        raise UserError(
            f"data.root: {data.root} is not laid out as ALL-IDB2: found {other[0].place}; expected "
            "Im001_1.tif to Im260_0.tif (ALL-IDB1, whole fields as .jpg, is another data set)"
        )
    found = {
        name: sum(entry.label == label for entry in entries.values())
        for label, name in enumerate(CLASSES)
    }
    empty = [name for name, count in found.items() if not count]
    if empty:
        raise UserError(
            f"data.root: {data.root} has no image of class {empty[0]}: download ALL-IDB2 again"
        )
    counts = ", ".join(f"{name} {found[name]} (published: {PUBLISHED[name]})" for name in CLASSES)
    notes = [
        f"ALL-IDB2: {counts}: "
        + ("as published" if found == PUBLISHED else "differs from the published counts"),
        "ALL-IDB2 names no subjects: each image counts as its own, and scores may be too high",
    ]
    if other:
        notes.append(f"{len(other)} other files are ignored: {other[0].place}, …")
    notes += files.notes()
    return FileSource(
        name="all_idb2",
        classes=CLASSES,
        positive=positive_class(data.positive, CLASSES, "all"),
        entries=list(entries.values()),
        notes=notes,
        subjects_known=False,
        background="bright",
        files=files,
    )


class AllIdb2(Builder):
    """ALL-IDB2: 260 single cells of unnamed patients, leukaemic (all) or healthy."""

    VERSION = tfds.core.Version("1.0.0")
    CITATION = (
        "Donida Labati, R., Piuri, V. & Scotti, F. (2011). ALL-IDB: the acute lymphoblastic "
        "leukemia image database for image processing. ICIP 2011, doi 10.1109/ICIP.2011.6115881."
    )

    make_source = staticmethod(source)
