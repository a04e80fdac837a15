"""Looks for images of another data set among those that a run was trained on."""

import hashlib

import numpy as np
from absl import logging
from jaxtyping import Int

from leukjax.data import records as data_records
from leukjax.data.records import Records, Stored
from leukjax.errors import UserError
from leukjax.predict.member import Member
from leukjax.rundir import RunDir

_AT_ONCE = 256  # images in memory
_MAX_BYTES = 2**33  # of the training images that are read


def overlap(member: Member, records: Records, rows: Int[np.ndarray, "n"]) -> tuple[list[str], str]:
    """Returns the ids of images that are identical to a training or validation image of a run.

    A run does not keep the checksums of its images. They are compared as they were prepared for the
    run, with those that this machine's own cache holds; nothing is read from the run but names.

    Args:
      member: the run.
      records: the other data set, prepared in the same way.
      rows: the images to look for.

    Returns:
      Their ids, and why the images could not be compared ("" if they were).
    """
    run = RunDir(member.workdir)
    try:
        stored = data_records.find(run.preprocessing()["data"], run.data()["records_sha256"])
        if stored is None:
            return [], "the run keeps no images, and this machine's cache does not hold them"
        if len(stored) * stored.image_size**2 * 3 > _MAX_BYTES:
            return [], "the run's training images are too large to be read again"
        digests = _training_digests(stored, run)
    # A damaged cache can raise any of these, and a test on other data does not need it.
    except (UserError, OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        logging.info("the images in the cache cannot be read (%s)", error)
        return [], "the images in this machine's cache cannot be read"
    identical = []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        for name, image in zip(records.manifest.id[part], records.images(part), strict=True):
            if _digest(image) in digests:
                identical.append(str(name))
    return identical, ""


def _training_digests(stored: Stored, run: RunDir) -> set[bytes]:
    parts = {name: part for name, (*_, part) in run.split().items()}
    digests = set()
    for row in range(len(stored)):
        name, image = stored.image(row)
        if parts.get(name) in ("train", "val"):
            digests.add(_digest(image))
    return digests


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()
