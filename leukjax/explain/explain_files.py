"""Explains image files with trained runs: writes overlays, maps and a table."""

import dataclasses
import io
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Float32, UInt8
from matplotlib.figure import Figure

from leukjax import runtime
from leukjax.data import image_limits, image_stream
from leukjax.data.decode import decode
from leukjax.data.image_stats import foreground
from leukjax.data.parallel import map_in_order, progress
from leukjax.errors import UserError
from leukjax.explain import explainer
from leukjax.explain.explainer import Explanations, share_inside, to_image_size
from leukjax.explain.maps import TOLERANCE
from leukjax.explain.methods import METHODS
from leukjax.explain.overlay import Column, Panel, as_png, overlay
from leukjax.explain.plan import Options, Run, choose
from leukjax.predict.predictor import NOT_FINITE, load
from leukjax.storage import csv_writer, write_atomic

TABLE = "explanations.csv"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: one map, or an unreadable file (then only `path` and `error`).

    docs/howto/explain.md describes the columns.
    """

    path: str
    run: str = ""
    method: str = ""
    layer: str = ""
    predicted: str = ""
    target: str = ""
    p_target: float = math.nan
    score: float = math.nan
    share_in_cell: float = math.nan
    cell_area: float = math.nan
    baseline_score: float = math.nan
    map_sum: float = math.nan
    completeness_error: float = math.nan
    map: str = ""
    overlay: str = ""
    error: str = ""
    steps: float = math.nan
    incompleteness: float = math.nan
    complete: str = ""


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What one run computes for a batch of images."""

    run: Run
    images: UInt8[np.ndarray, "n s s 3"]
    cells: Bool[np.ndarray, "n s s"]
    probabilities: Float32[np.ndarray, "n c"]
    targets: np.ndarray
    explanations: dict[str, Explanations]


def write(runs: Sequence[str], paths: Sequence[str], output: Path, options: Options) -> None:
    """Explains every image and writes the output folder; flags are checked first.

    Raises:
      UserError: an invalid run, path, option or output; or no file is an image.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX initialises its devices, which loading a run does
    image_stream.check(paths)
    models = [load(run, options.step, batch_size=options.batch_size).member for run in runs]
    chosen = choose(models, options)
    total = image_stream.count(paths)
    _make_folder(output, paths)
    runtime.start(models[0].config)
    rows: list[Row] = []
    loaded = map_in_order(_decode, progress(image_stream.items(paths), total, "explaining"),
                          options.threads)  # fmt: skip
    count = 0
    try:
        while files := list(islice(loaded, models[0].batch_size)):
            rows += _explain(chosen, files, count, output, options)
            count += len(files)
        write_atomic(output / TABLE, _as_csv(rows))
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror or error}); "
                        "choose another folder") from error  # fmt: skip
    bad = [row for row in rows if row.error]
    if len(bad) == count:
        problem = "has a prediction" if NOT_FINITE in bad[0].error else "is an image"
        raise UserError(f"none of the files ({count:,}) {problem}: {bad[0].error}")
    if bad:
        logging.warning("bad files: %s; the first: %s", f"{len(bad):,}", bad[0].error)
    _warn_of_incomplete(rows)
    logging.info("wrote %s: %s images", output, f"{count - len(bad):,}")


def _warn_of_incomplete(rows: Sequence[Row]) -> None:
    checked = [row for row in rows if row.complete]
    bad = [row for row in checked if row.complete == "no"]
    if bad:
        worst = max(bad, key=lambda row: row.incompleteness)
        logging.warning(
            "%s of %s maps of integrated gradients are incomplete: after up to %s steps their sum"
            " differs from the change of the score by more than %.0f %% of it (%s: %.0f %%). They"
            " are not explanations; the figures and the column complete mark them. Try"
            " --baseline=blurred or --method=occlusion.",
            f"{len(bad):,}",
            f"{len(checked):,}",
            f"{max(explainer.MOST_STEPS, max(int(row.steps) for row in checked)):,}",
            100 * TOLERANCE,
            worst.path,
            100 * worst.incompleteness,
        )


def _make_folder(output: Path, paths: Sequence[str]) -> None:
    """Creates the output folder; it must not be inside an input folder (it would be read next)."""
    for path in paths:
        if Path(path).is_dir() and output.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"--output={output}: is inside {path}, where images are read; "
                            "choose another folder")  # fmt: skip
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: is a file; give the name of a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomic(output / ".written", b"")
        (output / ".written").unlink()
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror or error}); "
                        "choose another folder") from error  # fmt: skip


def _decode(item: image_stream.Item) -> tuple[str, UInt8[np.ndarray, "h w 3"] | None, str]:
    try:
        with image_limits.one_image():
            return item.path, decode(item.read(), item.path)[0], ""
    except UserError as error:
        return item.path, None, " ".join(str(error).split())


def _explain(
    runs: Sequence[Run], files: list, start: int, output: Path, options: Options
) -> Iterator[Row]:
    """Writes maps and overlays of a batch of files; yields their rows in order."""
    decoded = [image for _, image, _ in files if image is not None]
    batches = [_compute(run, decoded, options.baseline) for run in runs] if decoded else []
    index = 0
    for offset, (path, image, error) in enumerate(files):
        if image is None:
            yield Row(path, error=error)
            continue
        if error := _not_finite(batches, index):
            yield Row(path, error=f"{path}: {error}")
        else:
            stem = f"{start + offset:05}-{_file_stem(path)}"
            figure = ""
            if options.overlays:
                figure = f"overlays/{stem}.png"
                write_atomic(output / figure, as_png(_figure(path, batches, index)))
            for batch in batches:
                for method in batch.run.methods:
                    name = f"maps/{stem}.{batch.run.name}.{method}.npy"
                    _save(output / name, batch.explanations[method].maps[index])
                    row = _row(batch, method, index)
                    yield dataclasses.replace(row, path=path, map=name, overlay=figure)
        index += 1


def _not_finite(batches: Sequence[_Batch], index: int) -> str:
    """Returns an error if a run predicts no finite probability for an image; "" if all do."""
    for batch in batches:
        if not np.isfinite(batch.probabilities[index]).all():
            return f"{batch.run.name}: {NOT_FINITE}"
    return ""


def _compute(run: Run, decoded: list, baseline: str) -> _Batch:
    model = run.model
    images = np.stack([model.preprocess(image) for image in decoded])
    background = model.preprocessing["background"]
    probabilities = model.outputs(images).probabilities
    targets = probabilities.argmax(1)
    if run.target is not None:
        targets = np.full(len(images), run.target)
    cells = np.stack([_cell(*pair, background) for pair in zip(decoded, images, strict=True)])
    explanations = {
        method: explainer.explain(model, images, targets, method, run.settings, baseline)
        for method in run.methods
    }
    return _Batch(run, images, cells, probabilities, targets, explanations)


def _cell(
    original: UInt8[np.ndarray, "h w 3"], image: UInt8[np.ndarray, "s s 3"], background: str
) -> Bool[np.ndarray, "s s"]:
    """Returns the mask of the cell by the image's own background, which may not be the run's."""
    rim = np.concatenate([original[0], original[-1], original[:, 0], original[:, -1]])
    black = not rim.any(axis=-1).mean() > 0.5
    if black or background == "bright":
        return foreground(image, "black" if black else "bright")
    return foreground(image, "bright") & image.any(axis=-1)  # the padding around it is black


def _row(batch: _Batch, method: str, index: int) -> Row:
    run, explanations = batch.run, batch.explanations[method]
    model, map = run.model, explanations.maps[index]
    score, base = float(explanations.scores[index]), float(explanations.baseline_scores[index])
    target, total = int(batch.targets[index]), float(map.sum(dtype=np.float64))
    row = Row(
        path="",
        run=run.name,
        method=method,
        layer=run.settings.layer if METHODS[method].of_layer else "",
        predicted=model.classes[int(batch.probabilities[index].argmax())],
        target=model.classes[target],
        p_target=float(batch.probabilities[index, target]),
        score=score,
        share_in_cell=_share_in_cell(batch, method, index),
        cell_area=float(batch.cells[index].mean()),
    )
    if method != "integrated_gradients":
        return row
    return dataclasses.replace(
        row,
        baseline_score=base,
        map_sum=total,
        completeness_error=total - (score - base),
        steps=float(explanations.steps[index]),
        incompleteness=float(explanations.incompleteness[index]),
        complete="no" if explanations.incomplete[index] else "yes",
    )


def _share_in_cell(batch: _Batch, method: str, index: int) -> float:
    map = batch.explanations[method].maps[index][None]
    large = to_image_size(map, batch.run.model.image_size)
    return float(share_inside(large, batch.cells[index][None])[0])


def _figure(path: str, batches: Sequence[_Batch], index: int) -> Figure:
    methods = tuple(dict.fromkeys(method for batch in batches for method in batch.run.methods))
    columns = []
    for batch in batches:
        run = batch.run
        panels = [_panel(batch, m, index) if m in run.methods else None for m in methods]
        names, probabilities = run.model.classes, batch.probabilities[index]
        heading = f"{run.name}: {names[int(probabilities.argmax())]} {probabilities.max():.0%}"
        heading += f"\nexplained: {names[int(batch.targets[index])]}"
        columns.append(Column(heading, batch.images[index], batch.cells[index], panels))
    synthetic = any(batch.run.model.preprocessing["synthetic"] for batch in batches)
    marks = ["trained on SYNTHETIC data"] if synthetic else []
    if any(e.incomplete[index] for batch in batches for e in batch.explanations.values()):
        marks.append("INCOMPLETE integrated gradients: not an explanation")
    return overlay(Path(path).name, marks, [METHODS[method].title for method in methods], columns)


def _panel(batch: _Batch, method: str, index: int) -> Panel:
    explanations = batch.explanations[method]
    map = explanations.maps[index][None]
    share = _share_in_cell(batch, method, index)
    note = "no attribution" if np.isnan(share) else f"{share:.0%} in the cell"
    if METHODS[method].of_layer:
        note += f"; {batch.run.settings.layer}, {map.shape[1]}×{map.shape[2]}"
    warning = ""
    if explanations.incomplete[index]:
        change = explanations.scores[index] - explanations.baseline_scores[index]
        error = float(map.sum(dtype=np.float64)) - float(change)
        share = explanations.incompleteness[index]
        warning = f"INCOMPLETE: off by {error:.3g},\n{share:.0%} of the change"
    large = to_image_size(map, batch.run.model.image_size)
    return Panel(large[0], METHODS[method].signed, note, warning)


def _save(path: Path, map: Float32[np.ndarray, "p q"]) -> None:
    content = io.BytesIO()
    np.save(content, map)
    write_atomic(path, content.getvalue())


def _file_stem(path: str) -> str:
    """Returns a safe file name from the name of an image."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path.rpartition("!")[2]).stem)[:60] or "image"


def _as_csv(rows: Sequence[Row]) -> bytes:
    """Returns the CSV file; fields that do not apply are empty."""
    text = io.StringIO()
    writer = csv_writer(text)
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        writer.writerow(map(_cell_text, dataclasses.astuple(row)))
    return text.getvalue().encode()


def _cell_text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
