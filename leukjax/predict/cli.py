"""Predict the class of new images with a trained run, or with several as an ensemble.

python -m leukjax.predict --workdir=runs/resnet50-cnmc IMAGES… --output=predictions.csv

IMAGES are files, folders and zips. Images are prepared as the run prepared its own. A file that
cannot be read becomes a row with its error, and the others are predicted. The first --flag_unlike
of a run reads its training images: --config.data.root=FOLDER says where they are.
docs/howto/predict.md describes the columns. Not a medical device.
"""

import re
from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt(True)  # flags may follow the paths
command.define_run_flags(
    FLAGS, "workdir", "step", "tta", "calibrated", "max_error", batch_size=32, threads=8
)
flags.DEFINE_string(
    "output",
    "predictions.csv",
    "table to write; an existing one is replaced only if it is named here",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "flag_unlike",
    None,
    "flag images unlike the training images (the first time this needs the training data); without "
    "it they are flagged if the run has unlikeness.npz",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "subject_pattern",
    "",
    "regular expression searched in each path, its first group is the subject; adds a second table",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "submission", "", "C-NMC: file for the challenge (.zip, or text)", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, predicts, writes the tables."""
    command.refuse_config(names, () if FLAGS.flag_unlike else overrides)
    folders, options = command.run_folders(FLAGS, repeats=True), command.run_options(FLAGS)
    output, pattern = Path(FLAGS.output), _pattern(FLAGS.subject_pattern)
    if not FLAGS["output"].present:
        _refuse_to_replace(output, pattern is not None)

    # Imported late: JAX takes seconds, and the errors above do not need it.
    from leukjax.predict import predict_files

    predict_files.write(
        folders,
        arguments,
        output,
        predict_files.Options(
            **options,
            flag_unlike=FLAGS.flag_unlike,
            subject_pattern=pattern,
            submission=Path(FLAGS.submission) if FLAGS.submission else None,
            overrides=overrides,
        ),
    )


def _refuse_to_replace(output: Path, has_subjects: bool) -> None:
    """Raises UserError if the default output would replace an existing table."""
    second = [output.with_name(f"{output.stem}-subjects.csv")] if has_subjects else []
    for path in (output, *second):
        if path.exists() or path.is_symlink():
            raise UserError(
                f"{path}: exists and would be replaced; choose another name, or pass "
                f"--output={output} to replace it"
            )


def _pattern(text: str) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"--subject_pattern={text}: not a regular expression: {error}") from error
    if not pattern.groups:
        raise UserError(f"--subject_pattern={text}: must have a group in parentheses, the subject")
    return pattern
