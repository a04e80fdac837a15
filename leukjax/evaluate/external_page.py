"""The summary of an external test: tables and figures."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukjax.evaluate.external_result import PART, Result
from leukjax.metrics import calibration, confusion, thresholds
from leukjax.metrics.external import ExternalTest
from leukjax.metrics.intervals import METHODS, Interval
from leukjax.report.figures import draw_bins, draw_confusion
from leukjax.report.page import Document, Picture, Section
from leukjax.report.provenance import About
from leukjax.report.style import BLUE, VERMILION, entitle, style
from leukjax.report.subgroups import forest_figure, subgroup_table
from leukjax.report.tables import (
    COLUMNS,
    Cell,
    Table,
    capitalized,
    reason_notes,
    title_of,
    value_and_interval,
)

_CALIBRATION = ("loss", "brier", "ece", "ece_equal_mass")


def document(result: Result) -> Document:
    """Returns the summary with its figures."""
    test, about = result.test, result.about
    counts = test.counts
    subtitle = (
        f"{counts['images']:,} images, {counts['subjects']:,} subjects, {counts['groups']:,} groups"
        f"; runs: {', '.join(run['run'] for run in result.runs)}"
    )
    sections = [
        _scores(result),
        _classes(result),
        _prevalence(result),
        _calibration(result),
        _subgroups(result),
    ]
    title = f"External test on {about.data}"
    kept = [section for section in sections if section is not None]
    summary = [_headline(result), *result.about.warnings(), *test.on_classes(), *checks(result)]
    return Document(title, subtitle, about.marks(), summary, kept)


def _headline(result: Result) -> str:
    name = "balanced_accuracy"
    score, drop = result.test.by_image[name], result.test.drop.get(name)
    text = f"{capitalized(title_of(name))} on the external test: {_described(score)}."
    if drop is not None and result.test.own_test is not None:
        own_score = result.test.own_test.by_image[name]
        text += f" On the own test: {_described(own_score)}. Difference: {_described(drop)}."
    return text


def _described(score: Interval) -> str:
    if score.value is None:
        return f"undefined ({score.reason})"
    value, interval = value_and_interval(score)
    if not interval:
        return f"{value} (interval undefined: {score.reason})"
    return f"{value} (95 % CI {interval})"


def checks(result: Result) -> list[str]:
    """Returns what was looked for in the images, in sentences."""
    sentences = list(result.warnings)
    if result.identical:
        sentences.append(
            f"WARNING: {len(result.identical):,} images are identical to training images of the run"
            f" (first: {result.identical[0]}); the scores are too high."
        )
    elif result.not_compared:
        sentences.append(f"Not compared with the training images: {result.not_compared}.")
    else:
        sentences.append("No image is identical to a training image of the run.")
    if result.unlike is None:
        sentences.append(
            "Not checked: how many images are unlike the training images. `leukjax.predict "
            "--flag_unlike`, given the training images once (`--config.data.root=FOLDER`), makes "
            "the file that this needs."
        )
    else:
        sentences.append(
            f"{result.unlike.images:,} images ({result.unlike.share:.1%}) are unlike the training "
            "images; of the run's validation images 1 % are."
        )
    return sentences


def _scores(result: Result) -> Section:
    test = result.test
    blocks: list[str | Table | Picture] = [
        _score_table("scores", "Scores by image, class with the largest probability", test)
    ]
    if result.at_threshold is not None:
        rule = thresholds.describe(result.criterion)
        title = f"Scores by image, {test.positive} from {result.at_threshold.threshold:.4g} on"
        blocks.append(_score_table("scores_at_threshold", f"{title} ({rule})", result.at_threshold))
    if test.by_subject is None:
        blocks.append(f"There are no scores by subject: {test.no_subjects}.")
    else:
        own_scores = test.own_test.by_subject if test.own_test is not None else None
        rows: list[list[Cell]] = [
            [title_of(name), test.by_subject[name], own_scores[name] if own_scores else None]
            for name in COLUMNS
        ]
        title = f"Scores by subject (mean probability of its images) on {result.about.data}"
        header = ["score", PART, "own test"]
        blocks.append(Table("scores_by_subject", title, header, rows))
    return Section("scores", "Scores", blocks)


def _score_table(name: str, title: str, test: ExternalTest) -> Table:
    own_scores = test.own_test.by_image if test.own_test is not None else None
    shown = [name for name in COLUMNS if test.threshold is None or name in confusion.NAMES]
    rows: list[list[Cell]] = []
    for score in shown:
        drop = test.drop.get(score)
        resampled = None
        if drop is not None and drop.bootstrap is not None:
            resampled = "{:.3f} to {:.3f}".format(*drop.bootstrap).replace("-", "−")
        cells: list[Cell] = [own_scores[score] if own_scores else None, drop, resampled]
        rows.append([title_of(score), test.by_image[score], *cells])
    notes = [
        f"In brackets 95 % intervals over groups: {METHODS['jackknife']}.",
        "Difference: external test minus own test. The two have different images and groups, so its"
        " interval is made of those of both (Zou & Donner 2008). Bootstrap: groups of both"
        " resampled independently, percentiles; with fewer than 24 groups per class it is too"
        " narrow.",
    ]
    if test.own_test is None:
        notes.append(f"No own test: {test.no_own}.")
    reasons = [
        (
            f"{title_of(score)}, {what}",
            f"interval undefined: {interval.reason}" if interval.reason else "",
        )
        for score in shown
        for what, interval in (
            ("external test", test.by_image[score]),
            ("own test", own_scores[score] if own_scores else None),
        )
        if interval is not None
    ]
    notes += reason_notes(reasons)
    header = ["score", PART, "own test", "difference", "bootstrap"]
    return Table(name, f"{title}, on {test.name.removeprefix('external test on ')}", header, rows,
                 notes)  # fmt: skip


def _classes(result: Result) -> Section:
    theirs, matrix = result.test.confusion
    counts = dict(zip(theirs, matrix.sum(axis=1).tolist(), strict=True)) | dict(
        result.test.left_out
    )
    rows: list[list[Cell]] = [
        [name, result.predicted.ours_of.get(name, "") or "left out", int(count)]
        for name, count in counts.items()
    ]
    table = Table(
        "classes", "Classes of the data and of the run", ["theirs", "ours", "images"], rows,
        left=(0, 1),
    )  # fmt: skip
    picture = Picture(
        "confusion",
        "Predicted classes (columns) of the images of each class of the data (rows), with the"
        " share of the row.",
        confusion_figure(result.test, result.about),
    )
    return Section("classes", "Classes", [table, picture])


def confusion_figure(test: ExternalTest, about: About) -> Figure:
    """Draws their classes (rows) against ours (columns)."""
    theirs, matrix = test.confusion
    size = (3.2 + min(len(about.classes), 10), 2.2 + 0.6 * min(len(theirs), 16))
    with style():
        figure = Figure(figsize=size)
        axes = figure.subplots()
        entitle(figure, f"Confusion – {about.data}, {about.part}", about.marks())
        picture = draw_confusion(axes, matrix, about.classes, row_names=theirs)
        axes.set(xlabel="predicted class of the run", ylabel="class of the data", aspect="auto")
        bar = figure.colorbar(picture, ax=axes, shrink=0.8, format=PercentFormatter(1))
        bar.set_label("share of the row")
    return figure


def _prevalence(result: Result) -> Section:
    test = result.at_threshold or result.test
    shares: list[list[Cell]] = [
        [name, f"{external:.1%}", "–" if own_share is None else f"{own_share:.1%}"]
        for name, (external, own_share) in test.prevalence().items()
    ]
    blocks: list[str | Table | Picture] = [
        Table("prevalence", "Shares of the classes", ["class", PART, "own test"], shares)
    ]
    if test.at_own_prevalence:
        rows: list[list[Cell]] = [
            [title_of(name), test.by_image[name], score]
            for name, score in test.at_own_prevalence.items()
        ]
        at = "" if test.threshold is None else f", {test.positive} from {test.threshold:.4g} on"
        notes = [
            "Each image of class c counts with the weight w(c) = (share of c in the own test) /"
            " (share of c in the external test). Precision, F1 and accuracy depend on the shares;"
            " recall and specificity do not.",
        ]
        reasons = [(title_of(n), s.reason) for n, s in test.at_own_prevalence.items()]
        title = f"Scores at the prevalence of the own test{at}"
        header = ["score", "as found", "at the own prevalence"]
        blocks.append(Table("at_own_prevalence", title, header, rows,
                            [*notes, *reason_notes(reasons)]))  # fmt: skip
    return Section("prevalence", "Prevalence", blocks)


def _calibration(result: Result) -> Section:
    blocks: list[str | Table | Picture] = []
    if result.calibrated is not None:
        rows: list[list[Cell]] = [
            [name, *(values[score] for score in _CALIBRATION)]
            for name, values in result.calibrated.scores.items()
        ]
        temperatures = ", ".join(f"{t:.3f}" for t in result.calibrated.temperatures)
        notes = [f"Scaled: at the temperature fitted on validation ({temperatures})."]
        header = ["", *map(title_of, _CALIBRATION)]
        blocks.append(Table("calibration", "Calibration", header, rows, notes))
    blocks.append(
        Picture(
            "reliability",
            "Reliability: on the dotted line, probabilities match the observed frequencies.",
            reliability_figure(result),
        )
    )
    return Section("calibration", "Calibration", blocks)


def reliability_figure(result: Result) -> Figure:
    """Draws the reliability diagram, before and after temperature scaling."""
    about = result.about
    two = len(about.classes) == 2
    positive = about.classes.index(about.positive) if about.positive else 0
    p = result.predicted.predictions
    bins = int(np.clip(len(p) // 40, 3, calibration.BINS))
    with style():
        figure = Figure(figsize=(4.8, 5.2))
        axes = figure.subplots()
        entitle(figure, f"Reliability – {about.data}, {about.part}", about.marks())
        axes.plot([0, 1], [0, 1], color="#AAAAAA", lw=1, ls=":")
        sets = [("model output", p, BLUE, "o", -0.004)]
        if result.calibrated is not None:
            scaled = result.calibrated.predictions
            sets.append(("at the temperature of validation", scaled, VERMILION, "s", 0.004))
        for label, predictions, colour, marker, shift in sets:
            reliability = calibration.reliability(
                predictions.labels, predictions.probabilities, predictions.group, positive, bins
            )
            draw_bins(axes, reliability, colour, marker, label, shift)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel=f"probability of {about.positive}" if two else "largest probability",
            ylabel=f"share of {about.positive}" if two else "share of correct images",
        )
        figure.legend(
            loc="outside lower center",
            ncols=2,
            title="bins of equal numbers of images; 95 % interval by group",
            title_fontsize=8,
        )
    return figure


def _subgroups(result: Result) -> Section | None:
    subgroups = result.subgroups
    if not subgroups.rows:
        return Section("subgroups", "Subgroups", subgroups.notes) if subgroups.notes else None
    models = {PART: subgroups}
    picture = Picture(
        "subgroups",
        "Scores of each subgroup with their intervals.",
        forest_figure(models, {PART: result.test.by_image}, result.about),
    )
    return Section("subgroups", "Subgroups", [subgroup_table(models, result.about), picture])
