"""Suggest a learning rate: train a few steps while it rises, and see where the loss is lowest.

python -m leukjax.lr_find --config=configs/resnet50.py:cnmc --config.data.root=FOLDER

The learning-rate range test of Smith 2017: the rate rises exponentially over --steps steps of real
training and stops where the loss explodes. Writes lr_find.png and lr_find.json into --workdir, and
prints the flag to paste: a tenth of the rate with the lowest smoothed loss. Only training images
are read, and no checkpoint is written.
"""

from pathlib import Path

from absl import flags

from leukjax import command, config
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "workdir", "", "folder to write; default runs/lr_find-<config>-<data>", flag_values=FLAGS
)
flags.DEFINE_integer(
    "steps", 100, "number of steps", lower_bound=10, upper_bound=10_000, flag_values=FLAGS
)
flags.DEFINE_float("low", 1e-6, "learning rate of the first step", flag_values=FLAGS)
flags.DEFINE_float("high", 1.0, "learning rate of the last step", flag_values=FLAGS)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, trains, writes the files, prints the suggestion."""
    chosen = command.one_config(names, overrides, arguments)
    if not 0 < FLAGS.low < FLAGS.high <= 1e3:
        raise UserError(
            f"--low={FLAGS.low:g} --high={FLAGS.high:g}: must be above 0, in this order, and at "
            "most 1000"
        )
    default = f"runs/lr_find-{config.name_of(names[0])}-{chosen.data.name}"

    # Imported late: JAX takes seconds, and the checks above do not need it.
    from leukjax.lr_find import range_test

    workdir = Path(FLAGS.workdir or default)
    print(range_test.run(chosen, workdir, FLAGS.steps, FLAGS.low, FLAGS.high))
