"""Score a finished run again: more views an image, several runs together, another threshold.

python -m leukjax.evaluate --workdir=RUN[,RUN…] --part=test --views=8

Runs named together are an ensemble: mean probability. The threshold is chosen on validation and
never on test. Every opening of test is counted in the run's test_openings.jsonl.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_list("workdir", [], "finished run; several, parted by commas: an ensemble",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("part", "test", ["val", "test"], "what is scored", flag_values=FLAGS)
flags.DEFINE_enum(
    "views", "1", ["1", "8"], "8: mean over the dihedral views of each image", flag_values=FLAGS
)
flags.DEFINE_string(
    "threshold",
    "youden",
    "of the positive class, chosen on validation: youden | sensitivity=X | specificity=X; or a "
    "number. Two classes only",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output", "", "folder to write; default WORKDIR/evaluation/PART-VIEWS", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the flags, predict, score."""
    if names or overrides or arguments:
        unknown = [*names, *(f"--config.{field}" for field, _ in overrides), *arguments][0]
        raise UserError(f"{unknown}: not understood; the config is that of the run")
    folders = [Path(name) for name in FLAGS.workdir]
    if not folders:
        raise UserError("--workdir is missing; name the folder of a finished run")
    if len(set(folders)) < len(folders):
        raise UserError(f"--workdir={','.join(FLAGS.workdir)}: names a run twice")
    if len(folders) > 1 and not FLAGS.output:
        raise UserError("--output is missing; name a folder for the scores of the ensemble")
    views = int(FLAGS.views)
    output = Path(FLAGS.output or folders[0] / "evaluation" / f"{FLAGS.part}-{views}")

    # Imported late: the flags above answer at once, JAX and TFDS take seconds.
    from leukjax.study import evaluation

    evaluation.run(folders, FLAGS.part, views, FLAGS.threshold, output)


if __name__ == "__main__":
    command.run(main, FLAGS, doc=__doc__)
