"""How figures look, and how they become files that are the same on every run."""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from leukjax.errors import UserError
from leukjax.report.glyphs import FONT, make_drawable
from leukjax.storage import open_output, write_atomic

# Okabe & Ito: told apart with every kind of colour vision, and in print by lightness.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#6E6E6E",
)
CLASSES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":")
_SETTINGS: dict[str, Any] = {
    "font.family": FONT,
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,  # of the layout too, which must be that of the file
    "savefig.dpi": 200,
    # Identifiers inside an SVG are otherwise drawn at random.
    "svg.hashsalt": "leukjax",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Settings in force while a figure is made or saved, whatever the user's own are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its type knows only literal names
        settings.update(_SETTINGS)
        yield


def entitle(figure: Figure, text: str, marks: Sequence[str]) -> None:
    """A title with the warnings below it, wrapped to the figure's width."""
    lines = textwrap.wrap(" · ".join(marks), width=int(figure.get_figwidth() * 9))
    figure.suptitle("\n".join([text, *lines]), fontweight="bold", fontsize=10)


def save(
    figure: Figure, folder: Path, name: str, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write `name`.png and `name`.svg, without dates, so that equal data give equal bytes."""
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    for path, content in zip(paths, _encoded(figure, kinds), strict=True):
        write_atomic(path, content)
    return paths


def save_as(figure: Figure, path: Path) -> None:
    """Write a figure to the PNG or SVG file that the user named.

    Raises:
      UserError: it cannot be written.
    """
    (content,) = _encoded(figure, (path.suffix[1:],))
    try:
        with open_output(path) as file:
            file.write(content)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another") from error


def _encoded(figure: Figure, kinds: Sequence[str]) -> list[bytes]:
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    contents = []
    with style():
        make_drawable(figure)
        # Each drawing moves the layout a little: once for all, so that saving again changes
        # nothing.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in kinds:
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata=metadata[kind])
            contents.append(file.getvalue())
    return contents
