"""Score finished runs again: with test-time augmentation, as an ensemble, at a threshold.

python -m leukjax.evaluate --workdir=RUN[,RUN…] --part=test --tta

Several runs are an ensemble: mean probability. The threshold is chosen on validation, never on
test. --config.data.root=FOLDER says where the images are now. Every access to test is a line in the
run's test_openings.jsonl.
"""

from pathlib import Path

from absl import flags

from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_list("workdir", [], "work directory of a finished run, or several: RUN,RUN",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("part", "test", ["val", "test"], "which images", flag_values=FLAGS)
flags.DEFINE_bool("tta", False, "mean over eight turned and mirrored views", flag_values=FLAGS)
flags.DEFINE_string(
    "threshold",
    "youden",
    "for the positive class, chosen on validation: youden | sensitivity=X | specificity=X; or a "
    "number; two classes only",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output", "", "folder to write; default WORKDIR/evaluation/PART[-tta]", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, predicts and scores."""
    if names or arguments:
        raise UserError(f"{[*names, *arguments][0]}: not understood; a run has its own config")
    folders = [Path(name) for name in FLAGS.workdir]
    if not folders:
        raise UserError("--workdir is missing; give the work directory of a finished run")
    if len(set(folders)) < len(folders):
        raise UserError(f"--workdir={','.join(FLAGS.workdir)}: a run is named twice")
    if len(folders) > 1 and not FLAGS.output:
        raise UserError("--output is missing; give a folder for the scores of the ensemble")
    name = f"{FLAGS.part}-tta" if FLAGS.tta else FLAGS.part

    # Imported late: the flags are checked at once, JAX and TFDS take seconds.
    from leukjax.evaluate import evaluate_run
    from leukjax.rundir import RunDir

    first = RunDir(folders[0])
    output = Path(FLAGS.output) if FLAGS.output else first.path("evaluation", name)
    evaluate_run.run(
        folders, FLAGS.part, FLAGS.threshold, output, tta=FLAGS.tta, overrides=overrides
    )
