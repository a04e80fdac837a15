"""A data set of your own, for the API and for every command.

python -m leukjax.main --import=examples/custom_dataset.py --config=configs/cnn.py \\
    --config.data.name=plates --config.data.root=FOLDER --config.data.plate=P7

Reads ``PLATE_well_CLASS_number.png`` anywhere below the folder; the well is the group, which is
never on two sides of a split. Fields that leukjax's configs do not have are declared where the data
set is registered.
"""

import re

from ml_collections import ConfigDict

import leukjax as lj
from leukjax.data import FileDataset
from leukjax.data.archive import Files
from leukjax.data.source import Entry
from leukjax.fields import Text

NAME = re.compile(r"(?P<plate>\w+?)_(?P<well>\w\d+)_(?P<label>[a-z]+)_\d+\.png")


@lj.register_dataset("plates", fields={"data.plate": Text("", "plates: name of the plate")})
def plates(data: ConfigDict) -> FileDataset:
    """The images of one plate, or of all plates, by the section ``data`` of a config."""
    files = Files(data.root)
    matches = {file.path: NAME.fullmatch(file.name) for file in files.files}
    chosen = {path: m for path, m in matches.items() if m and data.plate in ("", m["plate"])}
    if not chosen:
        raise ValueError(f"{data.root}: no image of plate {data.plate!r}")
    classes = tuple(sorted({match["label"] for match in chosen.values()}))
    entries = [
        Entry(
            id=path,
            path=path,
            label=classes.index(match["label"]),
            subject=f"{match['plate']}/{match['well']}",
        )
        for path, match in chosen.items()
    ]
    return FileDataset(
        name="plates",
        classes=classes,
        positive=classes[0] if len(classes) == 2 else "",
        entries=entries,
        background="bright",
        files=files,
    )
