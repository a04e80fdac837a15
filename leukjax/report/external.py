"""External tests as folders: reads what `leukjax.evaluate --data` wrote, for reports.

Such a folder may come from an untrusted source: every value that is read is checked.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukjax import terminal
from leukjax.errors import UserError
from leukjax.metrics.intervals import Interval
from leukjax.report.tables import COLUMNS, Cell, Table, reason_notes, title_of
from leukjax.rundir import RunDir, check_fields
from leukjax.rundir.schema import Check, flag, number, text, whole

FILE = "external_test.json"
MAX_RUNS = 1_000
SHOWN = ("accuracy", "balanced_accuracy", "f1", "auroc")


@dataclasses.dataclass(frozen=True)
class External:
    """What reports show of an external test.

    Attributes:
      folder: as given.
      runs: (name, SHA-256 of its predictions on its own test or "") of each run.
      data: name of the data set.
      synthetic, subjects_known: of the data set.
      images, groups: numbers of images and groups.
      left_out: number of images that the class map leaves out.
      absent: classes of the runs that the data set does not have.
      by_image, own, drop: scores, those of the runs' own test, and the differences; the last two
        may be empty.
    """

    folder: Path
    runs: tuple[tuple[str, str], ...]
    data: str
    synthetic: bool
    subjects_known: bool
    images: int
    groups: int
    left_out: int
    absent: tuple[str, ...]
    by_image: dict[str, Interval]
    own_scores: dict[str, Interval]
    drop: dict[str, Interval]

    @property
    def title(self) -> str:
        """Name in tables: the data set and the folder."""
        return f"{self.data} ({self.folder.absolute().name})"


def is_external(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder holds an external test."""
    return (Path(folder) / FILE).is_file()


def read(folder: str | os.PathLike[str]) -> External:
    """Reads an external test.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(folder)
    content = RunDir(path).read_json(FILE)
    try:
        check_fields(content, _FIELDS)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path / FILE}: {error}; run leukjax.evaluate again") from error
    return External(
        folder=path,
        runs=tuple(
            (terminal.escape(run["run"]), run["test_predictions_sha256"]) for run in content["runs"]
        ),
        left_out=sum(content["left_out"].values()),
        absent=tuple(map(terminal.escape, content["absent"])),
        data=terminal.escape(content["data"]),
        synthetic=content["synthetic"],
        subjects_known=content["subjects_known"],
        images=content["images"],
        groups=content["groups"],
        by_image=_intervals(content["by_image"]),
        own_scores=_intervals(content["own"]),
        drop=_intervals(content["drop"]),
    )


def external_table(tests: Mapping[str, Sequence[External]]) -> Table:
    """Returns the scores of external tests beside those of the models' own tests.

    Args:
      tests: external tests by name of the model, not ranked; at least one.
    """
    rows: list[list[Cell]] = []
    reasons: list[tuple[str, str]] = []
    notes: list[str] = []
    for model, of_model in tests.items():
        for test in of_model:
            for name in SHOWN:
                score, own_score, drop = (
                    s.get(name) for s in (test.by_image, test.own_scores, test.drop)
                )
                if score is None:
                    continue
                counts = [test.images, test.groups]
                rows.append([model, test.title, *counts, title_of(name), score, own_score, drop])
                label = f"{title_of(name)} on {test.title}"
                reasons += [
                    (label, interval.reason) for interval in (score, drop) if interval is not None
                ]
            notes += _notes(test)
    header = ["model", "external test", "images", "groups", "score", "external", "own test",
              "external − own"]  # fmt: skip
    notes = [
        "External tests are on data of another source and are not ranked against the scores on the"
        " own test. Difference: the two sets have different images, so its interval is made of"
        " those of both (MOVER).",
        *notes,
        *reason_notes(dict.fromkeys(reasons)),
    ]
    return Table("external", "External tests", header, rows, notes, left=(0, 1, 4))


def sentence(test: External) -> str:
    """Returns an external test as one sentence, for model cards and checklists."""
    parts = [f"External test on {test.title}: {test.images:,} images of {test.groups:,} groups"]
    for name in SHOWN[1:]:
        score = test.by_image.get(name)
        if score is None or score.value is None:
            continue
        interval = "interval undefined"
        if score.low is not None and score.high is not None:
            interval = f"95 % CI {score.low:.3f} to {score.high:.3f}"
        parts.append(f"{title_of(name)} {score.value:.3f} ({interval})")
    return "; ".join([*parts, *(note.rstrip(".") for note in _notes(test))]) + "."


def _notes(test: External) -> list[str]:
    notes = []
    if test.synthetic:
        notes.append(f"{test.title}: SYNTHETIC data.")
    if not test.subjects_known:
        notes.append(f"{test.title}: no subjects known; intervals may be too narrow.")
    if test.left_out:
        notes.append(f"{test.title}: the class map leaves out {test.left_out:,} images.")
    if test.absent:
        notes.append(f"{test.title}: has no image of {', '.join(test.absent)}.")
    return notes


def _intervals(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
    names = [field.name for field in dataclasses.fields(Interval)]
    return {
        score: Interval(
            **{name: values[name] for name in names} | {"reason": terminal.escape(values["reason"])}
        )
        for score, values in content.items()
        if score in (*COLUMNS, "loss", "macro_f1", "mcc", "average_precision", "brier")
    }


def _check_runs(value: Any) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RUNS:
        raise ValueError(f"must be a list of 1 to {MAX_RUNS:,} runs")
    for run in value:
        check_fields(run, {"run": text, "test_predictions_sha256": text})


def _check_counts(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 10_000:
        raise ValueError("must be an object of numbers")
    for count in value.values():
        whole(0, 2**40)(count)


def _check_names(value: Any) -> None:
    if not isinstance(value, list) or len(value) > 10_000:
        raise ValueError("must be a list of names")
    for name in value:
        text(name)


def _check_number(value: Any) -> None:
    if value is not None:
        number(-1e9, 1e9)(value)


_INTERVAL: dict[str, Check] = {
    **dict.fromkeys(("value", "low", "high"), _check_number),
    "method": text,
    "groups": whole(0, 2**40),
    "reason": text,
}


def _check_scores(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError("must be an object of scores")
    for score in value.values():
        check_fields(score, _INTERVAL)


_FIELDS: dict[str, Check] = {
    "runs": _check_runs,
    "data": text,
    "synthetic": flag,
    "subjects_known": flag,
    "images": whole(1, 2**40),
    "groups": whole(1, 2**40),
    "left_out": _check_counts,
    "absent": _check_names,
    **dict.fromkeys(("by_image", "own", "drop"), _check_scores),
}
