"""The audit of a folder for its reader: a page with pictures, audit.json, tables on the screen."""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from leukjax.audit.folder import Audit
from leukjax.audit.shortcuts import Shortcut
from leukjax.data.duplicates import Pair
from leukjax.metrics.intervals import METHODS
from leukjax.report.glyphs import make_drawable
from leukjax.report.style import BLUE, CLASSES, GREY, MARKERS, VERMILION, style
from leukjax.report.text_tables import number, render, span
from leukjax.storage import write_atomic

SHOWN = 8  # images of a class, or pairs, in the page
DOTS = 400  # images of a class in a strip
THUMB = 96

_LOOK = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; }
figure { display: inline-block; margin: .3rem .5rem .3rem 0; vertical-align: top; width: 7rem; }
figure.pair { width: 13rem; }
figure img { height: 96px; image-rendering: pixelated; background: #eee; }
figcaption { font-size: .72rem; color: #555; overflow-wrap: anywhere; }
img.wide { width: 100%; max-width: 46rem; }
.grave { color: #B04A00; font-weight: 600; }
"""


def write_and_print(found: Audit, output: Path) -> None:
    """Write audit.html and audit.json into a folder; print the tables."""
    write_atomic(output / "audit.json", json.dumps(_as_json(found), indent=1) + "\n")
    write_atomic(output / "audit.html", _page(found))
    print("\n" + _screen(found))
    print(f"\nWrote {output / 'audit.html'} and audit.json")


def sentences(found: Audit) -> list[str]:
    """What should be known before anyone trains on this; the grave ones begin with "!"."""
    said = []
    for one in found.crossings:
        if one.pairs:
            crossing = (
                f"{one.subjects:,} of them cross subjects, {one.classes:,} classes, "
                f"{one.parts:,} official parts"
            )
            grave = "! " if one.subjects or one.classes or one.parts else ""
            said.append(f"{grave}{one.pairs:,} pairs of {one.kind} images: {crossing}.")
        else:
            said.append(f"No pairs of {one.kind} images.")
    if found.conflicts:
        shown = "; ".join(" = ".join(ids) for ids in found.conflicts[:3])
        said.append(f"! {len(found.conflicts):,} pictures carry different labels: {shown}.")
    if found.mixed_subjects:
        said.append(
            f"{found.mixed_subjects:,} subjects have images of several classes: a split must keep "
            "them whole, and no score by subject exists."
        )
    if not found.source.subjects_known:
        said.append("! No subjects are known: a split by subject cannot be made.")
    if found.skipped:
        first = found.skipped[0].reason
        said.append(f"! {len(found.skipped):,} files cannot be read as images; first: {first}.")
    told = [one for one in found.shortcuts if one.tells]
    for shortcut in told:
        score = shortcut.balanced_accuracy
        assert score is not None
        said.append(
            f"! {shortcut.name[0].upper()}{shortcut.name[1:]} ({shortcut.what}): no more is needed "
            f"to beat chance. Balanced accuracy {number(score.value)} ({span(score)}), chance "
            f"{number(shortcut.chance)}."
        )
    if not told:
        said.append("No shortcut tells the classes apart beyond chance, as far as the groups say.")
    return said


def _screen(found: Audit) -> str:
    title = f"Audit of {found.folder} ({found.source.name})"
    parts = [
        title + "\n" + "=" * len(title),
        "\n".join(found.notes),
        render(*_counts(found), left=(0, 1)),
        "Shortcuts: classes told by one number, scored on groups that it was not fitted on\n"
        + render(_SHORTCUT_HEADER, _shortcut_rows(found.shortcuts), left=(0,)),
        "\n".join(sentences(found)),
    ]
    return "\n\n".join(part for part in parts if part)


def _counts(found: Audit) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of counts; official parts only where there are any."""
    header = ["part", "class", "images", "subjects", "groups", "height x width"]
    rows = [[str(value) for value in row.values()] for row in found.counts()]
    if any(row[0] for row in rows):
        return header, rows
    return header[1:], [row[1:] for row in rows]


_LOOKS = (
    "A shortcut “tells” where its whole interval lies above chance. Eight are looked at: where "
    "there is nothing to find, one of them tells in up to one audit of five."
)
_SHORTCUT_HEADER = ["", "balanced accuracy", "95 % interval", "AUROC", "tells"]


def _shortcut_rows(found: Sequence[Shortcut]) -> list[list[str]]:
    rows = []
    for one in found:
        score, auroc = one.balanced_accuracy, one.auroc
        if score is None or auroc is None:
            rows.append([one.name, "–", one.reason, "–", "–"])
            continue
        verdict = {True: "yes", False: "no", None: "cannot tell"}[one.tells]
        rows.append([one.name, number(score.value), span(score), number(auroc.value), verdict])
    return rows


def _as_json(found: Audit) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "folder": found.folder,
        "layout": found.source.name,
        "classes": list(found.source.classes),
        "background": found.source.background,
        "subjects_known": found.source.subjects_known,
        "images": len(manifest),
        "subjects": len(np.unique(manifest.subject)),
        "groups": len(np.unique(manifest.group)),
        "formats": found.formats(),
        "counts": found.counts(),
        "notes": found.notes,
        "skipped": [dataclasses.asdict(one) for one in found.skipped],
        "duplicates": [dataclasses.asdict(one) for one in found.crossings],
        "pairs": [
            {"a": str(manifest.id[p.a]), "b": str(manifest.id[p.b]), "kind": p.kind}
            for p in found.pairs
        ],
        "conflicting_labels": found.conflicts,
        "mixed_subjects": found.mixed_subjects,
        "shortcuts": [dataclasses.asdict(one) | {"tells": one.tells} for one in found.shortcuts],
        "sentences": sentences(found),
    }


def _page(found: Audit) -> str:
    escape = html.escape
    title = f"Audit of {Path(found.folder).name or found.folder}"
    said = "".join(
        f'<li class="grave">{escape(one[2:])}</li>'
        if one.startswith("! ")
        else f"<li>{escape(one)}</li>"
        for one in sentences(found)
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    formats = ", ".join(f"{count:,} {name}" for name, count in found.formats().items())
    method = METHODS["jackknife"]
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Layout {escape(found.source.name)}; files: {escape(formats)}.</p>",
        f"<h2>What should be known</h2><ul>{said}</ul>",
        f"<h2>Counts</h2>{_table(*_counts(found))}<ul>{notes}</ul>",
        "<h2>Images of each class</h2>",
        *(_class_row(found, label) for label in range(len(found.source.classes))),
        "<h2>Like images</h2>",
        _pairs(found),
        "<h2>Shortcuts</h2>",
        "<p>Each kind of number alone in a logistic model, scored on groups that it was not"
        f" fitted on. Interval: {escape(method)}. {_LOOKS}</p>",
        _table(_SHORTCUT_HEADER, _shortcut_rows(found.shortcuts)),
        _picture(_scores_figure(found), "balanced accuracy of each shortcut"),
        _picture(_strips_figure(found), "measures by class"),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_LOOK}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def _class_row(found: Audit, label: int) -> str:
    """Images of a class from the smallest cell to the largest."""
    rows = np.flatnonzero(found.manifest.label == label)
    rows = rows[np.argsort(found.manifest.area[rows], kind="stable")]
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, SHOWN).round().astype(int))]
    name = html.escape(found.source.classes[label])
    shown = "".join(_figure([found.manifest.id[row]], [_thumb(found, row)]) for row in chosen)
    return f"<h3>{name}, from the least to the most cell</h3>{shown}"


def _pairs(found: Audit) -> str:
    if not found.pairs:
        return "<p>None.</p>"

    def crossing(pair: Pair) -> int:
        columns = (found.manifest.label, found.manifest.subject, found.manifest.phase)
        return sum(int(column[pair.a] != column[pair.b]) for column in columns)

    worst = sorted(found.pairs, key=lambda pair: -crossing(pair))[:SHOWN]
    shown = []
    for pair in worst:
        ids = [f"{found.manifest.id[row]}" for row in (pair.a, pair.b)]
        shown.append(
            _figure([f"{pair.kind}:", *ids], [_thumb(found, pair.a), _thumb(found, pair.b)])
        )
    more = len(found.pairs) - len(worst)
    return "".join(shown) + (f"<p>and {more:,} more, in audit.json</p>" if more else "")


def _figure(words: Sequence[str], pictures: Sequence[str]) -> str:
    images = "".join(f'<img src="{picture}" alt="">' for picture in pictures)
    caption = " ".join(html.escape(str(word)) for word in words)
    kind = ' class="pair"' if len(pictures) == 2 else ""
    return f"<figure{kind}>{images}<figcaption>{caption}</figcaption></figure>"


def _thumb(found: Audit, row: int) -> str:
    """A small picture of one image, as a data URI."""
    name = str(found.manifest.id[row])
    entry = next(entry for entry in found.source.entries if entry.id == name)
    image = found.source.image(entry)
    scale = THUMB / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return _uri(file.getvalue())


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _picture(figure: Figure, alt: str) -> str:
    file = io.BytesIO()
    with style():
        make_drawable(figure)
        figure.savefig(file, metadata={"Software": None})
    return f'<p><img class="wide" src="{_uri(file.getvalue())}" alt="{html.escape(alt)}"></p>'


def _scores_figure(found: Audit) -> Figure:
    """Balanced accuracy of each shortcut with its interval, and chance."""
    shown = [one for one in found.shortcuts if one.balanced_accuracy is not None]
    with style():
        figure = Figure(figsize=(6.4, 0.9 + 0.32 * max(1, len(shown))))
        axes = figure.subplots()
        for place, one in enumerate(reversed(shown)):
            score = one.balanced_accuracy
            assert score is not None
            colour = VERMILION if one.tells else BLUE
            if score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [place, place], color=colour, lw=2)
            if score.value is not None:
                axes.plot(score.value, place, "s" if one.tells else "o", color=colour)
        axes.axvline(1 / len(found.source.classes), color=GREY, ls=":", lw=1)
        axes.set_yticks(range(len(shown)), [one.name for one in reversed(shown)])
        axes.set(xlim=(0, 1.02), ylim=(-0.6, max(1, len(shown)) - 0.4))
        axes.set_xlabel("balanced accuracy out of fold (dotted: chance; squares: above it)")
    return figure


def _strips_figure(found: Audit) -> Figure:
    """Each measure's first number by class; a mark is an image."""
    names = list(found.measured)
    classes = found.source.classes
    with style():
        figure = Figure(figsize=(9.0, 1.0 + 0.9 * len(names) * max(1, len(classes)) / 3))
        for axes, name in zip(np.atleast_1d(figure.subplots(len(names), 1)), names, strict=True):
            values = found.measured[name][:, 0]
            for label in range(len(classes)):
                rows = np.flatnonzero(found.manifest.label == label)
                # Evenly from small to large, so that few marks show the whole spread.
                rows = rows[np.argsort(values[rows], kind="stable")]
                rows = rows[np.unique(np.linspace(0, len(rows) - 1, DOTS).round().astype(int))]
                scatter = 0.3 * np.sin(np.arange(len(rows)) * 2.4)  # the golden angle, as it were
                axes.plot(
                    values[rows],
                    label + scatter,
                    MARKERS[label % 6],
                    ms=2.2,
                    alpha=0.5,
                    mew=0,
                    color=CLASSES[label % 6],
                )
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
            axes.set_ylim(-0.6, len(classes) - 0.4)
            axes.tick_params(axis="x", labelsize=7)
            axes.set_title(_FIRST[name], fontsize=8, loc="left")
            axes.grid(axis="y", visible=False)
    return figure


_FIRST = {
    "area": "area: share of the image that is cell",
    "brightness": "brightness: mean grey of the cell",
    "colour": "colour: mean red of the cell",
    "shape": "shape: height of the cell's box, pixels",
    "border": "border: mean grey of the outermost pixels",
    "image size": "image size: height, pixels",
    "file size": "file size: bytes",
}
