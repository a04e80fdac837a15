"""Draw a sheet of raw and augmented training images.

python -m leukjax.preview --config=configs/resnet50.py --output=preview.png

Each row is one training image: first raw, then augmented as in the training step. With --distorted,
each row is one distortion of leukjax.robustness in its five severities.
"""

from pathlib import Path

from absl import flags

from leukjax import command

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", "preview.png", "image to write (PNG or SVG)", flag_values=FLAGS)
flags.DEFINE_integer(
    "rows", 8, "number of images", lower_bound=1, upper_bound=64, flag_values=FLAGS
)
flags.DEFINE_integer(
    "views", 7, "augmented versions of each image", lower_bound=1, upper_bound=32, flag_values=FLAGS
)
flags.DEFINE_boolean(
    "distorted", False, "draw the distortions of leukjax.robustness", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, prepares the data, draws the sheet."""
    config = command.one_config(names, overrides, arguments)

    # Imported late: JAX takes seconds, and the checks above do not need it.
    from leukjax.preview import write_preview

    if FLAGS.distorted:
        write_preview.write_distorted(config, Path(FLAGS.output))
        return
    write_preview.write(config, Path(FLAGS.output), rows=FLAGS.rows, views=FLAGS.views)
