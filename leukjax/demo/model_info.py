"""Information on the runs: one line for each, and the model cards."""

import dataclasses
from pathlib import Path

from markdown_it import MarkdownIt

from leukjax import storage
from leukjax.models.registry import describe
from leukjax.predict.member import Member

MAX_BYTES = 1 << 20  # of a card


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """One run on the page.

    Attributes:
      name: of the work directory.
      line: model, data, step, size.
      synthetic: whether it was trained on synthetic cells.
      html: its model card, safe to insert; "" if it has none.
    """

    name: str
    line: str
    synthetic: bool
    html: str


def model_info(model: Member) -> ModelInfo:
    """Reads the information on a run."""
    temperature = f", temperature {model.temperature:.3g}" if model.temperature != 1 else ""
    return ModelInfo(
        name=model.workdir.resolve().name,
        line=f"{describe(model.config.model)} on {model.preprocessing['data']}, "
        f"step {model.step}, {model.image_size} px{temperature}",
        synthetic=bool(model.preprocessing["synthetic"]),
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
        if token.type in ("heading_open", "heading_close"):  # below the headings of the page
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        if token.attrGet("style"):  # of a table cell; the page's policy allows no inline styles
            token.attrs = {"class": str(token.attrs.pop("style")).replace("text-align:", "")}
    return reader.renderer.render(tokens, reader.options, {})
