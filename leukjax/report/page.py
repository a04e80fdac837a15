"""Reports as one HTML file that opens offline, and as Markdown."""

import base64
import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from leukjax.report.tables import Table, value_and_interval

MAX_ROWS = 60  # of a table on the page; the CSV has all rows


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: base name of its files, and a caption that also serves as alternative text."""

    name: str
    caption: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[str | Table | Picture]


@dataclasses.dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
      title: of the page.
      subtitle: one line below the title.
      marks: warnings in two or three words.
      summary: paragraphs; the first is the headline.
      sections: in reading order.
    """

    title: str
    subtitle: str
    marks: Sequence[str]
    summary: Sequence[str]
    sections: Sequence[Section]

    def tables(self) -> list[Table]:
        """Returns all tables, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table)]

    def pictures(self) -> list[Picture]:
        """Returns all figures, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Picture)]


def html(document: Document, figures: Path) -> str:
    """Returns a document as one HTML page without references to other files.

    Args:
      document: its content.
      figures: folder that contains NAME.svg for every picture.
    """
    images = {
        picture.name: "data:image/svg+xml;base64,"
        + base64.b64encode((figures / f"{picture.name}.svg").read_bytes()).decode()
        for picture in document.pictures()
    }
    return template("page.html.jinja").render(
        document=document, images=images, max_rows=MAX_ROWS, version=metadata.version("leukjax")
    )


def template(name: str, folder: Path | None = None) -> jinja2.Template:
    """Returns a page template, which escapes what it prints.

    Args:
      name: of the template.
      folder: searched before this package, so that a template of another package can extend
        `base.html.jinja`.
    """
    folders = [Path(__file__).parent] if folder is None else [folder, Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["value_and_interval"] = value_and_interval
    return environment.get_template(name)


def markdown(document: Document) -> str:
    """Returns a document as Markdown that refers to PNG files in the folder `figures`."""
    parts = [f"# {document.title}", document.subtitle]
    parts += [f"**{mark}**" for mark in document.marks]
    parts += [f"> {paragraph}" for paragraph in document.summary]
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
