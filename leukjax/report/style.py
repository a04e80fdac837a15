"""The look of figures, fonts for the letters in them, and files that are the same on every run."""

import contextlib
import functools
import io
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from absl import logging
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from leukjax.errors import UserError
from leukjax.storage import open_output, write_atomic

# Okabe & Ito: distinguishable with every kind of colour vision, and in print by lightness.
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
FONT = "DejaVu Sans"  # part of matplotlib, so the same on every machine
# Common fonts with letters that FONT lacks.
_OTHER_FONTS = (
    *(f"Noto Sans CJK {country}" for country in ("SC", "JP", "KR", "TC", "HK")),
    *(f"Noto Sans {country}" for country in ("SC", "JP", "KR", "TC", "HK")),
    *("Source Han Sans SC", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "Arial Unicode MS", "PingFang SC", "Hiragino Sans GB"),
    *("Microsoft YaHei", "SimHei", "SimSun", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("IPAGothic", "TakaoGothic", "NanumGothic", "AR PL UMing CN", "Noto Sans", "FreeSans"),
)
_warned: set[str] = set()  # letters that a warning has named
_SETTINGS: dict[str, Any] = {
    "font.family": FONT,
    "text.parse_math": False,  # a name may contain dollar signs
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
    "figure.dpi": 200,  # the layout must use the resolution of the file
    "savefig.dpi": 200,
    # Without a salt, identifiers inside an SVG are random.
    "svg.hashsalt": "leukjax",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Applies the settings of all figures, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its type accepts only literal names
        settings.update(_SETTINGS)
        yield


def entitle(figure: Figure, text: str, marks: Sequence[str]) -> None:
    """Sets a title with the warnings below it, wrapped to the figure's width."""
    lines = textwrap.wrap(" · ".join(marks), width=int(figure.get_figwidth() * 9))
    figure.suptitle("\n".join([text, *lines]), fontweight="bold", fontsize=10)


def save(
    figure: Figure, folder: Path, name: str, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Writes `name`.png and `name`.svg without dates, so that equal data give equal bytes."""
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    for path, content in zip(paths, _encoded(figure, kinds), strict=True):
        write_atomic(path, content)
    return paths


def save_as(figure: Figure, path: Path) -> None:
    """Writes a figure to the PNG or SVG file that the user named.

    Raises:
      UserError: the file cannot be written.
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
        # Each drawing changes the layout: after the first one, labels beside images may still be
        # cut. Then it is fixed, so that saving again changes nothing.
        figure.draw_without_rendering()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in kinds:
            file = io.BytesIO()
            figure.savefig(file, format=kind, metadata=metadata[kind])
            contents.append(file.getvalue())
    return contents


def legend_label(name: str) -> str:
    """Returns a name as a legend's entry: matplotlib omits labels that begin with an underscore."""
    return "\u200b" + name if name.startswith("_") else name  # zero-width space


def make_drawable(figure: Figure) -> None:
    """Sets fonts that contain the letters of each text of a figure.

    A letter that no font contains is replaced by its escape, such as ``\\u767d``, with one warning.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _make_ticks_drawable(axis)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if _missing(text.get_text(), (FONT,)):
            shown, fonts = _drawable(text.get_text())
            text.set_text(shown)
            text.set_fontfamily(fonts)


def _make_ticks_drawable(axis: Axis) -> None:
    # Tick labels take their text from the axis each time they are drawn.
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return
    labels = axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs()))
    if _missing("".join(labels), (FONT,)):
        shown, fonts = _drawable("\0".join(labels), keep="\0")
        axis.set_ticklabels(shown.split("\0"), fontfamily=fonts)


def _drawable(text: str, keep: str = "") -> tuple[str, list[str]]:
    """Returns the text with escapes for letters that no font contains, and fonts for the others."""
    fonts = [FONT]
    for font in _OTHER_FONTS:
        before = _missing(text, fonts)
        if not before:
            break
        if _letters(font) and len(_missing(text, [*fonts, font])) < len(before):
            fonts.append(font)
    missing = _missing(text, fonts) - set(keep)
    to_name = {x for x in missing - _warned if x.isprintable()}  # no font has control characters
    if to_name:
        _warned.update(to_name)
        logging.warning(
            "figures: no font of this machine contains %s; escapes are written instead. Install a "
            "font that contains them, such as Noto Sans CJK",
            " ".join(sorted(to_name)[:20]),
        )
    escapes = {ord(x): x.encode("unicode_escape").decode() for x in missing}
    return text.translate(escapes), fonts


def _missing(text: str, fonts: Sequence[str]) -> set[str]:
    letters = set(text) - {"\n"}
    if letters and max(letters) < "\x7f" and min(letters) >= " ":
        return set()  # the common case, without a look at any font
    return {x for x in letters if not any(ord(x) in _letters(font) for font in fonts)}


@functools.cache
def _letters(font: str) -> frozenset[int]:
    """Returns the letters of a font; empty if it is not installed."""
    for entry in font_manager.fontManager.ttflist:
        if entry.name == font:
            return frozenset(font_manager.get_font(entry.fname).get_charmap())
    return frozenset()
