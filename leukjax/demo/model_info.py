"""The runs for the reader of the page: a line each, and the model cards."""

import dataclasses
from pathlib import Path

from markdown_it import MarkdownIt

from leukjax import storage
from leukjax.models.registry import describe
from leukjax.predict.member import Member

MAX_BYTES = 1 << 20  # of a card


@dataclasses.dataclass(frozen=True)
class Card:
    """One run.

    Attributes:
      name: of its folder.
      line: model, data, step, size.
      synthetic: trained on synthetic cells.
      html: its model card, safe to insert; "" where it has none.
    """

    name: str
    line: str
    synthetic: bool
    html: str


def card(model: Member) -> Card:
    """Read what a work directory says of its model."""
    about = model.preprocessing
    heat = f", temperature {model.temperature:.3g}" if model.temperature != 1 else ""
    return Card(
        name=model.workdir.resolve().name,
        line=f"{describe(model.config.model)} on {about['data']}, step {model.step}, "
        f"{model.image_size} px{heat}",
        synthetic=bool(about["synthetic"]),
        html=_html(model.workdir / "model_card.md"),
    )


def _html(path: Path) -> str:
    try:
        with storage.open_regular(path) as file:
            text = file.read(MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
    # HTML inside the Markdown is shown as text.
    reader = (
        MarkdownIt("commonmark", {"html": False})
        .enable("table")
        .disable(["image", "link", "autolink"])
    )
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # below the page's own headings
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        if token.attrGet("style"):  # of a cell; the page's policy takes no style from the text
            token.attrs = {"class": str(token.attrs.pop("style")).replace("text-align:", "")}
    return reader.renderer.render(tokens, reader.options, {})
