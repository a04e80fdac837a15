"""Score finished runs again: with test-time augmentation, as an ensemble, at a threshold.

python -m leukjax.evaluate --workdir=RUN[,RUN…] --part=test --tta

Several runs are an ensemble: mean probability. The threshold is chosen on validation, never on
test. --config.data.root=FOLDER gives the folder of the images. Every access to test is a line in
the run's test_openings.jsonl.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
command.define_run_flags(FLAGS, "workdir", "tta")
flags.DEFINE_enum("part", "test", ["val", "test"], "split of the images", flag_values=FLAGS)
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
    """Checks the flags, predicts, scores."""
    command.refuse_config(names)
    command.refuse_arguments(arguments, "a run has its own config")
    folders = [Path(folder) for folder in command.run_folders(FLAGS)]
    if len(folders) > 1 and not FLAGS.output:
        raise UserError("--output is missing; give a folder for the scores of the ensemble")
    name = f"{FLAGS.part}-tta" if FLAGS.tta else FLAGS.part

    # Imported late: JAX takes seconds, and the errors above do not need it.
    from leukjax.evaluate import evaluate_run
    from leukjax.rundir import RunDir

    first = RunDir(folders[0])
    output = Path(FLAGS.output) if FLAGS.output else first.path("evaluation", name)
    evaluate_run.run(
        folders, FLAGS.part, FLAGS.threshold, output, tta=FLAGS.tta, overrides=overrides
    )
