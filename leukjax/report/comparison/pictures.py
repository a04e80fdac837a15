"""The images behind predictions, where the records of a run are still at hand."""

from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import UInt8
from ml_collections import ConfigDict

from leukjax.data import records as data_records
from leukjax.errors import UserError
from leukjax.report.comparison.inputs import Entry


def of_ids(entry: Entry, ids: Sequence[np.ndarray]) -> list[UInt8[np.ndarray, "n s s 3"]] | None:
    """Images by id, a list of them for each list of ids; None where they cannot be had.

    They are those of the entry's first run; its records are prepared again if the cache has lost
    them and the source is still there.
    """
    if not entry.runs:
        return None
    run = entry.runs[0]
    try:
        records = data_records.prepare(ConfigDict(run.config["data"]))
    except (UserError, KeyError, AttributeError) as error:
        logging.info("no pictures in the report: %s", error)
        return None
    if records.checksum != run.data["records_sha256"]:
        logging.info("no pictures in the report: the images have changed since the training")
        return None
    place = {str(name): row for row, name in enumerate(records.manifest.id)}
    if any(str(name) not in place for wanted in ids for name in wanted):
        return None
    return [
        records.images(np.array([place[str(name)] for name in wanted], np.int64)) for wanted in ids
    ]
