"""The preview sheet: training images as they are and as the step augments them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from leukjax.data import records as data_records
from leukjax.errors import UserError
from leukjax.images.augment import augment
from leukjax.images.normalize import to_float
from leukjax.report.sheet import sheet
from leukjax.report.style import save
from leukjax.train.run import make_batches, split_of
from leukjax.train.settings import step_options


def write(config: ConfigDict, output: Path, *, rows: int, views: int) -> None:
    """Draw the first training images of a config, with the random views of their first steps.

    Raises:
      UserError: the output is neither PNG nor SVG, or what stands against config and data.
    """
    if output.suffix not in (".png", ".svg"):
        raise UserError(f"--output={output}: must end in .png or .svg")
    records = data_records.prepare(config.data)
    split = split_of(config, records)
    size = min(rows, len(split.rows("train")))
    batch = make_batches(config, records, split.rows("train"), size, training=True).batch(0)
    options = step_options(config, records.background).augment
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
    save(figure, output.parent, output.stem, kinds=(output.suffix[1:],))
    logging.info("wrote %s", output)
