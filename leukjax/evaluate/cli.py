"""Score finished runs again: with test-time augmentation, as an ensemble, on another data set.

python -m leukjax.evaluate --workdir=RUN[,RUN…] --part=test --tta
python -m leukjax.evaluate --workdir=RUN --data=default:table --config.data.table=cells.csv \\
    --class_map=map.csv --output=external

Several runs are an ensemble: mean probability. The threshold is chosen on validation, never on
test. --config.data.root=FOLDER gives the folder of the images. Every access to test is a line in
the run's test_openings.jsonl.

--data=CONFIG[:DATASET] is an external test: other images than those of the run, prepared as the
run prepared its own. --class_map is a CSV file with the columns theirs,ours; classes that it does
not list are left out. The run folders are not written.
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
flags.DEFINE_string(
    "data", "", "external test: config of other images, as in default:table", flag_values=FLAGS
)
flags.DEFINE_string(
    "class_map", "", "external test: CSV file with the columns theirs,ours", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, predicts, scores."""
    command.refuse_config(names, reason="a run has its own config; --data is for other images")
    command.refuse_arguments(arguments, "a run has its own config")
    folders = [Path(folder) for folder in command.run_folders(FLAGS)]
    if FLAGS.data:
        _external(folders, overrides)
        return
    if FLAGS.class_map:
        raise UserError("--class_map: needs --data, the config of other images")
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


def _external(folders: list[Path], overrides: list[tuple[str, str]]) -> None:
    if FLAGS["part"].present:
        raise UserError("--part: is a part of the run's own split; remove it or --data")
    if not FLAGS.output:
        raise UserError("--output is missing; give a folder for the external test")

    from leukjax.evaluate import external

    external.run(
        folders,
        Path(FLAGS.output),
        external.Options(FLAGS.data, FLAGS.class_map, FLAGS.threshold, FLAGS.tta, overrides),
    )
