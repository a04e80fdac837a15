"""Class maps: what the classes of another data set are called in a run."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from jaxtyping import Int, Shaped

from leukjax import storage
from leukjax.errors import UserError

MAX_BYTES = 2**20  # of a file
UNLABELLED = "no label"
_LISTED = 20  # classes that a message names

# Their class -> ours; "" = left out. Or the CSV file that lists it, with the columns theirs,ours.
ClassMap = Mapping[str, str] | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Mapped:
    """The images of another data set that have one of our classes.

    Attributes:
      rows: of its manifest.
      labels: indices of our classes.
      theirs: the class of each image as the data set calls it.
      left_out: their class -> number of images that are left out.
    """

    rows: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    theirs: Shaped[np.ndarray, "n"]
    left_out: dict[str, int]


def resolve(class_map: ClassMap | None, theirs: Sequence[str], ours: Sequence[str]) -> dict:
    """Returns our class, or "" = left out, for each of their classes.

    Args:
      class_map: several of their classes may have one of ours; what it does not list is left out.
        None = their classes must be among ours.
      theirs: classes of the other data set.
      ours: classes of the run.

    Raises:
      UserError: an unknown class, no class that is kept, or a file that cannot be read.
    """
    if class_map is None:
        unknown = sorted(set(theirs) - set(ours))
        if unknown:
            raise UserError(
                f"class_map: is missing, and the data have the class {unknown[0]!r}, which the run "
                f"does not know; the data have {_few(theirs)}; the run has {_few(ours)}. Give a "
                "class map (a CSV file with the columns theirs,ours)"
            )
        return {name: name for name in theirs}
    pairs = class_map if isinstance(class_map, Mapping) else _read(class_map)
    for name, other in pairs.items():
        for side, value, known in (("data", name, theirs), ("run", other, ("", *ours))):
            if value not in known:
                raise UserError(
                    f"class_map: {str(value)[:100]!r} is no class of the {side}; its classes are "
                    f"{_few([choice for choice in known if choice])}"
                )
    if not any(pairs.values()):
        raise UserError(f"class_map: leaves out every class of the data: {_few(theirs)}")
    return {name: pairs.get(name, "") for name in theirs}


def apply(
    ours_of: Mapping[str, str],
    labels: Int[np.ndarray, "m"],
    theirs: Sequence[str],
    ours: Sequence[str],
    rows: Int[np.ndarray, "k"],
) -> Mapped:
    """Returns the images that have one of our classes.

    Args:
      ours_of: result of `resolve`.
      labels: indices of their classes by row of the manifest; -1 = unlabelled, left out.
      theirs, ours: class names.
      rows: the rows to use.

    Raises:
      UserError: no image is left.
    """
    index = {name: label for label, name in enumerate(ours)} | {"": -1}
    # The last entry is that of label -1.
    new_label = np.array([*(index[ours_of[name]] for name in theirs), -1], np.int32)
    mapped = new_label[labels[rows]]
    names = np.array([*theirs, UNLABELLED])[labels[rows]]
    kept = mapped >= 0
    left_out = dict(sorted(Counter(names[~kept].tolist()).items()))
    if not kept.any():
        raise UserError("class_map: no image has a class that it keeps; see its rows")
    if left_out:
        counts = ", ".join(f"{name} ({count:,} images)" for name, count in left_out.items())
        logging.warning("the class map leaves out %s: scores are without them", counts)
    return Mapped(rows[kept], mapped[kept], names[kept], left_out)


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads a CSV file with the columns theirs,ours; one row per class."""
    try:
        header, rows = storage.read_csv(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise UserError(f"class_map: {os.fspath(path)}: cannot be read ({reason})") from error
    if not {"theirs", "ours"} <= set(header):
        raise UserError(
            f"class_map: {os.fspath(path)}: has the columns {_few(header)}; it needs theirs,ours"
        )
    pairs: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name = row["theirs"].strip()
        if name in pairs:
            raise UserError(
                f"class_map: {os.fspath(path)}: row {number} lists {name[:100]!r} again; keep one"
            )
        pairs[name] = row["ours"].strip()
    return pairs


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:100] for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED:,} more" if len(names) > _LISTED else shown
