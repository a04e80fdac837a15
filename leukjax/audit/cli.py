"""Find errors in the tables of a paper, duplicates and shortcuts in a folder, doubtful labels.

python -m leukjax.audit FOLDER --config.data.subject_pattern='(BloodImage_\\d+)'
python -m leukjax.audit --new > paper.toml    a blank form for the printed numbers
python -m leukjax.audit paper.toml --output=paper.json
python -m leukjax.audit --labels STUDY        a folder of leukjax.crossval

A folder: counts images, subjects and groups; finds identical and nearly identical images across
subjects, classes and folds; measures how well area, brightness, file size or border alone predict
the class. With --config.data.table=cells.csv: whether the source or another column predicts the
class. Writes a page with pictures (one file that opens offline) and audit.json.
A paper: checks of every printed table whether its numbers can all be correct as described. Each
check reports pass, fail or cannot tell, with the arithmetic; the exit status is 0 in each case.
Labels: ranks the images whose label is contradicted by models that did not train on them; several
studies or runs of the same images may be given. Writes label_issues.csv and a sheet of pictures.
"""

from pathlib import Path

from absl import flags

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "layout",
    "auto",
    ["auto", "cnmc", "all_idb2", "image_folder", "table"],
    "layout of the folder",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output",
    "",
    "folder to write, default audit-<name of FOLDER>; for a paper a .json file",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "figure", "", "for a paper: .png or .svg file with its findings", flag_values=FLAGS
)
flags.DEFINE_bool("new", False, "print a blank form for a paper", flag_values=FLAGS)
flags.DEFINE_bool("labels", False, "rank doubtful labels of a study or of runs", flag_values=FLAGS)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the arguments, and audits a paper or a folder."""
    command.refuse_config(names, reason="give --config.data.FIELD=VALUE only")
    if FLAGS.new:
        _print_form(arguments)
        return
    if FLAGS.labels:
        _labels(arguments, overrides)
        return
    if len(arguments) != 1:
        given = f"{len(arguments)} folders or papers are" if arguments else "nothing is"
        raise UserError(f"{given} given; give one: python -m leukjax.audit FOLDER, or PAPER.toml")
    if arguments[0].endswith(".toml"):
        _paper(Path(arguments[0]), overrides)
    else:
        _folder(arguments[0], overrides)


def _print_form(arguments: list[str]) -> None:
    from leukjax.audit import paper

    if arguments or FLAGS.output or FLAGS.figure:
        raise UserError("--new prints the form and takes no file; write --new > paper.toml")
    print(paper.blank_form(), end="")


def _labels(arguments: list[str], overrides: list[tuple[str, str]]) -> None:
    if overrides:
        raise UserError(f"--config.{overrides[0][0]}: a finished run has its config; leave it out")
    if FLAGS.layout != "auto" or FLAGS.figure:
        raise UserError("--labels takes --output only")
    if not arguments:
        raise UserError("--labels: nothing is given; give the folder of a crossval, or of runs")

    from leukjax.audit import labels

    output = Path(FLAGS.output or f"labels-{Path(arguments[0].split('=')[-1]).resolve().name}")
    labels.write_and_print(labels.audit_labels(arguments), output)


def _paper(path: Path, overrides: list[tuple[str, str]]) -> None:
    if overrides:
        raise UserError(f"--config.{overrides[0][0]}: a paper has no config; leave it out")
    if FLAGS["layout"].present:
        raise UserError("--layout is for a folder of images; leave it out for a paper")
    if FLAGS.output and not FLAGS.output.endswith(".json"):
        raise UserError(f"--output={FLAGS.output}: the findings of a paper go into a .json file")
    if FLAGS.figure and not FLAGS.figure.endswith((".png", ".svg")):
        raise UserError(f"--figure={FLAGS.figure}: must end in .png or .svg")

    from leukjax.audit import paper as papers
    from leukjax.audit import paper_checks
    from leukjax.report import style

    paper = papers.read(path)
    findings = paper_checks.audit(paper)
    try:
        if FLAGS.output:
            paper_checks.write(findings, Path(FLAGS.output))
        if FLAGS.figure:
            figure = paper_checks.verdict_figure(paper.title, findings)
            style.save_as(figure, Path(FLAGS.figure))
    except OSError as error:
        name = error.filename or FLAGS.figure or FLAGS.output
        raise UserError(f"{name}: cannot be written ({error.strerror})") from error
    print(paper_checks.report(paper, findings))


def _folder(folder: str, overrides: list[tuple[str, str]]) -> None:
    for field, _ in overrides:
        if not field.startswith("data."):
            raise UserError(f"--config.{field}: an audit takes fields of data only")
    if FLAGS.figure:
        raise UserError("--figure is for a paper; the page of a folder has figures, see --output")
    if not Path(folder).exists():
        raise UserError(f"{folder}: no such folder; give a folder of images, or PAPER.toml")

    # Imported late: TFDS takes seconds, and the errors above do not need it.
    from leukjax.audit import folder as folders
    from leukjax.audit import folder_page

    output = Path(FLAGS.output) if FLAGS.output else folders.default_output(folder)
    folder_page.write_and_print(folders.audit(folder, FLAGS.layout, overrides), output)
