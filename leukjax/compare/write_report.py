"""Writes the folder of a report."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from leukjax import storage
from leukjax.compare import results
from leukjax.compare.analysis import make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.sections import make_document
from leukjax.errors import UserError
from leukjax.report import page
from leukjax.report.style import save
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

INDEX = ".files.json"  # lists tables and figures, so that the next report can remove them
_FILE = re.compile(r"[A-Za-z0-9_-]+\.(csv|tex|png|svg)")


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report",
    *,
    positive: str = "",
) -> list[str]:
    """Compares trained models and writes a report that opens offline.

    Args:
      runs: work directories of finished runs, folders of cross-validations, or CSV files of
        predictions; ``"NAME=PATH"`` names one, ``"NAME=RUN,RUN"`` takes several seeds as one model.
      output: folder to write.
      positive: class of precision, recall, F1 and AUROC. Default: that of the runs.

    Returns:
      The verdict, in sentences.

    Raises:
      ValueError: the inputs cannot be compared, or the output folder cannot be written.
    """
    return write_report([os.fspath(run) for run in runs], Path(output), positive)


def write_report(arguments: Sequence[str], output: Path, positive: str = "") -> list[str]:
    """Reads and checks the inputs, computes, and writes all files.

    Nothing is written before all inputs have been read and checked; report.html comes last.

    Returns:
      The verdict, in sentences.

    Raises:
      UserError: the inputs cannot be compared, or the output folder cannot be written.
    """
    study = make_study(read_entries(arguments), positive)
    document = make_document(study)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be created ({error.strerror})") from error
    folders = {name: RunDir(output).path(name) for name in ("tables", "figures")}
    previous = _read_index(output / INDEX)
    index = {
        "tables": [f"{table.name}{end}" for table in document.tables() for end in (".csv", ".tex")],
        "figures": [
            f"{picture.name}{end}" for picture in document.pictures() for end in (".png", ".svg")
        ],
    }
    for table in document.tables():
        write_atomic(folders["tables"] / f"{table.name}.csv", table.csv())
        write_atomic(folders["tables"] / f"{table.name}.tex", table.latex())
    for picture in document.pictures():
        save(picture.figure, folders["figures"], picture.name)
    write_atomic(output / "results.json", results.results_json(study))
    write_atomic(output / "paper.toml", results.paper_toml(study))
    write_atomic(output / "report.md", page.markdown(document))
    write_atomic(output / "report.html", page.html(document, folders["figures"]))
    for folder, names in previous.items():
        for name in set(names) - set(index[folder]):
            (folders[folder] / name).unlink(missing_ok=True)
    write_atomic(output / INDEX, json.dumps(index, indent=1) + "\n")
    return list(document.summary)


def _read_index(path: Path) -> dict[str, list[str]]:
    """Returns the files of an earlier report in the folder; no other file is ever removed."""
    try:
        content = storage.read_json(path)
        return {
            folder: [name for name in content[folder] if _FILE.fullmatch(name)]
            for folder in ("tables", "figures")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {"tables": [], "figures": []}
