"""Executes the notebooks of docs/tutorials and makes their pages; a failing cell fails the build.

MkDocs calls `on_files`. EXECUTE_NOTEBOOKS=0 shows the code without its output, while you write.
"""

import os
import re
import tempfile
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from mkdocs.structure.files import File
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
AT_ONCE = 2  # a notebook waits for its steps to compile, on one core
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_files(files, config):
    """Adds a page, and the figures of its cells, for each notebook."""
    paths = sorted(TUTORIALS.glob("*.ipynb"))
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    if config.extra["execute_notebooks"]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(execute, notebooks, [path.name for path in paths]))
    for path, notebook in zip(paths, notebooks, strict=True):
        text, figures = as_markdown(notebook, path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, data in figures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=data))
    return files


def execute(notebook: nbformat.NotebookNode, name: str) -> None:
    """Runs the cells in an empty folder; the first error ends the build."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        print(f"executing {name}", flush=True)
        client = NotebookClient(notebook, timeout=600, kernel_name="python3")
        client.execute(cwd=folder)


def as_markdown(notebook: nbformat.NotebookNode, stem: str) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its figures by file name."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        if cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            printed = ""
            for output in cell.outputs:
                data = output.get("data", {})
                if output.output_type == "stream":
                    log = output.name == "stderr"  # without the progress bar and its empty lines
                    printed += _without_bar(output.text) if log else output.text
                elif "image/png" in data:
                    name = f"{stem}-{len(figures) + 1}.png"
                    figures[name] = b64decode(data["image/png"])
                    alt = data.get("text/plain", "figure")
                    parts += [_printed(printed), f"![{alt}]({name})"]
                    printed = ""
                else:
                    printed += data.get("text/plain", "") + "\n"
            parts.append(_printed(printed))
    title, _, rest = parts[0].partition("\n")
    note = (
        f"[Download this notebook]({stem}.ipynb){{ download }}. "
        "Its output was made when this site was built."
    )
    return "\n\n".join([title, note, rest, *filter(None, parts[1:])]), figures


def _without_bar(text: str) -> str:
    lines = [_TERMINAL.sub("", line).split("\r")[-1].rstrip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line and " steps, " not in line)


def _printed(text: str) -> str:
    """Printed text as a block of the page."""
    return f"```{{ .text .output }}\n{text.strip(chr(10))}\n```" if text.strip() else ""
