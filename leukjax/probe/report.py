"""The report of a probe: report.html, summary.md, results.json, tables and figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from leukjax.crossval import results
from leukjax.metrics import predictions
from leukjax.metrics.evaluation import Evaluation, score
from leukjax.metrics.intervals import METHODS, Interval
from leukjax.models.registry import describe
from leukjax.probe import view as views
from leukjax.probe.curves import SCORES, Point
from leukjax.probe.study import ATTENTION, Probe
from leukjax.report import page
from leukjax.report.page import Document, Picture, Section
from leukjax.report.provenance import About
from leukjax.report.style import CLASSES, LINES, MARKERS, entitle, legend_label, save, style
from leukjax.report.tables import Cell, Table, cell_text, render, title_of
from leukjax.rundir import RunDir
from leukjax.training.pretrained import RUN

BASELINE = "larger class"
_SHEET_SUBJECTS, _SHEET_CELLS = 3, 8  # subjects per class, cells per subject
_SCORES = ("accuracy", "balanced_accuracy", "weighted_f1", "f1", "auroc")


def write(probe: Probe, points: Sequence[Point], *, echo: bool) -> dict[str, Evaluation]:
    """Writes the report into the folder of the study.

    Args:
      probe: fitted.
      points: of the learning curves; () = none were asked for.
      echo: print its tables too.

    Returns:
      The scores out of fold, by the name of each head.
    """
    study, run = probe.study, RunDir(probe.study.folder)
    evaluations = {
        model: score(results.of_seed(study, model, probe.config.seed), probe.positive, name=model)
        for model in study.models
    }
    document = _document(probe, evaluations, points)
    for table in document.tables():
        run.write(f"tables/{table.name}.csv", table.csv())
        run.write(f"tables/{table.name}.tex", table.latex())
        if echo:
            print(f"\n{table.title}\n{render(table.header, table.text(), left=table.left)}")
    for picture in document.pictures():
        save(picture.figure, run.path("figures"), picture.name)
    run.write_json("results.json", _json(evaluations, points, document))
    run.write("summary.md", page.markdown(document))
    run.write("report.html", page.html(document, run.path("figures")))
    if echo:
        print("\n" + "\n".join(document.summary))
    return evaluations


def _document(
    probe: Probe, evaluations: Mapping[str, Evaluation], points: Sequence[Point]
) -> Document:
    about = _about(probe)
    sections = [Section("scores", "Scores", _score_tables(probe, evaluations, about))]
    if points:
        table, picture = _curve_table(probe, points), _curve_figure(probe, points, about)
        caption = "Scores by number of training subjects; bars: 95 % intervals."
        blocks: list[str | Table | Picture] = [table, Picture("curve", caption, picture)]
        sections.append(Section("curve", "Learning curves", blocks))
    view = views.make(probe.features, probe.records)
    sections.append(
        Section(
            "features",
            "What the features encode",
            [
                Picture("features", "Features of images by class, subject and source.",
                        views.figure(view, about)),
                *view.sentences(),
            ],
        )
    )  # fmt: skip
    sheets = [sheet for model in probe.study.models if (sheet := _sheet(probe, model, about))]
    if sheets:
        sections.append(Section("attention", "Cells with the most attention", sheets))
    return Document(
        f"Probes of {describe(probe.config.model)} on {about.data}",
        _subtitle(probe),
        about.marks(),
        [*_summary(probe, evaluations), *_leak(probe), *about.warnings()],
        sections,
    )


def _about(probe: Probe) -> About:
    records, split = probe.records, probe.splits[0]
    return About(
        data=records.name,
        part="out-of-fold",
        classes=records.classes,
        positive=probe.positive,
        synthetic=records.synthetic,
        leaky=split.leaky,
        subjects_known=records.subjects_known,
        rare=split.rare,
        groups=probe.config.split.groups,
    )


def weights_of(probe: Probe) -> str:
    """Returns what the features are of, in words."""
    facts = probe.backbone.facts
    if not facts:
        return "random weights, which are a baseline: nothing was learnt"
    return f"{facts['weights']} ({facts['layout']}, SHA-256 {facts['sha256'][:12]}…)"


def _leak(probe: Probe) -> list[str]:
    """A warning if the weights are of a run, whose training images may be tested here."""
    if probe.backbone.facts.get("layout") != RUN:
        return []
    return [
        "The weights are of a run of leukjax: if it trained on subjects of these data, the scores "
        "are too high."
    ]


def _subtitle(probe: Probe) -> str:
    folded = sum(int((split.part == "test").sum()) for split in probe.splits)
    return (
        f"{folded:,} {probe.level}s in {probe.study.folds} folds of whole subjects; "
        f"features of {weights_of(probe)}"
    )


def _summary(probe: Probe, evaluations: Mapping[str, Evaluation]) -> list[str]:
    def value(name: str) -> float:
        return evaluations[name].by_image["balanced_accuracy"].value or 0.0

    best = max(evaluations, key=value)
    interval = evaluations[best].by_image["balanced_accuracy"]
    width = probe.features.pooled.shape[1]
    return [
        f"{best} scored highest: balanced accuracy {cell_text(interval)}. No head was fitted or "
        "chosen on images that it is tested on; the best of several scores is a little too high.",
        f"Weights: {weights_of(probe)}. {width:,} features per image, standardised on the "
        "training images of each fold.",
        f"Tests between probes, and beside trained models: leukjax.compare {probe.study.folder}",
    ]


def _score_tables(probe: Probe, evaluations: Mapping[str, Evaluation], about: About) -> list[Table]:
    study = probe.study
    shown = dict(evaluations)
    shown[BASELINE] = score(results.class_frequencies(study), probe.positive)
    unit = "by subject" if probe.level == "subject" else "by image"
    tables = [_scores("scores", f"Scores out of fold, {unit}", shown, about)]
    by_subject = {name: e for name, e in shown.items() if e.by_subject is not None}
    if by_subject and probe.level == "image":
        title = "Scores out of fold, by subject (mean probability of its images)"
        tables.append(_scores("scores_by_subject", title, by_subject, about, by_subject=True))
    held_out = {
        model: score(predictions.read(file), probe.positive)
        for model in study.models
        if (file := results.held_out_file(study.folder, model)).is_file()
    }
    if held_out:
        title = f"Held-out test, {unit}: mean probability of the {study.folds} folds"
        tables.append(_scores("held_out", title, held_out, about))
    return tables


def _scores(
    name: str,
    title: str,
    evaluations: Mapping[str, Evaluation],
    about: About,
    *,
    by_subject: bool = False,
) -> Table:
    columns = [column for column in _SCORES if column != "f1" or about.positive]
    rows: list[list[Cell]] = []
    used: list[Interval] = []
    for model, evaluation in evaluations.items():
        scores = (evaluation.by_subject if by_subject else evaluation.by_image) or {}
        rows.append([model, *(scores[column] for column in columns)])
        used += [scores[column] for column in columns]
    methods = {interval.method for interval in used if interval.low is not None}
    notes = [f"95 % intervals over groups: {METHODS[m]}." for m in METHODS if m in methods]
    counts = next(iter(evaluations.values())).counts
    positive = f"; positive class {about.positive}" if about.positive else ""
    title = f"{title}: {about.data}, {counts['groups']} groups{positive}"
    return Table(name, title, ["", *map(title_of, columns)], rows, notes)


def _curve_table(probe: Probe, points: Sequence[Point]) -> Table:
    rows: list[list[Cell]] = [
        [p.model, f"{p.subjects:.3g}", f"{p.images:,.0f}", *(p.scores[name] for name in SCORES)]
        for p in sorted(points, key=lambda p: (probe.study.models.index(p.model), p.subjects))
    ]
    notes = [
        "Subjects and images: that train, mean over the folds. Smaller subsets are in larger ones, "
        "the classes in turn; the drawing is by seed. Intervals are over the tested groups and "
        "hold for this drawing.",
    ]
    header = ["", "subjects", "images", *map(title_of, SCORES)]
    return Table("curve", "Scores by number of training subjects", header, rows, notes)


def _curve_figure(probe: Probe, points: Sequence[Point], about: About) -> Figure:
    models = probe.study.models
    numbers = sorted({point.subjects for point in points})
    with style():
        figure = Figure(figsize=(7.2, 3.6 + 0.2 * -(-len(models) // 3)))
        entitle(figure, f"Learning curves – {about.data}, out of fold", about.marks())
        for axes, name in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
            for i, model in enumerate(models):
                model_points = sorted(
                    (p for p in points if p.model == model), key=lambda p: p.subjects
                )
                # Side by side: bars at equal numbers would hide each other.
                x = [p.subjects * 1.04 ** (i - (len(models) - 1) / 2) for p in model_points]
                values = [p.scores[name] for p in model_points]
                y = np.array([v.value for v in values], float)
                low = np.array([v.value if v.low is None else v.low for v in values], float)
                high = np.array([v.value if v.high is None else v.high for v in values], float)
                axes.errorbar(
                    x, y, (y - low, high - y), ls=LINES[i // 6 % 4], marker=MARKERS[i % 6], ms=4,
                    color=CLASSES[i % 6], elinewidth=0.8, label=legend_label(model),
                )  # fmt: skip
            axes.set(xscale="log", xlabel="training subjects", title=title_of(name))
            axes.set_xticks(numbers, [f"{number:.3g}" for number in numbers])
            axes.set_xticks([], minor=True)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure


def _sheet(probe: Probe, model: str, about: About) -> Picture | None:
    """The cells of some subjects with the most attention; None for a head without attention."""
    weights: dict[str, list[tuple[float, str]]] = {}
    for job in probe.study.runs(model):
        columns = ("subject", "id", "weight")
        for subject, image, weight in RunDir(probe.study.path(job)).table(ATTENTION, columns):
            weights.setdefault(subject, []).append((float(weight), image))
    if not weights:
        return None
    table = results.of_seed(probe.study, model, probe.config.seed)
    row_of = {str(name): row for row, name in enumerate(probe.records.manifest.id)}
    lines, images = [], []
    for label, name in enumerate(table.classes):
        rows = np.flatnonzero(table.labels == label)
        rows = rows[np.lexsort((table.id[rows], -table.probabilities[rows, label]))]
        for row in rows[:_SHEET_SUBJECTS]:
            subject = str(table.id[row])
            cells = sorted(weights[subject], key=lambda cell: (-cell[0], cell[1]))[:_SHEET_CELLS]
            images.append(probe.records.images(np.array([row_of[cell[1]] for cell in cells])))
            shares = [cell[0] * len(weights[subject]) for cell in cells]
            text = f"{subject}\n{name}\np = {table.probabilities[row, label]:.2f}"
            lines.append((text, shares))
    caption = (
        f"{model}: the subjects of each class with the highest probability of it, when they were "
        "tested, and their cells with the most attention. Numbers: attention in units of its mean "
        "over the subject's cells."
    )
    return Picture(f"attention_{model}", caption, _sheet_figure(lines, images, about))


def _sheet_figure(
    lines: Sequence[tuple[str, Sequence[float]]],
    images: Sequence[UInt8[np.ndarray, "n s s 3"]],
    about: About,
) -> Figure:
    with style():
        figure = Figure(figsize=(7.2, 0.6 + 1.05 * len(lines)))
        entitle(figure, f"Cells with the most attention – {about.data}", about.marks())
        grid = figure.subplots(len(lines), _SHEET_CELLS, squeeze=False)
        for (text, shares), pictures, row in zip(lines, images, grid, strict=True):
            for column, axes in enumerate(row):
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                if column < len(shares):
                    axes.imshow(pictures[column], interpolation="nearest")
                    axes.set_title(f"{shares[column]:.1f}", fontsize=7, fontweight="normal")
            row[0].set_ylabel(text, fontsize=7, rotation=0, ha="right", va="center")
    return figure


def _json(
    evaluations: Mapping[str, Evaluation], points: Sequence[Point], document: Document
) -> dict[str, Any]:
    def numbers(scores: Mapping[str, Interval] | None) -> dict[str, Any] | None:
        if scores is None:
            return None
        return {name: dataclasses.asdict(interval) for name, interval in scores.items()}

    return {
        "probes": {
            model: {"by_image": numbers(e.by_image), "by_subject": numbers(e.by_subject)}
            for model, e in evaluations.items()
        },
        "curve": [dataclasses.asdict(point) for point in points],
        "summary": list(document.summary),
    }
