"""How much distortion does a trained model stand? Nineteen kinds, five severities each.

python -m leukjax.robustness --workdir=runs/cnn-cnmc,runs/resnet50-cnmc

Distorts the images of one part of each run, predicts, and writes RUN/robustness/: predictions,
scores.csv with intervals by group, curves, and the most harmful distortions as pictures. Of several
runs the CNN is the reference of relative numbers, or the one that --reference names. The same
command again goes on where it was stopped. --config.data.root=FOLDER says where the images lie now.
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
    "whether a black background stays as it is (masked), or is distorted as the published"
    " benchmark does it; bright backgrounds always are",
    flag_values=FLAGS,
)
flags.DEFINE_string("reference", "", "run that the others are measured by", flag_values=FLAGS)
flags.DEFINE_string(
    "output",
    "",
    "folder of the joint report; default RUN/robustness of one run, robustness/ beside several",
    flag_values=FLAGS,
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, measure, report."""
    if arguments or names:
        given = (arguments or [f"--config={names[0]}"])[0]
        raise UserError(f"{given}: not understood; runs are named by --workdir=RUN[,RUN…]")
    runs = [Path(name) for name in FLAGS.workdir if name]
    if not runs:
        raise UserError("--workdir is missing; give the folder of a finished run")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("--workdir: a run is named twice")
    reference = Path(FLAGS.reference) if FLAGS.reference else None

    # Imported late: the flags above answer at once, JAX and TFDS take seconds.
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
