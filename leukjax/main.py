"""Train a classifier, choose its best epoch on validation, score it once on test.

python -m leukjax.main --config=configs/resnet50.py --workdir=runs/resnet50
python -m leukjax.main --config=configs/resnet50.py:cnmc --preflight=h100:8

The same command resumes a run that was stopped or killed. Ends with a table of test scores;
docs/reference/files.md describes each file of the work directory.
"""

from pathlib import Path

from absl import flags

from leukjax import command, config

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "workdir", "", "folder of the run; default runs/<config>-<data>", flag_values=FLAGS
)
flags.DEFINE_string(
    "preflight",
    "",
    "DEVICE:COUNT, as h100:8 (a100, h100, v5e, v5p, v6e): compile for devices that need not be "
    "here, print what the step needs of them, and train nothing; no data are read",
    flag_values=FLAGS,
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, trains, and prints the report."""
    chosen = command.one_config(names, overrides, arguments)
    default = f"runs/{config.name_of(names[0])}-{chosen.data.name}"
    workdir = Path(FLAGS.workdir or default)

    if FLAGS.preflight:
        from leukjax.training import preflight

        preflight.run(chosen, workdir, FLAGS.preflight)
        return

    # Imported late: the flags above answer at once, JAX and TFDS take seconds.
    from leukjax.training.preemption import stops_at_once
    from leukjax.training.run_report import write_report
    from leukjax.training.trainer import train

    with stops_at_once():
        report = write_report(train(chosen, workdir))
    if report:  # on the first process
        print(report)


if __name__ == "__main__":
    command.run(main, FLAGS, doc=__doc__)
