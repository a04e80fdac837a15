"""The report's content, in the order in which it is read: sections of text, tables and figures."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from leukjax.compare import (
    case_figures,
    checklist,
    curve_figures,
    fact_tables,
    flow_figure,
    robustness_curves,
    score_figures,
    secondary_analyses,
    tables,
)
from leukjax.compare import thumbnails as pictures
from leukjax.compare import verdict as words
from leukjax.compare.analysis import COMPARED, PRIMARY, Study
from leukjax.compare.provenance import flow
from leukjax.report.tables import Table
from leukjax.report.text_tables import COLUMNS


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: name of its files, caption, and what it shows for who cannot see it."""

    name: str
    caption: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[str | Table | Picture]


@dataclasses.dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    subtitle: str
    marks: Sequence[str]
    verdict: Sequence[str]
    sections: Sequence[Section]

    def tables(self) -> list[Table]:
        """Every table, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table)]

    def pictures(self) -> list[Picture]:
        """Every figure, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Picture)]


def make_document(study: Study) -> Document:
    """Build every section that the inputs allow."""
    made = [
        _scores(study),
        _comparison(study),
        _power(study),
        _out_of_fold(study),
        _inflation(study),
        _training(study),
        _ranking(study),
        _confusion(study),
        _calibration(study),
        _subjects(study),
        _mistakes(study),
        _robustness(study),
        _models(study),
        _flow(study),
        _data(study),
        _reproduction(study),
    ]
    sections = [section for section in made if section is not None and section.blocks]
    names = {section.name for section in sections}
    sections.append(
        Section("checklist", "Reporting checklists", [checklist.checklist(study, names)])
    )
    sections.append(Section("methods", "Methods", _methods(study)))
    models = len(study.entries)
    title = f"{models} models on {study.about.data}" if models > 1 else study.entries[0].name
    about = f"{study.about.part}: {words.sample(study)}; classes {', '.join(study.about.classes)}"
    if study.about.positive:
        about += f"; positive class {study.about.positive}"
    return Document(
        f"Comparison of {title}" if models > 1 else f"{title} on {study.about.data}",
        about,
        study.about.marks(),
        words.verdict(study),
        sections,
    )


def _section(name: str, title: str, *blocks: str | Table | Picture | None) -> Section | None:
    kept = [block for block in blocks if block is not None]
    return Section(name, title, kept) if any(not isinstance(b, str) for b in kept) else None


def _picture(name: str, caption: str, figure: Figure | None) -> Picture | None:
    return None if figure is None else Picture(name, caption, figure)


def _scores(study: Study) -> Section | None:
    about = study.about
    shown = {entry.name: study.scored[entry.name] for entry in study.shown}
    bars = score_figures.bars_figure(
        {name: one.by_image for name, one in shown.items()},
        about,
        f"Scores – {about.data}, {about.part}",
    )
    why = {one.no_subjects for one in shown.values()} - {""}
    by_subject: Table | str
    if why:
        by_subject = f"There are no scores by subject: {why.pop()}."
    else:
        by_subject = tables.score_table(
            study, shown, "scores_by_subject",
            "Scores by subject (mean probability of its images)", by_subject=True,
            baseline=study.baseline,
        )  # fmt: skip
    return _section(
        "scores",
        "Scores",
        tables.score_table(study, shown, "scores", "Scores by image", baseline=study.baseline),
        _picture(
            "scores", f"Scores with their 95 % intervals by group; {words.sample(study)}.", bars
        ),
        by_subject,
        tables.seeds(study),
        tables.more_scores(study),
        tables.by_class(study),
    )


def _comparison(study: Study) -> Section | None:
    names = {entry.name for entry in study.shown}
    pairs = [pair for pair in study.pairs if {pair.a, pair.b} <= names]
    return _section(
        "comparison",
        "Pairwise comparisons",
        f"The primary analysis compares {PRIMARY.replace('_', ' ')} by the paired cluster"
        " permutation; it was fixed before any result. All others are secondary, and the table says"
        " why each may differ.",
        secondary_analyses.table(study) if pairs else None,
        _picture(
            "differences",
            "Paired differences of all pairs with their intervals; p of Obuchowski's test for the"
            " AUROC of two classes, else of the paired cluster permutation, in brackets adjusted"
            " over all pairs of models (Holm).",
            score_figures.differences_figure(pairs, study.about),
        ),
        tables.comparisons(study, pairs, "comparisons", contrast=False),
        tables.comparisons(study, pairs, "contrast", contrast=True),
    )


def _power(study: Study) -> Section | None:
    return _section("power", "Statistical power", tables.power_table(study))


def _out_of_fold(study: Study) -> Section | None:
    if not study.out_of_fold:
        return None
    return _section(
        "out_of_fold",
        "Secondary: cross-validation, out of fold",
        f"Every training group was left out of one fold and scored by the models that never saw it:"
        f" {secondary_analyses.sample_of(study.out_of_fold_entries[0].predictions)}, pooled over"
        f" folds and averaged over seeds. The primary analysis is of the {study.about.part}"
        f" part instead: {words.sample(study)}, scored by the ensemble of all folds."
        " Results differ because the"
        " images do, because each model here was trained on fewer images, and because models of"
        " different folds enter one ranking, which tends to lower the pooled AUROC.",
        tables.score_table(
            study,
            study.out_of_fold,
            "out_of_fold",
            "Scores by image",
            part=secondary_analyses.OUT_OF_FOLD,
            baseline=study.out_of_fold_baseline,
        ),
        tables.comparisons(
            study,
            study.out_of_fold_pairs,
            "out_of_fold_comparisons",
            contrast=False,
            part=secondary_analyses.OUT_OF_FOLD,
        ),
    )


def _inflation(study: Study) -> Section | None:
    leaky = [entry for entry in study.entries if entry.leaky]
    if not leaky or study.about.leaky:
        return None
    pairs = tables.twins(study)
    figure = None
    if pairs:
        shown = {}
        for a, b in pairs:
            shown[f"{a.name} (image split, LEAKY)"] = study.scored[a.name].by_image
            shown[f"{b.name} (subject split)"] = study.scored[b.name].by_image
        figure = score_figures.bars_figure(
            shown,
            dataclasses.replace(study.about, leaky=True),
            f"What an image split adds – {study.about.data}",
            COMPARED,
        )
    return _section(
        "inflation",
        "Image split: LEAKY",
        "These models were split by image, so cells of one subject trained and tested them. The"
        " scores answer no question about new subjects; what they exceed the honest ones by is the"
        " inflation.",
        tables.score_table(
            study,
            {entry.name: study.scored[entry.name] for entry in leaky},
            "leaky_scores",
            "LEAKY scores by image",
        ),
        tables.inflation(study),
        _picture("inflation", "The same model, split by image and by subject.", figure),
    )


def _training(study: Study) -> Section | None:
    return _section(
        "training",
        "Training",
        _picture(
            "training",
            "Loss and accuracy over epochs; where a model has several runs the line is their mean"
            " and the band their range.",
            curve_figures.training_figure(study.shown, study.about),
        ),
        tables.epochs(study),
        fact_tables.choices(study),
        fact_tables.trials(study),
    )


def _ranking(study: Study) -> Section | None:
    return _section(
        "curves",
        "ROC and precision-recall",
        _picture(
            "roc", "ROC curves; bands resample whole groups.", curve_figures.roc_figure(study)
        ),
        _picture(
            "precision_recall",
            "Precision over recall; the dotted line is the share of the class.",
            curve_figures.precision_recall_figure(study),
        ),
    )


def _confusion(study: Study) -> Section | None:
    figure = case_figures.confusion_figure(study)
    return _section(
        "confusion",
        "Confusion",
        _picture("confusion", "Images of each class, and what they were called.", figure),
    )


def _calibration(study: Study) -> Section | None:
    elsewhere = study.calibrated_part != study.about.part
    return _section(
        "calibration",
        "Calibration",
        f"Secondary, and of other images than the scores above: {study.calibrated_part}"
        f" ({secondary_analyses.sample_of(next(iter(study.calibration.values())).before)})."
        f" Temperatures belong to single runs, and the {study.about.part} part has scores"
        " of the ensemble alone."
        if elsewhere
        else None,
        _picture(
            "reliability",
            "Reliability: on the dotted line, probabilities come true as often as they say.",
            score_figures.reliability_figure(study),
        ),
        tables.calibration_table(study),
    )


def _subjects(study: Study) -> Section | None:
    return _section(
        "subjects",
        "Scores by subject",
        _picture(
            "subjects",
            "Share of each subject's images called right.",
            case_figures.subjects_figure(study),
        ),
        tables.subjects(study),
    )


def _mistakes(study: Study) -> Section | None:
    rows = [case_figures.confident_mistakes(entry.predictions) for entry in study.shown]
    if not any(len(one) for one in rows):
        return None
    source = next((entry for entry in study.shown if entry.runs), None)
    images = None
    if source is not None:
        ids = [e.predictions.id[one] for e, one in zip(study.shown, rows, strict=True)]
        images = pictures.of_ids(source, ids)
    figure = case_figures.gallery_figure(study, rows, images) if images is not None else None
    return _section(
        "mistakes",
        "Errors with the highest confidence",
        _picture(
            "mistakes",
            "True class → class called, its probability, and the subject.",
            figure,
        ),
        "" if figure else "The images are not at hand (the records of the runs are gone, or only"
        " predictions were given), so the mistakes are listed without pictures.",
        fact_tables.mistakes(study, rows),
    )  # fmt: skip


def _robustness(study: Study) -> Section | None:
    found = {
        entry.name: points for entry in study.shown if (points := robustness_curves.read(entry))
    }
    if not found:
        return None
    order = [entry.name for entry in study.shown]
    return _section(
        "robustness",
        "Robustness to distortion",
        _picture(
            "robustness",
            "Score over severity, of each model's first run; severity 0 is the image as it is.",
            robustness_curves.figure(found, order, study.about),
        ),
        fact_tables.distortion(study, found),
    )


def _models(study: Study) -> Section | None:
    return _section(
        "models",
        "Models, cost and settings",
        fact_tables.cost(study),
        fact_tables.settings(study),
    )


def _flow(study: Study) -> Section | None:
    entry = next((entry for entry in study.shown if entry.runs), None)
    figure = None
    if entry is not None:
        run, folds = entry.runs[0], bool(entry.folds)
        figure = flow_figure.figure(flow(run), study.about, first_fold=folds)
    return _section(
        "flow",
        "Data flow",
        _picture(
            "flow", "From the source to each part; by class: images of how many subjects.", figure
        ),
        fact_tables.flow(study),
    )


def _data(study: Study) -> Section | None:
    return _section("data", "Data, split, leakage", *study.notes, fact_tables.leakage(study))


def _reproduction(study: Study) -> Section | None:
    return _section("reproduction", "Versions and hardware", fact_tables.versions(study))


def _methods(study: Study) -> list[str]:
    groups = len(np.unique(study.test.group))
    several = any(len(entry.runs) > 1 for entry in study.entries)
    paragraphs = [
        f"The unit of inference is the group ({groups} in {study.about.part}): cells of one subject"
        " resemble each other, and identical images join subjects. Intervals leave out one group"
        " after the other, stratified by class (jackknife CR3, t with Satterthwaite's degrees of"
        " freedom; AUROC and average precision on the logit scale). They are conditional on the"
        " trained models.",
        "Two models are compared by swapping their outputs for whole groups (all swaps up to 16"
        " groups, else 10,000 at random with p = (b + 1) / (B + 1)). Beside it stand Obuchowski's"
        " paired z for AUROC, the clustered McNemar test of Yang for accuracy and, over folds, the"
        " corrected resampled t test of Nadeau and Bengio. p-values are adjusted by Holm over all"
        " pairs within a score and test. A permutation of AUROC puts the two models' probabilities"
        " on one scale; where the scales differ it finds less than Obuchowski's test.",
        f"Scores shown: {', '.join(name.replace(chr(10), ' ') for name in COLUMNS.values())}."
        " Definitions and sources: docs/report.md of leukjax.",
    ]
    if several:
        paragraphs.insert(
            1,
            "A model with several runs answers with the mean of their probabilities; the spread of"
            " the runs stands beside it. Seeds are no subjects and narrow no interval.",
        )
    return paragraphs
