"""What `leukjax.evaluate` does: predictions once more, their scores, and an operating point."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leukjax.evaluate import scores
from leukjax.evaluate.rescore import finished, mean, predict_again
from leukjax.evaluate.scores import Operating
from leukjax.metrics import thresholds
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.report.provenance import About
from leukjax.report.text_tables import number, render, span
from leukjax.storage import write_atomic
from leukjax.training import final_evaluation

_SHOWN = ("recall", "specificity", "precision", "f1", "accuracy", "balanced_accuracy")


def run(
    folders: list[Path],
    part: str,
    criterion: str,
    output: Path,
    *,
    tta: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    """Write ``predictions.csv``, ``scores.json`` and ``summary.md`` and print the summary.

    Args:
      folders: finished runs; several are an ensemble.
      part: "val" or "test".
      criterion: of the threshold; see `metrics.operating`.
      output: folder to write.
      tta: mean probability over the eight dihedral views of each image.
      overrides: changes of where the data lie.

    Raises:
      UserError: folders without a finished run, or members that do not go together.
    """
    for folder in folders:
        finished(folder, overrides)  # all are there before the first takes its time
    about = scores.about_of(folders[0], part)
    two = len(about.classes) == 2
    if two:
        thresholds.check(criterion)

    def predicted(part: str) -> Predictions:
        again = functools.partial(
            predict_again, part=part, tta=tta, by="evaluate", overrides=overrides
        )
        return mean([again(folder) for folder in folders])

    # Validation first: the threshold stands before test is opened.
    validation = predicted("val") if two or part == "val" else None
    found = validation if part == "val" and validation is not None else predicted(part)
    points = {}
    if validation is not None and two:
        points = _points(criterion, validation, found, about.positive)
    found.write(output / "predictions.csv")
    content = _content(folders, part, found, points, about)
    content["tta"] = tta
    write_atomic(output / "scores.json", json.dumps(content, indent=1) + "\n")
    name = folders[0].name if len(folders) == 1 else f"ensemble of {len(folders)} runs"
    name += ", eight views" if tta else ""
    text = {
        markdown: "\n".join(
            [
                scores.table({name: found}, about, markdown=markdown),
                *_thresholds(points, part, about, markdown=markdown),
                *_ending(folders, part, output),
            ]
        )
        for markdown in (False, True)
    }
    write_atomic(output / "summary.md", text[True] + "\n")
    print("\n" + text[False])


def _points(
    criterion: str, validation: Predictions, found: Predictions, positive: str
) -> dict[str, Operating]:
    """By image, and by subject where subjects have a class: each with a threshold of its own."""
    points = {"image": scores.at_threshold(criterion, validation, found, positive)}
    subjects = scores.by_subject(validation), scores.by_subject(found)
    if not isinstance(subjects[0], str) and not isinstance(subjects[1], str):
        points["subject"] = scores.at_threshold(criterion, subjects[0], subjects[1], positive)
    return points


def _content(
    folders: list[Path],
    part: str,
    found: Predictions,
    points: dict[str, Operating],
    about: About,
) -> dict[str, Any]:
    subjects = scores.by_subject(found)
    return {
        "runs": [str(folder) for folder in folders],
        "part": part,
        "images": len(found),
        "classes": list(found.classes),
        "positive": about.positive,
        "synthetic": about.synthetic,
        "leaky": about.leaky,
        "by_image": _as_json(scores.with_intervals(found, about.positive)),
        "by_subject": None
        if isinstance(subjects, str)
        else _as_json(scores.with_intervals(subjects, about.positive)),
        "operating_points": {unit: point.as_json() for unit, point in points.items()},
        "test_openings": {str(folder): final_evaluation.openings(folder) for folder in folders},
    }


def _as_json(found: dict[str, Interval]) -> dict[str, Any]:
    return {name: dataclasses.asdict(interval) for name, interval in found.items()}


def _thresholds(
    points: dict[str, Operating], part: str, about: About, *, markdown: bool
) -> list[str]:
    if not points:
        return []
    first = next(iter(points.values()))
    rule = thresholds.describe(first.criterion)
    title = f"{about.positive} where its probability reaches a threshold: {rule}"
    if part == "val":
        title += " (and scored there: too good)"
    body = []
    for unit, point in points.items():
        cells = [f"{number(of.value)}\n{span(of, 2)}" for of in map(point.scores.get, _SHOWN) if of]
        body.append([f"by {unit}", f"{point.threshold:.4g}", *(cell.rstrip() for cell in cells)])
    header = ["", "threshold", *(name.replace("_", "\n") for name in _SHOWN)]
    return [f"**{title}**\n" if markdown else title, render(header, body, markdown=markdown), ""]


def _ending(folders: list[Path], part: str, output: Path) -> list[str]:
    lines = [f"Predictions and all scores: {output}"]
    if part == "test":
        counts = [str(final_evaluation.openings(folder)) for folder in folders]
        lines.append(f"Openings of test so far: {', '.join(counts)} (test_openings.jsonl).")
    return lines
