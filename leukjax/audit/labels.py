"""The audit of labels: label_issues.csv, and a sheet with the most doubtful images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import UInt8
from matplotlib.figure import Figure

from leukjax.compare.case_figures import cached_images
from leukjax.compare.load_results import Entry, check_same_images, join, read_entries
from leukjax.errors import UserError
from leukjax.metrics.label_issues import LabelIssues, find_label_issues
from leukjax.metrics.predictions import Predictions
from leukjax.report.style import save, style
from leukjax.storage import csv_text, write_atomic

SHOWN = 40  # images on the sheet
_COLUMNS = 8
_PRINTED = 10
_HEADER = ("rank", "id", "subject", "label", "suggested", "issue", "doubt", "agreement",
           "p_label", "p_suggested")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LabelAudit:
    """The labels of the images that the models were tested on.

    Attributes:
      predictions: mean probability over the models, sorted by id.
      issues: its rows, the most doubtful label first.
      models: number of models and seeds.
      source: where pictures of the images may be found.
    """

    predictions: Predictions
    issues: LabelIssues
    models: int
    source: Entry


def audit_labels(arguments: Sequence[str]) -> LabelAudit:
    """Ranks the labels of the images that no model trained on.

    These are all images of a cross-validation, and the validation and test images of a run.

    Args:
      arguments: folders of studies or runs, as `leukjax.compare` takes them.

    Raises:
      UserError: not a study or a run, or they were tested on different images.
    """
    entries = read_entries(arguments)
    members: list[Predictions] = []
    for entry in entries:
        if not entry.runs:
            raise UserError(f"{entry.source}: is no run and no study; give a folder of crossval")
        for member in _unseen(entry):
            if members:
                check_same_images(members[0], member, entries[0].source, entry.source)
            members.append(member)
    mean = np.mean([member.probabilities for member in members], axis=0)
    return LabelAudit(
        dataclasses.replace(members[0], probabilities=mean),
        find_label_issues(members),
        len(members),
        entries[0],
    )


def _unseen(entry: Entry) -> list[Predictions]:
    """The predictions of each seed for images that the model has not trained on."""
    if entry.folds:
        return [join(folds) for folds in entry.folds]
    return [join([run.test, run.val]) for run in entry.runs]


def write_and_print(audit: LabelAudit, output: Path) -> None:
    """Writes label_issues.csv and label_issues.png, and prints the first rows."""
    rows = _rows(audit)
    write_atomic(output / "label_issues.csv", csv_text(_HEADER, rows))
    written = [str(output / "label_issues.csv")]
    shown = audit.issues.rows[:SHOWN]
    images = cached_images(audit.source, [audit.predictions.id[shown]])
    if images:
        save(_sheet(audit, images[0]), output, "label_issues", ("png",))
        written.append("label_issues.png")
    else:
        logging.info("no sheet of pictures: prepare the images on this machine first")
    count, total = int(audit.issues.is_issue.sum()), len(rows)
    models = "1 model" if audit.models == 1 else f"{audit.models} models and seeds"
    print(
        f"\n{count:,} of {total:,} labels are doubtful: at least half of {models}, none of which "
        "trained on the image, prefer another class. The most doubtful ones:\n"
    )
    for rank, id, _, label, suggested, _, doubt, agreement, *_ in rows[:_PRINTED]:
        print(f"{rank:>4}  {id}: {label}, suggested {suggested} (doubt {doubt}, {agreement})")
    print(f"\nWrote {' and '.join(written)}. A doubtful label may be right: look at the image.")


def _rows(audit: LabelAudit) -> list[list[str]]:
    p, issues = audit.predictions, audit.issues
    rows = []
    for rank, (row, suggested) in enumerate(zip(issues.rows, issues.suggested, strict=True)):
        label, votes = int(p.labels[row]), round(issues.agreement[rank] * audit.models)
        rows.append(
            [
                str(rank + 1),
                str(p.id[row]),
                str(p.subject[row]),
                p.classes[label],
                p.classes[suggested],
                "yes" if issues.is_issue[rank] else "no",
                f"{issues.doubt[rank]:.4f}",
                f"{votes} of {audit.models}",
                f"{p.probabilities[row, label]:.4f}",
                f"{p.probabilities[row, suggested]:.4f}",
            ]
        )
    return rows


def _sheet(audit: LabelAudit, images: UInt8[np.ndarray, "n s s 3"]) -> Figure:
    """The images with the most doubtful labels."""
    p, issues = audit.predictions, audit.issues
    lines = -(-len(images) // _COLUMNS)
    with style():
        figure = Figure(figsize=(8.0, 0.6 + 1.35 * lines))
        title = "Most doubtful labels: given → suggested (bold: at least half of the models agree)"
        figure.suptitle(title, fontweight="bold", fontsize=10)
        grid = figure.subplots(lines, _COLUMNS, squeeze=False)
        for rank, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if rank >= len(images):
                continue
            axes.imshow(images[rank], interpolation="nearest")
            label = p.classes[p.labels[issues.rows[rank]]]
            suggested = p.classes[issues.suggested[rank]]
            weight = "bold" if issues.is_issue[rank] else "normal"
            text = f"{rank + 1}: {label} →\n{suggested}"
            axes.set_title(text, fontsize=6.5, fontweight=weight)
    return figure
