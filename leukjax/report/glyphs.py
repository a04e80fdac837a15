"""Names in figures: letters that the figure's font lacks, and labels as they are."""

import functools
from collections.abc import Sequence

from absl import logging
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

FONT = "DejaVu Sans"  # comes with matplotlib: the same on every machine
# Fonts with the letters that FONT lacks, as systems have them.
_OTHERS = (
    *(f"Noto Sans CJK {country}" for country in ("SC", "JP", "KR", "TC", "HK")),
    *(f"Noto Sans {country}" for country in ("SC", "JP", "KR", "TC", "HK")),
    *("Source Han Sans SC", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "Arial Unicode MS", "PingFang SC", "Hiragino Sans GB"),
    *("Microsoft YaHei", "SimHei", "SimSun", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("IPAGothic", "TakaoGothic", "NanumGothic", "AR PL UMing CN", "Noto Sans", "FreeSans"),
)
_warned: set[str] = set()


def legend_label(name: str) -> str:
    """A name as a legend's entry: matplotlib leaves out labels that begin with an underscore."""
    return "\u200b" + name if name.startswith("_") else name  # a space without width


def make_drawable(figure: Figure) -> None:
    """Gives every text of a figure fonts that have its letters.

    A letter that no font has is replaced by its escape, as ``\\u767d``, with one warning.
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
    # These take their texts from the axis whenever they are drawn.
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return
    labels = axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs()))
    if _missing("".join(labels), (FONT,)):
        shown, fonts = _drawable("\0".join(labels), keep="\0")
        axis.set_ticklabels(shown.split("\0"), fontfamily=fonts)


def _drawable(text: str, keep: str = "") -> tuple[str, list[str]]:
    """The text with escapes for letters that no font has, and the fonts that have the others."""
    fonts = [FONT]
    for font in _OTHERS:
        before = _missing(text, fonts)
        if not before:
            break
        if _letters(font) and len(_missing(text, [*fonts, font])) < len(before):
            fonts.append(font)
    missing = _missing(text, fonts) - set(keep)
    unseen = {x for x in missing - _warned if x.isprintable()}  # no font has control characters
    if unseen:
        _warned.update(unseen)
        logging.warning(
            "figures: no font of this machine has %s; they are written as escapes. Install one "
            "that has them, as Noto Sans CJK",
            " ".join(sorted(unseen)[:20]),
        )
    escapes = {ord(x): x.encode("unicode_escape").decode() for x in missing}
    return text.translate(escapes), fonts


def _missing(text: str, fonts: Sequence[str]) -> set[str]:
    letters = set(text) - {"\n"}
    if letters and max(letters) < "\x7f" and min(letters) >= " ":
        return set()  # nearly always
    return {x for x in letters if not any(ord(x) in _letters(font) for font in fonts)}


@functools.cache
def _letters(font: str) -> frozenset[int]:
    """The letters of a font; empty if it is not installed."""
    for entry in font_manager.fontManager.ttflist:
        if entry.name == font:
            return frozenset(font_manager.get_font(entry.fname).get_charmap())
    return frozenset()
