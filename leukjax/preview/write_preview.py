"""Draws the preview sheet: training images as prepared, augmented, or distorted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from leukjax.data.image_stats import foreground
from leukjax.data.records import Records
from leukjax.errors import UserError
from leukjax.images.augment import Augment, augment
from leukjax.images.distort import DISTORTIONS, SEVERITIES, distort, seeds_of
from leukjax.images.mix import mix
from leukjax.images.normalize import to_float
from leukjax.report.style import save_as, style
from leukjax.training.hyperparameters import augment_options, fit_stain
from leukjax.training.training_data import log_notes, make_batches, records_of, split_of


def write(config: ConfigDict, output: Path, *, rows: int, views: int) -> None:
    """Draws the first training images of a config, and the views of them in the first steps.

    Args:
      config: of a training run.
      output: PNG or SVG file to write.
      rows: number of images.
      views: number of augmented versions of each image.

    Raises:
      UserError: the output is neither PNG nor SVG, or the config or its data are invalid.
    """
    _check(output)
    records = records_of(config)
    split = split_of(config, records)
    log_notes(records, split)
    train = split.rows("train")
    size = min(rows, len(train))
    batch = make_batches(config, records, train, size, training=True).batch(0)
    options = augment_options(config, records.background)
    raw, stain = jnp.asarray(batch["image"]), fit_stain(config, records, train)
    floats = to_float(raw) if stain is None else stain.colours(raw)
    key = jax.random.key(config.seed)
    augmented = [_view(jax.random.fold_in(key, step), floats, options) for step in range(views)]
    manifest = records.manifest
    names = [
        f"{manifest.classes[label]}, {manifest.subject[row]}"
        for label, row in zip(batch["label"], batch["index"], strict=True)
    ]
    title = _title(records, f"as prepared, and {views} augmented views")
    _save(sheet(batch["image"], np.stack(augmented, axis=1), names, title), output)


def _view(
    key: PRNGKeyArray, images: Float[Array, "n s s 3"], options: Augment
) -> Float[Array, "n s s 3"]:
    """Augmented images, each mixed with the one in the next row if the config says so."""
    positions = jnp.arange(len(images))
    images = augment(key, images, positions, options)
    if options.mixup or options.cutmix:
        images, _ = mix(key, images, positions, options.mixup, options.cutmix)
    return images


def write_distorted(config: ConfigDict, output: Path) -> None:
    """Draws all distortions in their five severities on training images, one row per distortion.

    Raises:
      UserError: as in `write`.
    """
    _check(output)
    records = records_of(config)
    train = split_of(config, records).rows("train")
    # A different cell in each row, and the same cells in every sheet.
    chosen = train[np.arange(len(DISTORTIONS)) * 7 % len(train)]
    raw = records.images(chosen)
    edge: Literal["black", "bright"] = "black" if records.background == "black" else "bright"
    seeds = seeds_of(records.manifest.id[chosen].tolist())
    views = []
    for i, name in enumerate(DISTORTIONS):
        image, seed, cell = raw[i : i + 1], seeds[i : i + 1], foreground(raw[i], edge)[None]
        views.append(
            [
                distort(image, seed, name, severity, edge=edge, cell=cell)[0]
                for severity in SEVERITIES
            ]
        )
    names = [name.replace("_", " ") for name in DISTORTIONS]
    headings = [f"severity {severity}" for severity in SEVERITIES]
    title = _title(records, "distortions of leukjax.robustness")
    _save(sheet(raw, np.array(views), names, title, headings), output)


def sheet(
    raw: UInt8[np.ndarray, "n h w 3"],
    views: UInt8[np.ndarray, "n k h w 3"] | Float[np.ndarray, "n k h w 3"],
    names: Sequence[str],
    title: str,
    headings: Sequence[str] = ("augmented",),
) -> Figure:
    """Draws one row per image: the image itself, and `k` views of it.

    Args:
      raw: prepared images.
      views: their views; floats are in [0, 1].
      names: text left of each row.
      title: of the figure.
      headings: of the first columns of views.
    """
    rows, columns = views.shape[0], views.shape[1] + 1
    with style():
        figure = Figure(figsize=(1.5 + 0.95 * columns, 0.7 + 0.95 * rows), facecolor="white")
        figure.suptitle(title, fontweight="bold", fontsize=9)
        grid = figure.subplots(rows, columns, squeeze=False)
        for grid_row, image, image_views, name in zip(grid, raw, views, names, strict=True):
            for axes, picture in zip(grid_row, [image, *image_views], strict=True):
                axes.imshow(picture, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
            grid_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
        grid[0, 0].set_title("as prepared", fontsize=8)
        for axes, heading in zip(grid[0, 1:], headings, strict=False):
            axes.set_title(heading, fontsize=8, loc="left")
    return figure


def _title(records: Records, text: str) -> str:
    return f"{records.name}: {text}" + (" (SYNTHETIC)" if records.synthetic else "")


def _save(figure: Figure, output: Path) -> None:
    save_as(figure, output)
    logging.info("wrote %s", output)


def _check(output: Path) -> None:
    if output.suffix not in (".png", ".svg"):
        raise UserError(f"--output={output}: must end in .png or .svg")
