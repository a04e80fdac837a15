"""Measure how the scores of trained runs drop under nineteen distortions of five severities.

python -m leukjax.robustness --workdir=runs/cnn-cnmc,runs/resnet50-cnmc

Distorts the images of one part of each run, predicts, and writes RUN/robustness/: predictions,
scores.csv with intervals by group, curves, and the most harmful distortions as pictures. With
several runs, relative numbers refer to the CNN, or to the run of --reference. The same command
resumes after a stop. --config.data.root=FOLDER says where the images are now.
"""

from pathlib import Path

from absl import flags

from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_list("workdir", [], "work directories of finished runs", flag_values=FLAGS)
flags.DEFINE_enum("part", "test", ["val", "test"], "which images", flag_values=FLAGS)
flags.DEFINE_list("distortions", ["all"], "names, or all", flag_values=FLAGS)
flags.DEFINE_enum(
    "background",
    "both",
    ["both", "masked", "as_published"],
    "masked keeps a black background as it is, as_published distorts it as the published benchmark"
    " does; bright backgrounds are always distorted",
    flag_values=FLAGS,
)
flags.DEFINE_string("reference", "", "run that relative numbers refer to", flag_values=FLAGS)
flags.DEFINE_string(
    "output",
    "",
    "folder of the joint report; default RUN/robustness for one run, robustness/ beside several",
    flag_values=FLAGS,
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, measures the runs and writes the report."""
    if arguments or names:
        given = (arguments or [f"--config={names[0]}"])[0]
        raise UserError(f"{given}: not understood; give runs by --workdir=RUN[,RUN…]")
    runs = [Path(name) for name in FLAGS.workdir if name]
    if not runs:
        raise UserError("--workdir is missing; give the work directory of a finished run")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("--workdir: a run is named twice")
    reference = Path(FLAGS.reference) if FLAGS.reference else None

    # Imported late: the flags are checked at once, JAX and TFDS take seconds.
    from leukjax.images.distort import DISTORTIONS
    from leukjax.robustness import analysis

    chosen = list(DISTORTIONS) if FLAGS.distortions == ["all"] else list(FLAGS.distortions)
    for name in chosen:
        if name not in DISTORTIONS:
            raise UserError(f"--distortions={name}: unknown; one of {', '.join(DISTORTIONS)}")
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
