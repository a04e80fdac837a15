"""From arguments to a folder with the report in it."""

from collections.abc import Sequence
from pathlib import Path

from leukjax.errors import UserError
from leukjax.report.comparison import page, results, words
from leukjax.report.comparison.document import make_document
from leukjax.report.comparison.inputs import read_entries
from leukjax.report.comparison.study import make_study
from leukjax.report.style import save
from leukjax.storage import write_atomic


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
    again = (output / "results.json").exists()  # a report on other inputs may stand there
    for table in document.tables():
        write_atomic(output / "tables" / f"{table.name}.csv", table.csv())
        write_atomic(output / "tables" / f"{table.name}.tex", table.latex())
    for picture in document.pictures():
        save(picture.figure, output / "figures", picture.name)
    write_atomic(output / "results.json", results.results_json(study))
    write_atomic(output / "paper.toml", results.paper_toml(study))
    write_atomic(output / "report.md", page.markdown(document))
    write_atomic(output / "report.html", page.html(document, output / "figures"))
    if again:
        tables = {f"{table.name}{kind}" for table in document.tables() for kind in (".csv", ".tex")}
        drawn = {f"{one.name}{kind}" for one in document.pictures() for kind in (".png", ".svg")}
        _remove_others(output / "tables", tables)
        _remove_others(output / "figures", drawn)
    return words.verdict(study)


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove tables and figures that an earlier report had and this one has not."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in names and file.suffix in (".csv", ".tex", ".png", ".svg"):
            file.unlink()
