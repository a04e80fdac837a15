"""The preview sheet: training images as they are and as the step augments them."""

from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax.data import datasets
from leukjax.data.image_stats import foreground
from leukjax.errors import UserError
from leukjax.images.augment import augment
from leukjax.images.distort import DISTORTIONS, SEVERITIES, distort, seeds_of
from leukjax.images.normalize import to_float
from leukjax.preview.contact_sheet import sheet
from leukjax.report.style import save_as
from leukjax.training.hyperparameters import augment_options
from leukjax.training.training_data import make_batches, split_of


def write(config: ConfigDict, output: Path, *, rows: int, views: int) -> None:
    """Draw the first training images of a config, with the random views of their first steps.

    Raises:
      UserError: the output is neither PNG nor SVG, or what stands against config and data.
    """
    _check(output)
    records = datasets.prepare(config.data)
    split = split_of(config, records)
    size = min(rows, len(split.rows("train")))
    batch = make_batches(config, records, split.rows("train"), size, training=True).batch(0)
    options = augment_options(config, records.background)
    raw, positions = to_float(jnp.asarray(batch["image"])), jnp.arange(size)
    key = jax.random.key(config.seed)
    seen = [
        augment(jax.random.fold_in(key, step), raw, positions, options) for step in range(views)
    ]
    manifest = records.manifest
    names = [
        f"{manifest.classes[label]}, {manifest.subject[row]}"
        for label, row in zip(batch["label"], batch["index"], strict=True)
    ]
    title = f"{records.name}: raw, and {views} augmented views"
    if records.synthetic:
        title += " (SYNTHETIC)"
    figure = sheet(batch["image"], np.stack(seen, axis=1), names, title)
    save_as(figure, output)
    logging.info("wrote %s", output)


def write_distorted(config: ConfigDict, output: Path) -> None:
    """Draw every distortion of the suite in its five severities, a row each, on training images.

    Raises:
      UserError: as in `write`.
    """
    _check(output)
    records = datasets.prepare(config.data)
    rows = split_of(config, records).rows("train")
    # Each row another cell, and the same ones at every call.
    chosen = rows[np.arange(len(DISTORTIONS)) * 7 % len(rows)]
    raw = records.images(chosen)
    edge: Literal["black", "bright"] = "black" if records.background == "black" else "bright"
    seeds = seeds_of(records.manifest.id[chosen].tolist())
    views = []
    for i, name in enumerate(DISTORTIONS):
        own = slice(i, i + 1)
        cell = foreground(raw[i], edge)[None]
        views.append(
            [
                distort(raw[own], seeds[own], name, severity, edge=edge, cell=cell)[0]
                for severity in SEVERITIES
            ]
        )
    title = f"{records.name}: the suite of distortions"
    if records.synthetic:
        title += " (SYNTHETIC)"
    names = [name.replace("_", " ") for name in DISTORTIONS]
    headings = tuple(f"severity {severity}" for severity in SEVERITIES)
    figure = sheet(raw, np.array(views), names, title, headings)
    save_as(figure, output)
    logging.info("wrote %s", output)


def _check(output: Path) -> None:
    if output.suffix not in (".png", ".svg"):
        raise UserError(f"--output={output}: must end in .png or .svg")
