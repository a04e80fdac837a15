"""Score a finished run again: more views an image, several runs together, another threshold.

python -m leukjax.evaluate --workdir=RUN[,RUN…] --part=test --tta

Runs named together are an ensemble: mean probability. The threshold is chosen on validation and
never on test. --config.data.root=FOLDER says where the images lie now. Every opening of test is
counted in the run's test_openings.jsonl.
"""

from pathlib import Path

from absl import flags

from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_list("workdir", [], "finished run; several, parted by commas: an ensemble",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("part", "test", ["val", "test"], "what is scored", flag_values=FLAGS)
flags.DEFINE_bool("tta", False, "mean over eight turned and mirrored views", flag_values=FLAGS)
flags.DEFINE_string(
    "threshold",
    "youden",
    "of the positive class, chosen on validation: youden | sensitivity=X | specificity=X; or a "
    "number. Two classes only",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output", "", "folder to write; default WORKDIR/evaluation/PART[-tta]", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, predict, score."""
    if names or arguments:
        raise UserError(f"{[*names, *arguments][0]}: not understood; a run knows its own config")
    folders = [Path(name) for name in FLAGS.workdir]
    if not folders:
        raise UserError("--workdir is missing; name the folder of a finished run")
    if len(set(folders)) < len(folders):
        raise UserError(f"--workdir={','.join(FLAGS.workdir)}: names a run twice")
    if len(folders) > 1 and not FLAGS.output:
        raise UserError("--output is missing; name a folder for the scores of the ensemble")
    name = f"{FLAGS.part}-tta" if FLAGS.tta else FLAGS.part

    # Imported late: the flags above answer at once, JAX and TFDS take seconds.
    from leukjax.evaluate import evaluate_run
    from leukjax.rundir import RunDir

    first = RunDir(folders[0])
    output = Path(FLAGS.output) if FLAGS.output else first.path("evaluation", name)
    evaluate_run.run(
        folders, FLAGS.part, FLAGS.threshold, output, tta=FLAGS.tta, overrides=overrides
    )
