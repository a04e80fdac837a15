"""ALL-IDB2: single cells on a bright field, from patients who are not named."""

import re
from collections import Counter

from ml_collections import ConfigDict

from leukjax.data.archive import Files
from leukjax.data.dataset import FileDataset, names_config_fields
from leukjax.data.source import INFO, Entry, Note
from leukjax.errors import UserError

# The number after the underscore: 1 = a leukaemic blast, 0 = a healthy cell.
CLASSES = ("all", "healthy")
_CLASS_OF = {"1": "all", "0": "healthy"}
PUBLISHED = {"all": 130, "healthy": 130}

_NAME = re.compile(r"(Im[0-9]+_([01]))\.tiff?", re.IGNORECASE)


class AllIdb2(FileDataset):
    """ALL-IDB2: 260 single cells of unnamed patients, leukaemic (all) or healthy."""

    citation = (
        "Donida Labati, R., Piuri, V. & Scotti, F. (2011). ALL-IDB: the acute lymphoblastic "
        "leukemia image database for image processing. ICIP 2011, doi 10.1109/ICIP.2011.6115881."
    )

    def __init__(self, root: str, *, positive: str = "") -> None:
        """Lists ALL-IDB2 anywhere below `root`: Im001_1.tif and so on, in folders or in zips.

        Classes are ("all", "healthy"); ids are the names without suffix. No subjects are known:
        each image is its own. The positive class is all unless `positive` names the other.

        Raises:
          UserError: no such file, or the same name twice.
        """
        files = Files(root)
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
                f"root: {root} is not laid out as ALL-IDB2: found {other[0].location}; expected "
                "Im001_1.tif to Im260_0.tif (ALL-IDB1, whole fields as .jpg, is another data set)"
            )
        labels = Counter(CLASSES[entry.label] for entry in entries.values())
        counts = {name: labels[name] for name in CLASSES}
        empty = [name for name, count in counts.items() if not count]
        if empty:
            raise UserError(
                f"root: {root} has no image of class {empty[0]}: download ALL-IDB2 again"
            )
        per_class = ", ".join(
            f"{name} {counts[name]} (published: {PUBLISHED[name]})" for name in CLASSES
        )
        texts = [
            f"ALL-IDB2: {per_class}: "
            + ("as published" if counts == PUBLISHED else "differs from the published counts"),
            "ALL-IDB2 names no subjects: each image counts as its own, and scores may be too high",
        ]
        if other:
            texts.append(f"{len(other)} other files are ignored: {other[0].location}, …")
        texts += files.notes()
        super().__init__(
            name="all_idb2",
            classes=CLASSES,
            positive=positive or "all",
            entries=list(entries.values()),
            notes=[Note(INFO, text) for text in texts],
            subjects_known=False,
            background="bright",
            files=files,
            config_fields={"data.root": str(files.root.absolute()), "data.positive": positive},
        )


@names_config_fields
def make(data: ConfigDict) -> AllIdb2:
    """Returns the data set of the `data` section of a config."""
    return AllIdb2(data.root, positive=data.positive)
