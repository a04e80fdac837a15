"""The report as one HTML file that opens offline, and as Markdown."""

import base64
from importlib import metadata
from pathlib import Path

import jinja2

from leukjax.compare.sections import Document, Picture
from leukjax.metrics.intervals import Interval
from leukjax.report.tables import Cell, Spread, Table, halves, shown

ROWS = 60  # of a table on the page; of longer ones the CSV has all


def html(document: Document, figures: Path) -> str:
    """One file with everything in it.

    Args:
        document: what it says.
        figures: folder with NAME.svg of every picture.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    images = {
        picture.name: "data:image/svg+xml;base64,"
        + base64.b64encode((figures / f"{picture.name}.svg").read_bytes()).decode()
        for picture in document.pictures()
    }
    return environment.get_template("page.html.jinja").render(
        document=document,
        images=images,
        halves=_halves,
        most=ROWS,
        version=metadata.version("leukjax"),
    )


def _halves(cell: Cell) -> tuple[str, str]:
    """The value of a cell, and what is small below it."""
    return halves(cell) if isinstance(cell, Interval | Spread) else (shown(cell), "")


def markdown(document: Document) -> str:
    """The same as Markdown, with the figures beside it."""
    parts = [f"# {document.title}", document.subtitle]
    parts += [f"**{mark}**" for mark in document.marks]
    parts += [f"> {paragraph}" for paragraph in document.verdict]
    for section in document.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, Table):
                parts.append(block.markdown().rstrip())
            elif isinstance(block, Picture):
                parts.append(f"![{block.caption}](figures/{block.name}.png)")
            elif block:
                parts.append(block)
    return "\n\n".join(parts) + "\n"
