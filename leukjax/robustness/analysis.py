"""The work of `leukjax.robustness`: predicts distorted images, scores them, writes the report.

Every number is computed from the files in ``RUN/robustness/predictions/``.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from leukjax import runtime
from leukjax.errors import UserError
from leukjax.metrics import robustness
from leukjax.metrics.robustness import Curve
from leukjax.report.provenance import model_name
from leukjax.report.style import save
from leukjax.robustness import predictions, report
from leukjax.robustness.report import RunResult
from leukjax.rundir import RunDir
from leukjax.storage import csv_writer, write_atomic

COLUMNS = (
    "distortion", "severity", "background", "score", "value", "low", "high",
    "drop", "drop_low", "drop_high", "groups",
)  # fmt: skip


def write_and_print(
    runs: Sequence[Path],
    part: str,
    names: Sequence[str],
    background: str,
    *,
    reference: Path | None = None,
    output: Path | None = None,
    overrides: Iterable[tuple[str, str]] = (),
) -> None:
    """Measures every run, writes its files, and prints the tables.

    Args:
      runs: work directories of finished runs.
      part: "val" or "test".
      names: keys of `distort.DISTORTIONS`.
      background: "masked", "as_published" or "both".
      reference: run that relative numbers refer to; None = the first CNN among several runs.
      output: folder of the joint report.
      overrides: where the data are now, for instance ``data.root``.

    Raises:
      UserError: no run, an unfinished one, or runs that cannot be compared.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX looks for devices, which the next lines do
    folders = list(runs)
    if reference is not None and reference.resolve() not in {run.resolve() for run in runs}:
        folders.append(reference)
    overrides = list(overrides)
    titles = _titles(folders)
    results = []
    for run in folders:
        images = predictions.read_images(run, part, overrides)
        cases = predictions.make_cases(names, images.backgrounds(background))
        runtime.start(predictions.config_of(run, overrides))
        paths = predictions.predict(run, images, cases)
        logging.info("%s: computing scores and intervals", run)
        curves = _curves(images, paths)
        results.append(RunResult(run, titles[run], images.about, images, paths, curves))
    base = None
    if len(folders) > 1:
        _check_same_images(results)
        base = _reference(results, reference)
        if base is not None:
            results = [_relative_to(base, result) for result in results]
    for result in results:
        folder = predictions.folder_of(result.run, part)
        write_atomic(folder / "scores.csv", _scores_csv(result.curves))
    _write_report(output or _output(folders, part), results, base)


def _curves(images: predictions.PartImages, paths: Mapping[predictions.Case, Path]) -> list[Curve]:
    """The scores of every distortion and background by severity."""
    classes, positive = images.clean.classes, images.about.positive
    index = classes.index(positive) if positive else 0
    first, *cases = paths
    clean = predictions.read_case(images, paths[first])
    curves = []
    for distortion, background in dict.fromkeys((c.distortion, c.background) for c in cases):
        levels = {
            case.severity: predictions.read_case(images, paths[case])
            for case in cases
            if (case.distortion, case.background) == (distortion, background)
        }
        curves.append(robustness.curve(distortion, background, clean, levels, index))
    return curves


def _check_same_images(results: Sequence[RunResult]) -> None:
    first = results[0]
    for other in results[1:]:
        a, b = first.images.clean, other.images.clean
        if a.classes != b.classes or not np.array_equal(np.sort(a.id), np.sort(b.id)):
            raise UserError(
                f"{other.run} and {first.run} were scored on different images; compare runs of one"
                " data set and split"
            )


def _reference(results: Sequence[RunResult], wanted: Path | None) -> RunResult | None:
    """The run that relative numbers refer to."""
    if wanted is not None:
        return next(result for result in results if result.run.resolve() == wanted.resolve())
    for result in results:
        if RunDir(result.run).config().model.name == "cnn":
            return result
    logging.info("no CNN among the runs, so no relative numbers; --reference=RUN sets one")
    return None


def _relative_to(base: RunResult, result: RunResult) -> RunResult:
    base_curves = {(curve.distortion, curve.background): curve for curve in base.curves}
    relative = [
        robustness.relative(curve, base_curves[curve.distortion, curve.background])
        for curve in result.curves
    ]
    return dataclasses.replace(result, relative=relative)


def _titles(runs: Sequence[Path]) -> dict[Path, str]:
    """Names of the models, with the folder's name where a model occurs twice."""
    models = {run: model_name(RunDir(run).config().model) for run in runs}
    names = list(models.values())
    return {
        run: f"{name} ({run.resolve().name})" if names.count(name) > 1 else name
        for run, name in models.items()
    }


def _output(runs: Sequence[Path], part: str) -> Path:
    if len(runs) == 1:
        return predictions.folder_of(runs[0], part)
    return predictions.folder_of(runs[0].resolve().parent, part)


def _scores_csv(curves: Sequence[Curve]) -> str:
    text = io.StringIO()
    out = csv_writer(text)
    out.writerow(COLUMNS)
    for curve in curves:
        for point in (point for points in curve.points.values() for point in points):
            score, drop = point.interval, point.drop
            numbers = (score.value, score.low, score.high, drop.value, drop.low, drop.high)
            cells = ("" if number is None else f"{number:.9g}" for number in numbers)
            out.writerow(
                [curve.distortion, point.severity, curve.background, point.score, *cells,
                 score.groups]
            )  # fmt: skip
    return text.getvalue()


def _write_report(output: Path, results: Sequence[RunResult], base: RunResult | None) -> None:
    reference, part = None if base is None else base.name, results[0].about.part
    summary: dict[str, Any] = {
        "part": part,
        "score": robustness.MAIN,
        "reference": reference,
        "models": {result.name: _as_json(result) for result in results},
    }
    write_atomic(output / "robustness.json", json.dumps(summary, indent=1) + "\n")
    write_atomic(output / "robustness.md", report.document(results, reference))
    save(report.curves(results), output, "curves")
    for result in results:
        save(report.harm(result), predictions.folder_of(result.run, part), "harm", ("png",))
    print("\n" + report.screen(results, reference))
    print(f"\nWrote {output / 'robustness.md'}, robustness.json, curves.png, and in each run's")
    print(f"{predictions.folder_of(Path('RUN'), part)}: scores.csv, harm.png")


def _as_json(result: RunResult) -> dict[str, Any]:
    rows = []
    for i, curve in enumerate(result.curves):
        row = {
            "distortion": curve.distortion,
            "background": curve.background,
            "values": curve.values(),
            "mean_drop": dataclasses.asdict(curve.mean_drop),
        }
        if result.relative:
            row["relative"] = dataclasses.asdict(result.relative[i])
        rows.append(row)
    return {"run": result.run.name, "curves": rows}
