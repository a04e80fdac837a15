"""May these models be compared? Same images, classes and data; else one line says why not."""

from collections.abc import Sequence

import numpy as np

from leukjax.compare.load_results import Entry, Run, same_images
from leukjax.errors import UserError


def check(entries: Sequence[Entry]) -> list[str]:
    """Refuse what cannot be compared.

    Models of the `image` protocol were tested on other images than those of an honest split, by
    construction: they are compared with each other, and the honest ones with each other.

    Returns:
        Sentences on what differs and may.

    Raises:
        UserError: other test images, classes or data; one subject only.
    """
    first = entries[0]
    for entry in entries:
        groups = np.unique(entry.predictions.group)
        if len(groups) < 2:
            raise UserError(
                f"{entry.source}: all {len(entry.predictions)} images are of one group"
                f" ({groups[0]}); intervals and tests need the images of several subjects"
            )
        if entry.predictions.classes != first.predictions.classes:
            same_images(first.predictions, entry.predictions, first.source, entry.source)
    for leaky in (False, True):
        panel = [entry for entry in entries if entry.leaky is leaky]
        for entry in panel[1:]:
            same_images(panel[0].predictions, entry.predictions, panel[0].source, entry.source)
    return _same_data([run for entry in entries for run in entry.runs])


def _same_data(runs: Sequence[Run]) -> list[str]:
    """Compare the checksums of the records of runs that prepared their images alike."""
    notes = []
    seen: dict[tuple, Run] = {}
    for run in runs:
        names = ("image_size", "crop", "denoise")
        prepared = tuple(run.config["data"][name] for name in names)
        for other in list(seen.values())[:1]:
            if run.summary["data"] != other.summary["data"]:
                raise UserError(
                    f"{run.folder}: was trained on {run.summary['data']} and {other.folder} on"
                    f" {other.summary['data']}; compare models of the same data"
                )
        twin = seen.setdefault(prepared, run)
        if run.data["records_sha256"] != twin.data["records_sha256"]:
            raise UserError(
                f"{run.folder}: its data are not those of {twin.folder} (records_sha256 in"
                " data.json differs); train on the same images"
            )
    if len(seen) > 1:
        shown = "; ".join(f"{size} px, crop {crop}, denoise {how}" for size, crop, how in seen)
        notes.append(
            f"The models saw the images prepared in {len(seen)} ways ({shown}), so checksums of the"
            " prepared pixels cannot be compared; ids, labels, subjects and groups were."
        )
    honest = [run for run in runs if not run.summary["leaky"]]
    folds = {run.config["split"].get("fold") for run in honest}
    if len(folds) == 1 and len({run.data["split_sha256"] for run in honest}) > 1:
        notes.append(
            "The models share the test images and not the training images (their split.csv differ):"
            " a part of the difference may be that of the training data."
        )
    return notes


def positive_class(entries: Sequence[Entry], asked: str) -> str:
    """The class that precision, recall, specificity, F1 and AUROC speak of; "" above two classes.

    Raises:
        UserError: no such class, more than two classes, or runs that disagree.
    """
    classes = entries[0].predictions.classes
    if asked and asked not in classes:
        raise UserError(f"--positive={asked}: no such class; one of {', '.join(classes)}")
    if len(classes) > 2:
        if asked:
            raise UserError(
                f"--positive={asked}: there are {len(classes)} classes, and above two every score"
                " is a mean over the classes; leave the flag out"
            )
        return ""
    if asked:
        return asked
    named = sorted({entry.positive for entry in entries if entry.positive})
    if len(named) > 1:
        raise UserError(
            f"--positive: the runs name {' and '.join(named)} as their positive class; choose one"
        )
    # What scikit-learn takes for positive, too.
    return named[0] if named else classes[1]
