"""What cannot be, or would deceive a model, in a folder of images.

python -m leukjax.audit FOLDER --config.data.subject_pattern='(BloodImage_\\d+)'

Counts images, subjects and groups; finds identical and nearly identical images across subjects,
classes and folds; measures how far area, brightness, file size or border alone tell the classes
apart. Writes a page with pictures (one file that opens offline) and audit.json.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "layout",
    "auto",
    ["auto", "cnmc", "all_idb2", "image_folder"],
    "how the folder is laid out",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output", "", "folder to write; default audit-<name of FOLDER>", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Check the arguments, and hand them to the audit of their kind."""
    if names:
        raise UserError(f"--config={names[0]}: not understood; give --config.data.FIELD=VALUE only")
    if len(arguments) != 1:
        raise UserError(
            f"{len(arguments)} folders are given; give one: python -m leukjax.audit FOLDER"
        )
    _folder(arguments[0], overrides)


def _folder(folder: str, overrides: list[tuple[str, str]]) -> None:
    for field, _ in overrides:
        if not field.startswith("data."):
            raise UserError(f"--config.{field}: an audit takes fields of data only")

    # Imported late: the flags above answer at once, TFDS takes seconds.
    from leukjax.checks import folder as folders
    from leukjax.report import folder_page

    output = Path(FLAGS.output) if FLAGS.output else folders.default_output(folder)
    folder_page.write_and_print(folders.audit(folder, FLAGS.layout, overrides), output)


if __name__ == "__main__":
    command.run(main, FLAGS, doc=__doc__)
