"""Show what a model would see: a sheet of raw and augmented cells.

python -m leukjax.preview --config=configs/resnet50.py --output=preview.png

Each row is one training image, raw first, then augmented as the training step does it. With
--distorted each row is a distortion of leukjax.robustness, in its five severities.
"""

from pathlib import Path

from absl import flags

from leukjax import command

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", "preview.png", "image to write (PNG or SVG)", flag_values=FLAGS)
flags.DEFINE_integer("rows", 8, "images shown", lower_bound=1, upper_bound=64, flag_values=FLAGS)
flags.DEFINE_integer(
    "views", 7, "augmented views of each", lower_bound=1, upper_bound=32, flag_values=FLAGS
)
flags.DEFINE_boolean(
    "distorted", False, "the suite of leukjax.robustness instead", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, prepare the data, draw the sheet."""
    config = command.one_config(names, overrides, arguments)

    # Imported late: the flags above answer at once, JAX and TFDS take seconds.
    from leukjax.preview import write_preview

    if FLAGS.distorted:
        write_preview.write_distorted(config, Path(FLAGS.output))
        return
    write_preview.write(config, Path(FLAGS.output), rows=FLAGS.rows, views=FLAGS.views)
