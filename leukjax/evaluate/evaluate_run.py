"""The work of `leukjax.evaluate`: predicts a part again, scores it, and sets an operating point."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukjax.evaluate import scores
from leukjax.evaluate.rescore import finished, mean, predict_again
from leukjax.evaluate.scores import Evaluation, OperatingPoint
from leukjax.metrics import thresholds
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.subgroups import Subgroups, subgroups
from leukjax.report.provenance import About
from leukjax.report.style import save
from leukjax.report.subgroups import forest_figure, subgroup_table
from leukjax.report.tables import number, rare_lines, render, span
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

_COLUMNS = ("recall", "specificity", "precision", "f1", "accuracy", "balanced_accuracy")


def run(
    folders: list[Path],
    part: str,
    criterion: str,
    output: Path,
    *,
    tta: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes ``predictions.csv``, ``scores.json`` and ``summary.md``, and prints the summary.

    A run with attributes.csv gets scores by subgroup as well, and their figure.

    Args:
      folders: finished runs; several are an ensemble.
      part: "val" or "test".
      criterion: of the threshold; see `thresholds.choose`.
      output: folder to write.
      tta: average over the eight rotated and mirrored views of each image.
      overrides: where the data are now, for instance ``data.root``.

    Raises:
      UserError: folders without a finished run, or members with different classes or images.
    """
    for folder in folders:
        finished(folder, overrides)  # all are checked before the first takes its time
    about = scores.about_of(folders[0], part)
    binary = len(about.classes) == 2
    if binary:
        thresholds.check(criterion)

    def predict(part: str) -> Predictions:
        predict_run = functools.partial(
            predict_again, part=part, tta=tta, by="evaluate", overrides=overrides
        )
        return mean([predict_run(folder) for folder in folders])

    # Validation first: the threshold is chosen before test is accessed.
    validation = predict("val") if binary or part == "val" else None
    predictions = validation if part == "val" and validation is not None else predict(part)
    evaluation = scores.score(predictions, about.positive)
    points = {}
    if validation is not None and binary:
        points = scores.operating_points(criterion, validation, predictions, about.positive)
    subgroup_scores = subgroups(predictions, RunDir(folders[0]).attributes(), about.positive)
    predictions.write(output / "predictions.csv")
    content = _content(folders, part, evaluation, points, about) | {"tta": tta}
    if subgroup_scores.rows:
        content["subgroups"] = [dataclasses.asdict(row) for row in subgroup_scores.rows]
        figure = forest_figure({"all": subgroup_scores}, {"all": evaluation.by_image}, about)
        save(figure, RunDir(output).path("figures"), "subgroups")
    write_atomic(output / "scores.json", json.dumps(content, indent=1) + "\n")
    name = folders[0].name if len(folders) == 1 else f"ensemble of {len(folders)} runs"
    name += ", eight views" if tta else ""
    ending = _ending(folders, part, output)
    for markdown in (True, False):
        text = "\n".join(
            [
                scores.table({name: evaluation}, about, markdown=markdown),
                *_thresholds(points, part, about, markdown=markdown),
                *rare_lines(evaluation, about.rare),
                *_subgroups(subgroup_scores, about, markdown=markdown),
                *ending,
            ]
        )
        if markdown:
            write_atomic(output / "summary.md", text + "\n")
        else:
            print("\n" + text)


def _content(
    folders: list[Path],
    part: str,
    evaluation: Evaluation,
    points: Mapping[str, OperatingPoint],
    about: About,
) -> dict[str, Any]:
    subjects = evaluation.by_subject
    return {
        "runs": [str(folder) for folder in folders],
        "part": part,
        "images": len(evaluation.predictions),
        "classes": list(about.classes),
        "positive": about.positive,
        "synthetic": about.synthetic,
        "leaky": about.leaky,
        "by_image": _as_json(evaluation.by_image),
        "by_subject": None if subjects is None else _as_json(subjects),
        "operating_points": {unit: point.as_json() for unit, point in points.items()},
        "test_openings": {str(folder): RunDir(folder).test_accesses() for folder in folders},
    }


def _as_json(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: dataclasses.asdict(interval) for name, interval in intervals.items()}


def _thresholds(
    points: Mapping[str, OperatingPoint], part: str, about: About, *, markdown: bool
) -> list[str]:
    """The table of operating points; nothing without any."""
    if not points:
        return []
    rule = thresholds.describe(points["image"].criterion)
    title = f"{about.positive} from a probability on: {rule}"
    if part == "val":
        title += " (chosen and scored on the same images: too optimistic)"
    body = []
    for unit, point in points.items():
        shown = [point.scores[name] for name in _COLUMNS]
        cells = [f"{number(score.value)}\n{span(score, 2)}".rstrip() for score in shown]
        body.append([f"by {unit}", f"{point.threshold:.4g}", *cells])
    header = ["", "threshold", *(name.replace("_", "\n") for name in _COLUMNS)]
    return [f"**{title}**\n" if markdown else title, render(header, body, markdown=markdown), ""]


def _subgroups(subgroup_scores: Subgroups, about: About, *, markdown: bool) -> list[str]:
    """The table of subgroups; nothing without any."""
    if not subgroup_scores.rows:
        return [*subgroup_scores.notes, ""] if subgroup_scores.notes else []
    table = subgroup_table({"": subgroup_scores}, about)
    if markdown:
        return [table.markdown()]
    body = render(table.header, table.text(), left=table.left)
    return [table.title, body, *table.notes, ""]


def _ending(folders: list[Path], part: str, output: Path) -> list[str]:
    lines = [f"Predictions and all scores: {output}"]
    if part == "test":
        counts = [str(RunDir(folder).test_accesses()) for folder in folders]
        lines.append(f"Accesses to test so far: {', '.join(counts)} (test_openings.jsonl).")
    return lines
