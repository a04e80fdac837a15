"""Builds the report: sections of text, tables and figures, in reading order."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from leukjax.compare import case_figures, figures, robustness, run_facts, tables
from leukjax.compare.analysis import COMPARED, OUT_OF_FOLD, PRIMARY, Study
from leukjax.compare.checklist import checklist
from leukjax.compare.verdict import analyses_table, sample, verdict
from leukjax.report.external import external_table
from leukjax.report.page import Document, Picture, Section
from leukjax.report.subgroups import forest_figure, subgroup_table
from leukjax.report.tables import COLUMNS, Table, title_of


def make_document(study: Study) -> Document:
    """Returns the report with every section that the inputs allow."""
    candidates = [
        _scores(study),
        _comparison(study),
        _section("power", "Statistical power", tables.power_table(study)),
        _out_of_fold(study),
        _inflation(study),
        _training(study),
        _curves(study),
        _confusion(study),
        _calibration(study),
        _subjects(study),
        _subgroups(study),
        _external(study),
        _errors(study),
        _robustness(study),
        _section(
            "models",
            "Models, cost and settings",
            run_facts.cost_table(study),
            run_facts.settings_table(study),
        ),
        _flow(study),
        _section("data", "Data, split and leakage", *study.notes, run_facts.leakage_table(study)),
        _section("reproduction", "Versions and hardware", run_facts.versions_table(study)),
    ]
    sections = [section for section in candidates if section is not None]
    names = {section.name for section in sections}
    sections.append(Section("checklist", "Reporting checklists", [checklist(study, names)]))
    sections.append(Section("methods", "Methods", _methods(study)))
    about, models = study.about, len(study.entries)
    subtitle = f"{about.part}: {sample(study.test)}; classes {', '.join(about.classes)}"
    if about.positive:
        subtitle += f"; positive class {about.positive}"
    title = f"Comparison of {models} models" if models > 1 else study.entries[0].name
    return Document(f"{title} on {about.data}", subtitle, about.marks(), verdict(study), sections)


def _section(name: str, title: str, *blocks: str | Table | Picture | None) -> Section | None:
    """Returns a section with the blocks that exist; None if it would have text only."""
    kept = [block for block in blocks if block is not None]
    return Section(name, title, kept) if any(not isinstance(b, str) for b in kept) else None


def _picture(name: str, caption: str, figure: Figure | None) -> Picture | None:
    return None if figure is None else Picture(name, caption, figure)


def _scores(study: Study) -> Section | None:
    about = study.about
    scores = {entry.name: study.scores[entry.name] for entry in study.ranked}
    bars = figures.bars_figure(
        {name: model.by_image for name, model in scores.items()},
        about,
        f"Scores – {about.data}, {about.part}",
    )
    reasons = {model.no_subjects for model in scores.values()} - {""}
    by_subject: Table | str
    if reasons:
        by_subject = f"There are no scores by subject: {reasons.pop()}."
    else:
        by_subject = tables.score_table(
            study,
            scores,
            "scores_by_subject",
            "Scores by subject (mean probability of its images)",
            by_subject=True,
            baseline=study.baseline,
        )
    caption = f"Scores with their 95 % intervals by group; {sample(study.test)}."
    return _section(
        "scores",
        "Scores",
        tables.score_table(study, scores, "scores", "Scores by image", baseline=study.baseline),
        _picture("scores", caption, bars),
        by_subject,
        tables.seeds_table(study),
        tables.more_scores_table(study),
        tables.rare_table(study),
        tables.class_table(study),
    )


def _comparison(study: Study) -> Section | None:
    names = {entry.name for entry in study.ranked}
    pairs = [pair for pair in study.pairs if {pair.a, pair.b} <= names]
    return _section(
        "comparison",
        "Pairwise comparisons",
        f"The primary analysis compares {title_of(PRIMARY)} by the paired cluster permutation test;"
        " it was fixed before any result. All other analyses are secondary, and the table lists why"
        " each may differ.",
        analyses_table(study) if pairs else None,
        _picture(
            "differences",
            "Paired differences of all pairs with their intervals. p: Obuchowski's test for the"
            " AUROC of two classes, otherwise the paired cluster permutation; in brackets adjusted"
            " over all pairs of models (Holm).",
            figures.differences_figure(pairs, study.about),
        ),
        tables.comparison_table(study, pairs, "comparisons", contrast=False),
        tables.comparison_table(study, pairs, "contrast", contrast=True),
    )


def _out_of_fold(study: Study) -> Section | None:
    if not study.out_of_fold:
        return None
    return _section(
        "out_of_fold",
        "Secondary: cross-validation, out of fold",
        "Each training group was left out of one fold, and the models of that fold predicted it:"
        f" {sample(study.out_of_fold_entries[0].predictions)}, pooled over folds and averaged over"
        f" seeds. The primary analysis uses the {study.about.part} images instead:"
        f" {sample(study.test)}, predicted by the ensemble of all folds. Results differ because the"
        " images differ, because each model here was trained on fewer images, and because models of"
        " different folds share one ranking, which tends to lower the pooled AUROC.",
        tables.score_table(
            study,
            study.out_of_fold,
            "out_of_fold",
            "Scores by image",
            part=OUT_OF_FOLD,
            baseline=study.out_of_fold_baseline,
        ),
        tables.comparison_table(
            study,
            study.out_of_fold_pairs,
            "out_of_fold_comparisons",
            contrast=False,
            part=OUT_OF_FOLD,
        ),
    )


def _inflation(study: Study) -> Section | None:
    leaky = {entry.name: study.scores[entry.name] for entry in study.entries if entry.leaky}
    if not leaky or study.about.leaky:
        return None
    bars = {}
    for a, b in tables.same_architecture(study):
        bars[f"{a.name} (LEAKY split)"] = study.scores[a.name].by_image
        bars[f"{b.name} (subject split)"] = study.scores[b.name].by_image
    figure = None
    if bars:
        about = dataclasses.replace(study.about, leaky=True)
        title = f"Inflation by a leaky split – {about.data}"
        figure = figures.bars_figure(bars, about, title, COMPARED)
    return _section(
        "inflation",
        "Split: LEAKY",
        "Cells of the same subjects are in training and test of these models (a split by image, or"
        " given parts that groups cross). The"
        " scores do not apply to new subjects; the inflation is their excess over the scores of a"
        " split by subject.",
        tables.score_table(study, leaky, "leaky_scores", "LEAKY scores by image"),
        tables.inflation_table(study),
        _picture("inflation", "The same model, with a leaky split and by subject.", figure),
    )


def _training(study: Study) -> Section | None:
    caption = "Loss and accuracy over epochs; for several runs of a model, their mean and range."
    return _section(
        "training",
        "Training",
        _picture("training", caption, figures.training_figure(study.ranked, study.about)),
        tables.epochs_table(study),
        run_facts.selection_table(study),
        run_facts.trials_table(study),
    )


def _curves(study: Study) -> Section | None:
    return _section(
        "curves",
        "ROC and precision-recall curves",
        _picture("roc", "ROC curves; the bands resample groups.", figures.roc_figure(study)),
        _picture(
            "precision_recall",
            "Precision over recall; the dotted line is the share of the class.",
            figures.precision_recall_figure(study),
        ),
    )


def _confusion(study: Study) -> Section | None:
    caption = "Numbers of images by true and predicted class, with the share of the true class."
    figure = case_figures.confusion_figure(study)
    return _section("confusion", "Confusion matrices", _picture("confusion", caption, figure))


def _calibration(study: Study) -> Section | None:
    text = None
    if study.calibrated_part != study.about.part:
        images = next(iter(study.calibration.values())).before
        text = (
            "Secondary, and of other images than the scores above:"
            f" {study.calibrated_part} ({sample(images)}). Temperatures belong to single runs, and"
            f" the {study.about.part} has predictions of the ensemble only."
        )
    caption = "Reliability: on the dotted line, probabilities match the observed frequencies."
    return _section(
        "calibration",
        "Calibration",
        text,
        _picture("reliability", caption, figures.reliability_figure(study)),
        tables.calibration_table(study),
    )


def _subjects(study: Study) -> Section | None:
    caption = "Share of each subject's images that were classified correctly."
    return _section(
        "subjects",
        "Accuracy by subject",
        _picture("subjects", caption, case_figures.subjects_figure(study)),
        case_figures.subjects_table(study),
    )


def _subgroups(study: Study) -> Section | None:
    models = {name: subgroups for name, subgroups in study.subgroups.items() if subgroups.rows}
    if not models:
        return None
    overall = {name: study.scores[name].by_image for name in models}
    return _section(
        "subgroups",
        "Subgroups",
        subgroup_table(models, study.about),
        _picture(
            "subgroups",
            "Scores of each subgroup with their intervals by group.",
            forest_figure(models, overall, study.about),
        ),
    )


def _external(study: Study) -> Section | None:
    if not study.external:
        return None
    return _section("external", "External tests", external_table(study.external))


def _errors(study: Study) -> Section | None:
    rows = [case_figures.confident_errors(entry.predictions) for entry in study.ranked]
    if not any(map(len, rows)):
        return None
    source = next((entry for entry in study.ranked if entry.runs), None)
    images = None
    if source is not None:
        ids = [e.predictions.id[r] for e, r in zip(study.ranked, rows, strict=True)]
        images = case_figures.cached_images(source, ids)
    figure = None if images is None else case_figures.errors_figure(study, rows, images)
    caption = "True class → predicted class, its probability, and the subject."
    return _section(
        "mistakes",
        "Errors with the highest confidence",
        _picture("mistakes", caption, figure),
        None
        if figure
        else "No pictures: the cache of this machine does not contain the images (the records of"
        " the runs were removed, or the inputs are predictions only).",
        case_figures.errors_table(study, rows),
    )


def _robustness(study: Study) -> Section | None:
    points = {entry.name: robustness.read(entry) for entry in study.ranked}
    models = {name: of_model for name, of_model in points.items() if of_model}
    if not models:
        return None
    caption = "Score over severity, for each model's first run; severity 0 is without distortion."
    return _section(
        "robustness",
        "Robustness to distortion",
        _picture(
            "robustness",
            caption,
            robustness.robustness_figure(models, list(points), study.about),
        ),
        robustness.robustness_table(study.entries, models, study.about.data),
    )


def _flow(study: Study) -> Section | None:
    entry = next((entry for entry in study.ranked if entry.runs), None)
    figure = None
    if entry is not None:
        steps = run_facts.flow(entry.runs[0])
        figure = run_facts.flow_figure(steps, study.about, first_fold=bool(entry.folds))
    caption = "From the source to each part of the split; by class: images, and their subjects."
    return _section(
        "flow", "Data flow", _picture("flow", caption, figure), run_facts.flow_table(study)
    )


def _methods(study: Study) -> list[str]:
    groups = len(np.unique(study.test.group))
    paragraphs = [
        f"The unit of inference is the group ({groups} in {study.about.part}): cells of one subject"
        " resemble each other, and identical images join subjects. Intervals leave out one group at"
        " a time, stratified by class (jackknife CR3, t with Satterthwaite's degrees of freedom;"
        " AUROC and average precision on the logit scale). They are conditional on the trained"
        " models.",
        "Two models are compared by swapping their outputs for whole groups (all swaps up to 16"
        " groups, otherwise 10,000 at random with p = (b + 1) / (B + 1)). Further tests are"
        " Obuchowski's paired z for AUROC, the clustered McNemar test of Yang for accuracy and,"
        " over folds, the corrected resampled t test of Nadeau and Bengio. p-values are adjusted by"
        " Holm over all pairs within a score and test. A permutation of AUROC mixes the probability"
        " scales of the two models; where the scales differ it has less power than Obuchowski's"
        " test.",
        f"Scores shown: {', '.join(map(title_of, COLUMNS))}."
        " Definitions and sources: docs/howto/compare.md of leukjax.",
    ]
    if any(len(entry.runs) > 1 for entry in study.entries):
        paragraphs.insert(
            1,
            "The prediction of a model with several runs is the mean of their probabilities; the"
            " spread over runs has a table of its own. Seeds are not subjects and narrow no"
            " interval.",
        )
    return paragraphs
