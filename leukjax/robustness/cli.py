"""Measure how distortions of the images change the scores: nineteen kinds, five severities each.

python -m leukjax.robustness --workdir=runs/cnn-cnmc,runs/resnet50-cnmc

Distorts the images of one split of each run, predicts, and writes RUN/robustness/: predictions,
scores.csv with intervals by group, curves, and the most harmful distortions as pictures. Of several
runs the CNN is the reference of relative numbers, or the one that --reference names. The same
command again resumes where it stopped. --config.data.root=FOLDER gives the folder of the images.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
command.define_run_flags(FLAGS, "workdir")
flags.DEFINE_enum("part", "test", ["val", "test"], "split of the images", flag_values=FLAGS)
flags.DEFINE_list("distortions", ["all"], "names, or all", flag_values=FLAGS)
flags.DEFINE_enum(
    "background",
    "both",
    ["both", "masked", "as_published"],
    "whether a black background is left unchanged (masked) or distorted as in the published "
    "benchmark; bright backgrounds are always distorted",
    flag_values=FLAGS,
)
flags.DEFINE_string("reference", "", "run that the others are compared with", flag_values=FLAGS)
flags.DEFINE_string(
    "output",
    "",
    "folder of the joint report; default RUN/robustness for one run, else robustness/ beside them",
    flag_values=FLAGS,
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, predicts, writes the report."""
    command.refuse_config(names)
    command.refuse_arguments(arguments, "runs are named by --workdir=RUN[,RUN…]")
    runs = [Path(folder) for folder in command.run_folders(FLAGS)]
    reference = Path(FLAGS.reference) if FLAGS.reference else None

    # Imported late: JAX takes seconds, and the errors above do not need it.
    from leukjax.images.distort import DISTORTIONS
    from leukjax.robustness import analysis

    chosen = list(DISTORTIONS) if FLAGS.distortions == ["all"] else list(FLAGS.distortions)
    for name in chosen:
        if name not in DISTORTIONS:
            raise UserError(
                f"--distortions={name}: no such distortion; one of {', '.join(DISTORTIONS)}"
            )
    if not chosen:
        raise UserError("--distortions is empty; give names, or all")
    analysis.write_and_print(
        runs,
        FLAGS.part,
        chosen,
        FLAGS.background,
        reference=reference,
        output=Path(FLAGS.output) if FLAGS.output else None,
        overrides=overrides,
    )
