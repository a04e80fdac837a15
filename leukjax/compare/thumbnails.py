"""The images behind predictions, where this machine's own cache still holds them."""

from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging
from jaxtyping import UInt8

from leukjax.compare.load_results import Entry
from leukjax.data import records
from leukjax.errors import UserError


def of_ids(entry: Entry, ids: Sequence[np.ndarray]) -> list[UInt8[np.ndarray, "n s s 3"]] | None:
    """Images by id, a list of them for each list of ids; None where they are not at hand.

    They are those of the entry's first run, which may come from anyone: nothing is prepared or
    copied for a report, and no folder is read that a run names.
    """
    if not entry.runs:
        return None
    run = entry.runs[0]
    try:
        stored = records.find(run.summary["data"], run.data["records_sha256"])
        if stored is None:
            logging.info("no pictures in the report: the images are not in the cache")
            return None
        return _read(stored, run.split, ids)
    # What a damaged cache raises depends on the damage; a report does not fail for its pictures.
    except (UserError, OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        logging.info("no pictures in the report: the images cannot be read (%s)", error)
        return None


def _read(
    stored: records.Stored, split: Iterable[str], ids: Sequence[np.ndarray]
) -> list[UInt8[np.ndarray, "n s s 3"]] | None:
    # Records are in the order of the ids, and split.csv names them all.
    row = {name: place for place, name in enumerate(np.sort(np.array(list(split))).tolist())}
    pictures = []
    for wanted in ids:
        images = np.zeros((len(wanted), stored.image_size, stored.image_size, 3), np.uint8)
        for place, name in enumerate(wanted):
            found, images[place] = stored.image(row[str(name)])
            if found != str(name):
                raise ValueError(f"record {row[str(name)]} is {found} and not {name}")
        pictures.append(images)
    return pictures
