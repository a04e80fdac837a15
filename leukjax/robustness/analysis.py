"""A study of robustness: some runs under the suite, from predictions to scores, tables, pictures.

Every number is computed from ``RUN/robustness/predictions/`` as it stands on the disk.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from leukjax import runtime
from leukjax.errors import UserError
from leukjax.metrics import robustness
from leukjax.metrics.robustness import Curve
from leukjax.report.provenance import About, model_name
from leukjax.report.style import save
from leukjax.robustness import figures, predictions, tables
from leukjax.robustness.measured import Measured
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
    """Measure every run, write its files, and print the tables.

    Args:
      runs: folders of finished runs.
      part: "val" or "test".
      names: keys of `distort.DISTORTIONS`.
      background: "masked", "as_published" or "both".
      reference: run that the others are measured by; None = the first CNN among several runs.
      output: folder of the joint report.
      overrides: fields of the config that say where the data lie.

    Raises:
      UserError: a run that is none or not finished, or runs that cannot be compared.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX looks for devices: what follows does
    folders = list(runs)
    if reference is not None and reference.resolve() not in {run.resolve() for run in runs}:
        folders.append(reference)
    overrides = list(overrides)
    titles = _titles(folders)
    measured = []
    for run in folders:
        found = predictions.material(run, part, overrides)
        wanted = predictions.cases(names, found.backgrounds(background))
        runtime.start(predictions.config_of(run, overrides))
        places = predictions.predict(run, part, found, wanted)
        logging.info("%s: scores and intervals", run)
        measured.append(_measure(run, titles[run], part, found, places))
    if len(folders) > 1:
        _check_same_images(measured)
        base = _reference(measured, reference)
        if base is not None:
            measured = [_next_to(one, base) for one in measured]
    else:
        base = None
    for one in measured:
        write_atomic(predictions.folder_of(one.run, part) / "scores.csv", _scores_csv(one.curves))
    where = output or _output(folders, part)
    _write_report(where, measured, base)


def _measure(
    run: Path,
    name: str,
    part: str,
    found: predictions.Material,
    places: dict[predictions.Case, Path],
) -> Measured:
    table = found.table
    positive = found.positive
    about = About(
        data=found.name,
        part=part,
        classes=table.classes,
        positive=positive,
        synthetic=found.synthetic,
        leaky=found.leaky,
        subjects_known=found.subjects_known,
    )
    chosen = table.classes.index(positive) if positive else 0
    wanted = list(places)
    clean = predictions.read_case(found, places[wanted[0]])
    curves = []
    kinds = dict.fromkeys((case.distortion, case.background) for case in wanted[1:])
    for distortion, background in kinds:
        levels = {
            case.severity: predictions.read_case(found, places[case])
            for case in wanted
            if (case.distortion, case.background) == (distortion, background)
        }
        curves.append(robustness.curve(distortion, background, clean, levels, chosen))
    return Measured(run, name, about, curves, [], places, found)


def _check_same_images(measured: Sequence[Measured]) -> None:
    first = measured[0]
    for other in measured[1:]:
        a, b = first.found.table, other.found.table
        if a.classes != b.classes or not np.array_equal(np.sort(a.id), np.sort(b.id)):
            raise UserError(
                f"{other.run} and {first.run} were scored on different images; compare runs of one"
                " data set and split"
            )


def _reference(measured: Sequence[Measured], wanted: Path | None) -> Measured | None:
    """The run that the others are measured by."""
    if wanted is not None:
        return next(one for one in measured if one.run.resolve() == wanted.resolve())
    cnn = [one for one in measured if RunDir(one.run).config().model.name == "cnn"]
    if not cnn:
        logging.info("no CNN among the runs, so no relative numbers; --reference=RUN names one")
    return cnn[0] if cnn else None


def _next_to(one: Measured, base: Measured) -> Measured:
    of_base = {(curve.distortion, curve.background): curve for curve in base.curves}
    found = [
        robustness.relative(curve, of_base[curve.distortion, curve.background])
        for curve in one.curves
    ]
    return dataclasses.replace(one, relative=found)


def _titles(runs: Sequence[Path]) -> dict[Path, str]:
    """Names of models; the folder's too where a model occurs twice."""
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
        for points in curve.points.values():
            for point in points:
                found, drop = point.found, point.drop
                numbers = (found.value, found.low, found.high, drop.value, drop.low, drop.high)
                out.writerow(
                    [
                        curve.distortion,
                        point.severity,
                        curve.background,
                        point.score,
                        *("" if number is None else f"{number:.9g}" for number in numbers),
                        found.groups,
                    ]
                )
    return text.getvalue()


def _write_report(where: Path, measured: Sequence[Measured], base: Measured | None) -> None:
    content = {one.name: _as_json(one) for one in measured}
    summary: dict[str, Any] = {
        "part": measured[0].about.part,
        "score": robustness.MAIN,
        "reference": None if base is None else base.name,
        "models": content,
    }
    write_atomic(where / "robustness.json", json.dumps(summary, indent=1) + "\n")
    name = None if base is None else base.name
    text = tables.document(measured, name)
    write_atomic(where / "robustness.md", text)
    save(figures.curves(measured), where, "curves")
    for one in measured:
        save(figures.harm(one), predictions.folder_of(one.run, one.about.part), "harm", ("png",))
    print("\n" + tables.screen(measured, name))
    print(f"\nWrote {where / 'robustness.md'}, robustness.json, curves.png, and in each run's")
    print(f"{predictions.folder_of(Path('RUN'), measured[0].about.part)}: scores.csv, harm.png")


def _as_json(one: Measured) -> dict[str, Any]:
    rows = []
    for i, curve in enumerate(one.curves):
        row = {
            "distortion": curve.distortion,
            "background": curve.background,
            "values": curve.values(),
            "mean_drop": dataclasses.asdict(curve.mean_drop),
        }
        if one.relative:
            row["relative"] = dataclasses.asdict(one.relative[i])
        rows.append(row)
    return {"run": one.run.name, "curves": rows}
