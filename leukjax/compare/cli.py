"""Compare models: intervals, tests, curves, errors, and a report that opens offline.

python -m leukjax.compare runs/cnn runs/resnet50 --output=report
python -m leukjax.compare CNN=runs/cnn-0,runs/cnn-1 theirs.csv --positive=all

An argument is a work directory, a crossval folder (all its models), a CSV of predictions of any
tool (id, subject, group, label, predicted, p_<class>…), or the folder of an external test
(leukjax.evaluate --data), which gets a table of its own. NAME=PATH names a model; NAME=RUN,RUN is
one model with several seeds. Writes report.html, report.md, results.json, tables and figures;
docs/howto/compare.md describes every number.
"""

from pathlib import Path

from absl import flags, logging

from leukjax import command
from leukjax.errors import UserError

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", "report", "folder to write", flag_values=FLAGS)
flags.DEFINE_string(
    "positive", "", "positive class of precision, recall, F1 and AUROC", flag_values=FLAGS
)


def main(names: list[str], overrides: list[tuple[str, str]], arguments: list[str]) -> None:
    """Checks the flags, compares, prints the verdict."""
    command.refuse_config(names, overrides, reason="compare takes finished runs and no config")
    if not arguments:
        raise UserError("nothing to compare; give work directories, crossval folders or CSVs")

    # Imported late: plotting libraries take seconds, and the checks above do not need them.
    from leukjax.compare.write_report import compare_runs

    output = Path(FLAGS.output)
    for sentence in compare_runs(arguments, output, positive=FLAGS.positive):
        print(sentence + "\n")
    logging.info("report: %s", output / "report.html")
