"""The work of `leukjax.explain`: runs and paths in; overlays, maps and a table out."""

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Float32, UInt8

from leukjax import runtime
from leukjax.data import image_limits, image_stream
from leukjax.data.decode import decode
from leukjax.data.image_stats import foreground
from leukjax.data.parallel import map_in_order, progress
from leukjax.errors import UserError
from leukjax.explain import explainer as reasons
from leukjax.explain.attribution.integrated_gradients import TOLERANCE
from leukjax.explain.attribution.methods import METHODS
from leukjax.explain.overlay import Column, Panel, as_png, overlay
from leukjax.explain.plan import Options, Run, choose
from leukjax.explain.tables import Row, as_csv
from leukjax.predict.predictor import NOT_FINITE, load
from leukjax.storage import write_atomic

TABLE = "explanations.csv"


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a run says of some images."""

    images: UInt8[np.ndarray, "n s s 3"]
    cells: Bool[np.ndarray, "n s s"]
    probabilities: Float32[np.ndarray, "n c"]
    targets: np.ndarray
    reasons: dict[str, reasons.Reasons]


def write(runs: Sequence[str], paths: Sequence[str], output: Path, options: Options) -> None:
    """Explain every image, and write the folder; what is wrong with flags is said before.

    Raises:
      UserError: a run, path, flag or output that will not do; or not one file is an image.
    """
    runtime.set_numerics()
    runtime.hold_memory()  # before JAX looks for devices: what follows does
    image_stream.check(paths)
    models = [load(run, options.step, batch_size=options.batch_size).member for run in runs]
    chosen = choose(models, options)
    total = image_stream.count(paths)
    _make_folder(output, paths)
    runtime.start(models[0].config)
    rows: list[Row] = []
    loaded = map_in_order(_decode, progress(image_stream.items(paths), total, "explaining"),
                          options.threads)  # fmt: skip
    number = 0
    try:
        while part := list(islice(loaded, models[0].batch_size)):
            rows += _explain(chosen, part, number, output, options)
            number += len(part)
        write_atomic(output / TABLE, as_csv(rows))
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror or error}); "
                        "choose another") from error  # fmt: skip
    bad = [row for row in rows if row.error]
    if len(bad) == number:
        what = "has a prediction" if NOT_FINITE in bad[0].error else "is an image"
        raise UserError(f"not one of {number:,} files {what}: {bad[0].error}")
    if bad:
        logging.warning("%s files are bad; the first: %s", f"{len(bad):,}", bad[0].error)
    _warn_of_incomplete(rows)
    logging.info("wrote %s: %s images", output, f"{number - len(bad):,}")


def _warn_of_incomplete(rows: Sequence[Row]) -> None:
    tried = [row for row in rows if row.complete]
    bad = [row for row in tried if row.complete == "no"]
    if bad:
        worst = max(bad, key=lambda row: row.incompleteness)
        logging.warning(
            "%s of %s maps of integrated gradients are incomplete: after up to %s steps they sum up"
            " to something else than the score's change, by more than %.0f %% of it (%s: %.0f %%)."
            " They explain nothing; the figures and the column complete say which. Try"
            " --baseline=blurred or --method=occlusion.",
            f"{len(bad):,}",
            f"{len(tried):,}",
            f"{max(reasons.MOST_STEPS, max(int(row.steps) for row in tried)):,}",
            100 * TOLERANCE,
            worst.path,
            100 * worst.incompleteness,
        )


def _make_folder(output: Path, paths: Sequence[str]) -> None:
    """Refuse to write where images are read: the next start would explain its own pictures."""
    for path in paths:
        if Path(path).is_dir() and output.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"--output={output}: lies in {path}, where images are read; "
                            "choose another folder")  # fmt: skip
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output}: is a file; give the name of a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_atomic(output / ".written", b"")
        (output / ".written").unlink()
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror or error}); "
                        "choose another") from error  # fmt: skip


def _decode(item: image_stream.Item) -> tuple[str, UInt8[np.ndarray, "h w 3"] | None, str]:
    try:
        with image_limits.one_image():
            return item.path, decode(item.read(), item.path)[0], ""
    except UserError as error:
        return item.path, None, " ".join(str(error).split())


def _explain(
    runs: Sequence[Run], part: list, first: int, output: Path, options: Options
) -> Iterator[Row]:
    """Write what belongs to some images; gives their rows, in the images' order."""
    pixels = [image for _, image, _ in part if image is not None]
    found = [_ask(run, pixels, options.baseline) for run in runs] if pixels else []
    place = 0
    for offset, (path, image, error) in enumerate(part):
        if image is None:
            yield Row(path, error=error)
            continue
        error = _not_finite(runs, found, place)
        if error:
            yield Row(path, error=f"{path}: {error}")
            place += 1
            continue
        stem = f"{first + offset:05}-{_plain(path)}"
        picture = ""
        if options.overlays:
            picture = f"overlays/{stem}.png"
            write_atomic(output / picture, as_png(_picture(path, runs, found, place)))
        for run, own in zip(runs, found, strict=True):
            for method in run.methods:
                name = f"maps/{stem}.{run.name}.{method}.npy"
                _save(output / name, own.reasons[method].maps[place])
                yield dataclasses.replace(
                    _row(run, own, method, place), path=path, map=name, overlay=picture
                )
        place += 1


def _not_finite(runs: Sequence[Run], found: Sequence[_Found], place: int) -> str:
    """Why there is nothing to explain: a run gives an image no finite probability; "" = it does."""
    for run, own in zip(runs, found, strict=True):
        if not np.isfinite(own.probabilities[place]).all():
            return f"{run.name}: {NOT_FINITE}"
    return ""


def _cell(
    pixels: UInt8[np.ndarray, "h w 3"], image: UInt8[np.ndarray, "s s 3"], background: str
) -> Bool[np.ndarray, "s s"]:
    """Where the cell is: by this image's own background, which need not be that of the run."""
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    black = not rim.any(axis=-1).mean() > 0.5
    if black or background == "bright":
        return foreground(image, "black" if black else "bright")
    return foreground(image, "bright") & image.any(axis=-1)  # what was added around it is black


def _ask(run: Run, pixels: list, baseline: str) -> _Found:
    model = run.model
    images = np.stack([model.preprocess(image) for image in pixels])
    background = model.preprocessing["background"]
    probabilities = model.outputs(images).probabilities
    targets = probabilities.argmax(1)
    if run.target is not None:
        targets = np.full(len(images), run.target)
    return _Found(
        images,
        np.stack([_cell(*pair, background) for pair in zip(pixels, images, strict=True)]),
        probabilities,
        targets,
        {
            method: reasons.explain(model, images, targets, method, run.settings, baseline)
            for method in run.methods
        },
    )


def _row(run: Run, found: _Found, method: str, place: int) -> Row:
    model, given = run.model, found.reasons[method]
    map, score = given.maps[place], float(given.scores[place])
    large = reasons.to_pixels(map[None], model.image_size)
    target, blank = int(found.targets[place]), float(given.baseline_scores[place])
    complete = method == "integrated_gradients"
    total = float(map.sum(dtype=np.float64))
    return Row(
        path="",
        run=run.name,
        method=method,
        layer=run.settings.layer if METHODS[method].fits == "convolutional" else "",
        predicted=model.classes[int(found.probabilities[place].argmax())],
        target=model.classes[target],
        p_target=float(found.probabilities[place, target]),
        score=score,
        share_in_cell=float(reasons.share_inside(large, found.cells[place][None])[0]),
        cell_area=float(found.cells[place].mean()),
        baseline_score=blank if complete else np.nan,
        map_sum=total if complete else np.nan,
        completeness_error=total - (score - blank) if complete else np.nan,
        steps=float(given.steps[place]) if complete else np.nan,
        incompleteness=float(given.incompleteness[place]),
        complete=("no" if given.incomplete[place] else "yes") if complete else "",
    )


def _picture(path: str, runs: Sequence[Run], found: Sequence[_Found], place: int):
    rows = tuple(dict.fromkeys(method for run in runs for method in run.methods))
    columns = []
    for run, own in zip(runs, found, strict=True):
        panels = [
            _panel(run, own, method, place) if method in run.methods else None for method in rows
        ]
        names, sure = run.model.classes, own.probabilities[place]
        heading = f"{run.name}: {names[int(sure.argmax())]} {sure.max():.0%}"
        heading += f"\nexplained: {names[int(own.targets[place])]}"
        columns.append(Column(heading, own.images[place], own.cells[place], panels))
    synthetic = any(run.model.preprocessing["synthetic"] for run in runs)
    marks = ["trained on SYNTHETIC data"] if synthetic else []
    if any(given.incomplete[place] for own in found for given in own.reasons.values()):
        marks.append("INCOMPLETE integrated gradients: no explanation")
    return overlay(Path(path).name, marks, [METHODS[method].title for method in rows], columns)


def _panel(run: Run, found: _Found, method: str, place: int) -> Panel:
    map = found.reasons[method].maps[place][None]
    large = reasons.to_pixels(map, run.model.image_size)
    share = reasons.share_inside(large, found.cells[place][None])[0]
    inside = "no attribution" if np.isnan(share) else f"{share:.0%} in the cell"
    if METHODS[method].fits == "convolutional":
        inside += f"; {run.settings.layer}, {map.shape[1]}×{map.shape[2]}"
    given, warning = found.reasons[method], ""
    if given.incomplete[place]:
        error = float(map.sum(dtype=np.float64)) - float(
            given.scores[place] - given.baseline_scores[place]
        )
        warning = (
            f"INCOMPLETE: off by {error:.3g},\n{given.incompleteness[place]:.0%} of the change"
        )
    return Panel(large[0], METHODS[method].signed, inside, warning)


def _save(path: Path, map: Float32[np.ndarray, "p q"]) -> None:
    content = io.BytesIO()
    np.save(content, map)
    write_atomic(path, content.getvalue())


def _plain(path: str) -> str:
    """A file's name from the name of an image, whatever that holds."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path.rpartition("!")[2]).stem)[:60] or "image"
