"""The report on a folder of images: audit.html, audit.json, and tables on the screen."""

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from leukjax.audit.folder import Audit
from leukjax.audit.shortcuts import MEASURES, Shortcut
from leukjax.data.duplicates import Pair
from leukjax.data.source import WARNING
from leukjax.metrics.intervals import METHODS
from leukjax.report.style import BLUE, CLASSES, GREY, MARKERS, VERMILION, make_drawable, style
from leukjax.report.tables import number, render, span
from leukjax.storage import write_atomic

SHOWN = 8  # images per class, and pairs, on the page
DOTS = 400  # images per class in a chart
THUMBNAIL = 96  # pixels
_KINDS = {"bytes": "identical files", "pixels": "identical pixels", "near": "nearly identical"}

_MULTIPLICITY = (
    f"A shortcut is above chance if its whole interval is. {len(MEASURES) + 1} are tested: in data "
    "without any shortcut, at least one of them is above chance in up to one audit of five."
)


class Thumbnail(NamedTuple):
    """A small picture of an image, as a data URI."""

    id: str
    uri: str


def write_and_print(audit: Audit, output: Path) -> None:
    """Writes audit.html and audit.json into a folder; prints the tables."""
    write_atomic(output / "audit.json", json.dumps(_json(audit), indent=1) + "\n")
    write_atomic(output / "audit.html", _page(audit))
    print("\n" + _text(audit))
    print(f"\nWrote {output / 'audit.html'} and audit.json")


def _note_lines(audit: Audit) -> list[str]:
    """The notes as text; warnings start with "! "."""
    return [("! " if note.level == WARNING else "") + note.text for note in audit.notes()]


def _text(audit: Audit) -> str:
    title = f"Audit of {audit.folder} ({audit.source.name})"
    sections = [
        title + "\n" + "=" * len(title),
        "\n".join(map(str, audit.data_notes)),
        render(*_counts_table(audit), left=(0, 1)),
        "Shortcuts: classes predicted from one measure, scored on groups not used for fitting\n"
        + render(*_shortcut_table(audit.shortcuts), left=(0,)),
        _attributes_text(audit),
        "\n".join(_note_lines(audit)),
    ]
    return "\n\n".join(section for section in sections if section)


def _attributes_text(audit: Audit) -> str:
    if not audit.associations:
        return ""
    parts = ["Attributes and the class", render(*_association_table(audit))]
    if audit.source_shortcuts:
        parts += ["", "Source predicted from one measure, scored on groups not used for fitting"]
        parts.append(render(*_shortcut_table(audit.source_shortcuts), left=(0,)))
    return "\n".join(parts)


def _association_table(audit: Audit) -> tuple[list[str], list[list[str]]]:
    header = ["attribute", "values", "images", "groups", "Cramér's V"]
    rows = [
        [a.attribute, str(a.values), f"{a.images:,}", f"{a.groups:,}", a.reason]
        if a.cramers_v is None
        else [a.attribute, str(a.values), f"{a.images:,}", f"{a.groups:,}", number(a.cramers_v)]
        for a in audit.associations
    ]
    return header, rows


def _counts_table(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the column of official parts only if there are any."""
    header = ["part", "class", "images", "subjects", "groups", "height x width"]
    rows = [[str(value) for value in row.values()] for row in audit.counts()]
    if any(row[0] for row in rows):
        return header, rows
    return header[1:], [row[1:] for row in rows]


def _shortcut_table(shortcuts: Sequence[Shortcut]) -> tuple[list[str], list[list[str]]]:
    header = ["", "balanced accuracy", "95 % interval", "AUROC", "above chance"]
    rows = []
    for shortcut in shortcuts:
        score, auroc = shortcut.balanced_accuracy, shortcut.auroc
        if score is None or auroc is None:
            rows.append([shortcut.name, "–", shortcut.reason, "–", "–"])
            continue
        verdict = {True: "yes", False: "no", None: "cannot tell"}[shortcut.is_above_chance]
        values = [number(score.value), span(score), number(auroc.value)]
        rows.append([shortcut.name, *values, verdict])
    return header, rows


def _json(audit: Audit) -> dict[str, Any]:
    manifest = audit.manifest
    return {
        "folder": audit.folder,
        "layout": audit.source.name,
        "classes": list(audit.source.classes),
        "background": audit.source.background,
        "subjects_known": audit.source.subjects_known,
        "images": len(manifest),
        "subjects": len(np.unique(manifest.subject)),
        "groups": len(np.unique(manifest.group)),
        "formats": audit.formats(),
        "counts": audit.counts(),
        "notes": list(map(str, audit.data_notes)),
        "skipped": [dataclasses.asdict(file) for file in audit.skipped],
        "duplicates": [dataclasses.asdict(crossings) for crossings in audit.crossings],
        "pairs": [
            {"a": str(manifest.id[p.a]), "b": str(manifest.id[p.b]), "kind": p.kind}
            for p in audit.pairs
        ],
        "conflicting_labels": audit.conflicts,
        "mixed_subjects": audit.mixed_subjects,
        "shortcuts": [
            dataclasses.asdict(shortcut) | {"tells": shortcut.is_above_chance}
            for shortcut in audit.shortcuts
        ],
        "attributes": [dataclasses.asdict(association) for association in audit.associations],
        "source_shortcuts": [
            dataclasses.asdict(shortcut) | {"tells": shortcut.is_above_chance}
            for shortcut in audit.source_shortcuts
        ],
        "sentences": _note_lines(audit),
    }


def _page(audit: Audit) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    thumbnails = _Thumbnails(audit)
    return environment.get_template("folder_page.html.jinja").render(
        title=f"Audit of {Path(audit.folder).name or audit.folder}",
        audit=audit,
        counts=_counts_table(audit),
        classes=[
            (name, [thumbnails[row] for row in _examples(audit, label)])
            for label, name in enumerate(audit.source.classes)
        ],
        pairs=[(_KINDS[p.kind], thumbnails[p.a], thumbnails[p.b]) for p in _worst_pairs(audit)],
        method=METHODS["jackknife"],
        multiplicity=_MULTIPLICITY,
        shortcuts=_shortcut_table(audit.shortcuts),
        associations=_association_table(audit),
        sources=_shortcut_table(audit.source_shortcuts),
        scores_chart=_chart_uri(_scores_figure(audit)),
        measures_chart=_chart_uri(_measures_figure(audit)),
    )


def _examples(audit: Audit, label: int) -> np.ndarray:
    """Rows of images of a class, evenly from the smallest cell to the largest."""
    return _evenly(np.flatnonzero(audit.manifest.label == label), audit.manifest.area, SHOWN)


def _evenly(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` of the rows, evenly spaced in the order of their values."""
    rows = rows[np.argsort(values[rows], kind="stable")]
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]


def _worst_pairs(audit: Audit) -> list[Pair]:
    """Returns a few pairs of duplicates, those across subjects, classes and parts first."""
    columns = (audit.manifest.label, audit.manifest.subject, audit.manifest.phase)
    crossings = {
        pair: sum(int(column[pair.a] != column[pair.b]) for column in columns)
        for pair in audit.pairs
    }
    return sorted(audit.pairs, key=lambda pair: -crossings[pair])[:SHOWN]


class _Thumbnails:
    """Row of the manifest -> thumbnail."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._entries = {entry.id: entry for entry in audit.source.entries}

    def __getitem__(self, row: int) -> Thumbnail:
        name = str(self._audit.manifest.id[row])
        image = self._audit.source.image(self._entries[name])
        scale = THUMBNAIL / max(image.shape[:2])
        if scale < 1:
            size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return Thumbnail(name, _uri(file.getvalue()))


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chart_uri(figure: Figure) -> str:
    file = io.BytesIO()
    with style():
        make_drawable(figure)
        figure.savefig(file, metadata={"Software": None})
    return _uri(file.getvalue())


def _scores_figure(audit: Audit) -> Figure:
    """Balanced accuracy of each shortcut with its interval, and chance."""
    shown = [s for s in reversed(audit.shortcuts) if s.balanced_accuracy is not None]
    with style():
        figure = Figure(figsize=(6.4, 0.9 + 0.32 * max(1, len(shown))))
        axes = figure.subplots()
        for y, shortcut in enumerate(shown):
            score = shortcut.balanced_accuracy
            assert score is not None
            colour, marker = (VERMILION, "s") if shortcut.is_above_chance else (BLUE, "o")
            if score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [y, y], color=colour, lw=2)
            if score.value is not None:
                axes.plot(score.value, y, marker, color=colour)
        axes.axvline(1 / len(audit.source.classes), color=GREY, ls=":", lw=1)
        axes.set_yticks(range(len(shown)), [shortcut.name for shortcut in shown])
        axes.set(xlim=(0, 1.02), ylim=(-0.6, max(1, len(shown)) - 0.4))
        axes.set_xlabel(
            "balanced accuracy out of fold (dotted line: chance; squares: above chance)"
        )
    return figure


def _measures_figure(audit: Audit) -> Figure:
    """The first number of each measure by class; one mark per image."""
    names = list(audit.measured)
    classes = audit.source.classes
    with style():
        height = 0.5 + len(names) * (0.55 + 0.18 * len(classes))
        figure = Figure(figsize=(6.4, height))
        for axes, name in zip(np.atleast_1d(figure.subplots(len(names), 1)), names, strict=True):
            values = audit.measured[name][:, 0]
            for label in range(len(classes)):
                rows = _evenly(np.flatnonzero(audit.manifest.label == label), values, DOTS)
                jitter = 0.3 * np.sin(np.arange(len(rows)) * 2.4)
                axes.plot(
                    values[rows],
                    label + jitter,
                    MARKERS[label % 6],
                    ms=2.5,
                    alpha=0.5,
                    mew=0,
                    color=CLASSES[label % 6],
                )
            axes.set_yticks(range(len(classes)), classes, fontsize=7)
            axes.set_ylim(-0.6, len(classes) - 0.4)
            axes.tick_params(axis="x", labelsize=7)
            axes.set_title(_CHART_TITLES[name], fontsize=8, loc="left")
            axes.grid(axis="y", visible=False)
    return figure


_CHART_TITLES = {
    "area": "area: share of the image that is cell",
    "brightness": "brightness: mean grey of the cell",
    "colour": "colour: mean red of the cell",
    "shape": "shape: height of the cell's box, pixels",
    "border": "border: mean grey of the outermost pixels",
    "image size": "image size: height, pixels",
    "file size": "file size: bytes",
}
