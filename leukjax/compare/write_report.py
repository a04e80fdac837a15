"""From arguments to a folder with the report in it."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from leukjax import storage
from leukjax.compare import page, results, verdict
from leukjax.compare.analysis import make_study
from leukjax.compare.load_results import read_entries
from leukjax.compare.sections import make_document
from leukjax.errors import UserError
from leukjax.report.style import save
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

INDEX = ".files.json"  # names of the tables and figures of a report, for the next one there
_FILE = re.compile(r"[A-Za-z0-9_-]+\.(csv|tex|png|svg)")


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report",
    *,
    positive: str = "",
) -> list[str]:
    """Compares trained models, and writes a report that opens offline.

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
    """Read and check the inputs, compute, write everything.

    Nothing is written before all inputs are read and found comparable; report.html comes last.

    Returns:
        The verdict in plain words.

    Raises:
        UserError: the inputs, or the output folder, do not allow it.
    """
    study = make_study(read_entries(arguments), positive)
    document = make_document(study)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be made ({error.strerror})") from error
    own = RunDir(output)
    texts, figures, before = own.path("tables"), own.path("figures"), _index(output / INDEX)
    index = {
        "tables": [f"{one.name}{end}" for one in document.tables() for end in (".csv", ".tex")],
        "figures": [f"{one.name}{end}" for one in document.pictures() for end in (".png", ".svg")],
    }
    for table in document.tables():
        write_atomic(texts / f"{table.name}.csv", table.csv())
        write_atomic(texts / f"{table.name}.tex", table.latex())
    for picture in document.pictures():
        save(picture.figure, figures, picture.name)
    write_atomic(output / "results.json", results.results_json(study))
    write_atomic(output / "paper.toml", results.paper_toml(study))
    write_atomic(output / "report.md", page.markdown(document))
    write_atomic(output / "report.html", page.html(document, figures))
    for folder, names in before.items():
        for name in set(names) - set(index[folder]):
            (own.path(folder) / name).unlink(missing_ok=True)
    write_atomic(output / INDEX, json.dumps(index, indent=1) + "\n")
    return verdict.verdict(study)


def _index(path: Path) -> dict[str, list[str]]:
    """The tables and figures of a report that is in the folder: no other file is ever removed."""
    try:
        content = storage.read_json(path)
        return {
            folder: [name for name in content[folder] if _FILE.fullmatch(name)]
            for folder in ("tables", "figures")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {"tables": [], "figures": []}
