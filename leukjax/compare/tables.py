"""Builds the tables of scores, comparisons, power and calibration."""

from collections.abc import Mapping, Sequence

import numpy as np

from leukjax.compare.analysis import (
    BASELINE,
    COMPARED,
    PRIMARY,
    ModelScores,
    Pair,
    Study,
    leading_tests,
)
from leukjax.compare.figures import by_epoch
from leukjax.compare.load_results import Entry
from leukjax.compare.verdict import TEST_NAMES, disagreements, primary_tests
from leukjax.metrics import comparisons as paired
from leukjax.metrics.comparisons import INDEPENDENT, TESTS
from leukjax.metrics.intervals import METHODS, Interval
from leukjax.metrics.paired_tests import least_p
from leukjax.report.tables import (
    COLUMNS,
    Cell,
    P,
    Spread,
    Table,
    capitalized,
    reason_notes,
    title_of,
)

MORE_SCORES = ("loss", "macro_f1", "mcc", "average_precision", "sensitivity_at_95_specificity",
               "brier", "ece", "ece_equal_mass")  # fmt: skip
EPOCH_SCORES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")
CLASS_SCORES = ("precision", "recall", "specificity", "f1", "auroc")
CALIBRATION_SCORES = ("loss", "brier", "ece", "ece_equal_mass")
# Tests of one score that share its paired jackknife interval; those over folds have another one.
_SHARED_INTERVAL = ("cluster_permutation", "obuchowski", "clustered_mcnemar", "mcnemar", "delong")


def _caption_end(study: Study, part: str = "") -> str:
    """Returns data, part and positive class: the end of every caption of scores."""
    about = study.about
    marks = f" {', '.join(about.marks())}." if about.marks() else ""
    if len(about.classes) == 2:
        scores = f"positive class {about.positive}"
    else:
        present = [c for i, c in enumerate(about.classes) if part or (study.test.labels == i).any()]
        scores = f"means over {', '.join(present)}, each against the rest"
    return f"{about.data}, {part or about.part}; {scores}.{marks}"


def score_table(
    study: Study,
    scores: Mapping[str, ModelScores],
    name: str,
    title: str,
    *,
    by_subject: bool = False,
    part: str = "",
    baseline: ModelScores | None = None,
) -> Table:
    """Returns the scores with their intervals: one row per model, the baseline's last."""
    scores = {**scores, **({BASELINE: baseline} if baseline else {})}
    by_model = {model: s.by_subject if by_subject else s.by_image for model, s in scores.items()}
    rows: list[list[Cell]] = []
    intervals: list[tuple[str, str, Interval]] = []
    for model, by_score in by_model.items():
        if by_score is not None:
            rows.append(
                [model, *(by_score[score] for score in COLUMNS), by_score["accuracy"].groups]
            )
            intervals += [(model, score, by_score[score]) for score in COLUMNS]
    methods = {interval.method for *_, interval in intervals}
    used = [method for method in METHODS if method in methods]
    notes = [f"With each score its 95 % interval by group: {METHODS[m]}." for m in used[:1]]
    notes += [f"Where no group differs: {METHODS[method]}." for method in used[1:]]
    if by_subject:
        notes.append("Secondary: every subject counts once, however many images it has.")
    else:
        notes.append(
            f"{title_of(PRIMARY).capitalize()} is the primary score; all others are secondary."
        )
    if baseline:
        notes.append(f"{BASELINE}: every image gets the class frequencies of the training images.")
    notes += reason_notes(
        (f"{title_of(score)} of {model}", interval.reason) for model, score, interval in intervals
    )
    header = ["", *map(title_of, COLUMNS), "groups"]
    return Table(name, f"{title} on {_caption_end(study, part)}", header, rows, notes)


def more_scores_table(study: Study) -> Table:
    """Returns the other scores, among them those of the probabilities."""
    rows: list[list[Cell]] = [
        [model, *(scores.by_image[name] for name in MORE_SCORES)]
        for model, scores in study.scores.items()
    ]
    notes = reason_notes(
        (f"{title_of(name)} of {model}", scores.by_image[name].reason)
        for model, scores in study.scores.items()
        for name in MORE_SCORES
    )
    header = ["", *map(title_of, MORE_SCORES)]
    title = f"Further scores on {_caption_end(study)}"
    return Table("more_scores", title, header, rows, notes)


def rare_table(study: Study) -> Table | None:
    """Returns the macro scores without the rare classes; None if there are none."""
    rare = study.about.rare
    rows: list[list[Cell]] = [
        [model, title_of(name), without, scores.by_image[name]]
        for model, scores in study.scores.items()
        for name, without in scores.without_rare.items()
    ]
    if not rows:
        return None
    names = ", ".join(rare)
    header = ["", "score", "without", "with"]
    notes = [f"Classes with few groups, which parts of the split may lack: {names}."]
    title = f"Macro scores without {names} on {_caption_end(study)}"
    return Table("rare_classes", title, header, rows, notes, left=(0, 1))


def class_table(study: Study) -> Table:
    """Returns the scores of each class against the rest."""
    rows: list[list[Cell]] = [
        [
            model,
            name,
            *(by_score[score] for score in CLASS_SCORES),
            int(scores.values.by_class[name]["images"] or 0),
            by_score["recall"].groups,
        ]
        for model, scores in study.scores.items()
        for name, by_score in scores.by_class.items()
    ]
    header = ["", "class", *map(title_of, CLASS_SCORES), "images", "groups"]
    title = f"Scores by class, each against the rest, on {study.about.data}, {study.about.part}"
    notes = [
        "With each score its 95 % interval by group; images and groups are those of the class."
    ]
    notes += reason_notes(
        (f"{title_of(score)} of {name}, {model}", by_score[score].reason)
        for model, scores in study.scores.items()
        for name, by_score in scores.by_class.items()
        for score in CLASS_SCORES
    )
    return Table("scores_by_class", title, header, rows, notes, left=(0, 1))


def epochs_table(study: Study) -> Table | None:
    """Returns training and validation at epochs 1, 10, 20 … and at the chosen epoch."""
    trained = [entry for entry in study.with_runs if not entry.is_probe]
    rows = [row for entry in trained for row in _epoch_rows(entry)]
    if not rows:
        return None
    header = ["", "epoch", "training loss", "loss", *map(title_of, EPOCH_SCORES)]
    notes = ["All columns but the training loss are of validation; means over the runs of a model."]
    title = f"Epochs 1, 10, 20 … and the chosen ones on {study.about.data}, validation"
    return Table("epochs", title, header, rows, notes, left=(0, 1))


def _epoch_rows(entry: Entry) -> list[list[Cell]]:
    columns = [by_epoch(entry, "train", "loss")]
    columns += [by_epoch(entry, "val", name) for name in ("loss", *EPOCH_SCORES)]
    available, _ = columns[1]
    chosen = [float(run.summary["epoch_chosen"]) for run in entry.runs]
    rows: list[list[Cell]] = [
        [entry.name, f"{e:g}", *(_mean_at(*column, [e] * len(chosen)) for column in columns)]
        for e in available
        if e == 1 or e % 10 == 0
    ]
    text = ", ".join(f"{e:g}" for e in chosen[:6]) + (", …" if len(chosen) > 6 else "")
    values = [_mean_at(*column, chosen) for column in columns]
    return [*rows, [entry.name, f"chosen ({text})", *values]]


def _mean_at(epochs: np.ndarray, values: np.ndarray, at: Sequence[float]) -> float | None:
    """Returns the mean over runs of the value at each run's epoch."""
    defined = []
    for run, epoch in enumerate(at):
        index = np.flatnonzero(np.isclose(epochs, epoch, atol=1e-3))
        if len(index) and not np.isnan(values[run, index[0]]):
            defined.append(values[run, index[0]])
    return float(np.mean(defined)) if defined else None


def seeds_table(study: Study) -> Table | None:
    """Returns the spread over runs, for models with several runs on the same images."""
    rows: list[list[Cell]] = []
    for model, scores in study.scores.items():
        if len(scores.seeds) > 1:
            values = np.array([[s.values[name] for name in COLUMNS] for s in scores.seeds], float)
            rows.append([model, len(values), *map(_spread, values.T)])
    if not rows:
        return None
    return Table(
        "seeds",
        f"Spread over runs on {_caption_end(study)}",
        ["", "runs", *map(title_of, COLUMNS)],
        rows,
        [
            "Mean and standard deviation of single runs (all values: results.json). The score"
            " tables are of the ensemble, the mean of their probabilities. Seeds are not subjects:"
            " no interval includes them."
        ],
    )


def _spread(values: np.ndarray) -> Spread:
    """Returns mean and deviation of the runs whose score is defined."""
    defined = values[~np.isnan(values)]
    return Spread(
        float(defined.mean()) if len(defined) else None,
        float(defined.std(ddof=1)) if len(defined) > 1 else None,
        len(defined),
        len(values),
    )


def comparison_table(
    study: Study, pairs: Sequence[Pair], name: str, *, contrast: bool, part: str = ""
) -> Table | None:
    """Returns the paired tests; for `contrast` those that assume independent images."""
    pairs = [pair for pair in pairs if (pair.result.test in INDEPENDENT) is contrast]
    if not pairs:
        return None
    pairs = sorted(pairs, key=lambda pair: not pair.primary)
    leading = leading_tests(pairs)
    rows: list[list[Cell]] = []
    for pair in pairs:
        result = pair.result
        shared = result.test in _SHARED_INTERVAL
        # A shared interval is printed once, beside the test that belongs to it.
        low, high = (None, None) if shared and pair not in leading else (result.low, result.high)
        rows.append(
            [
                pair.role,
                pair.a,
                pair.b,
                title_of(result.score),
                TEST_NAMES[result.test],
                Interval(result.difference, low, high, "jackknife", result.groups),
                result.statistic,
                None if result.p is None else P(result.p),
                None if pair.p_holm is None else P(pair.p_holm),
                result.groups if shared else f"{result.groups} folds",
            ]
        )
    notes = []
    if not contrast:
        notes = ["With each difference its 95 % interval, beside the test that belongs to it."]
        notes += [note] if (note := disagreements(leading)) else []
    tests = dict.fromkeys(pair.result.test for pair in pairs)
    notes += [f"{capitalized(TEST_NAMES[test])}: {TESTS[test]}." for test in tests]
    notes += dict.fromkeys(
        f"{title_of(pair.result.score)}, {pair.a} and {pair.b}: {pair.result.reason}."
        for pair in pairs
        if pair.result.reason
    )
    title = (
        "Tests that ASSUME INDEPENDENT IMAGES (for contrast only)" if contrast else "Paired tests"
    )
    header = ["analysis", "a", "b", "score", "test", "a − b", "statistic", "p", "p (Holm)",
              "groups"]  # fmt: skip
    title = f"{title} on {_caption_end(study, part)}"
    return Table(name, title, header, rows, notes, left=(0, 1, 2, 3, 4))


def power_table(study: Study) -> Table | None:
    """Returns the detectable differences of the primary score, by number of groups."""
    groups = len(np.unique(study.test.group))
    rows: list[list[Cell]] = []
    numbers: list[int] = []
    for pair in primary_tests(study):
        result = pair.result
        if result.error is None or result.df is None or result.difference is None:
            continue
        lines = paired.power_table(result.error, result.df, groups)
        numbers = [line.groups for line in lines]
        needed = paired.groups_needed(result.difference, result.error, result.df, groups)
        possible = [line.detectable if line.detectable <= 1 else None for line in lines]
        rows.append([f"{pair.a} and {pair.b}", result.difference, *possible, needed])
    if not rows:
        return None
    columns = [f"{n} groups" + (" (this study)" if n == groups else "") for n in numbers]
    return Table(
        "power",
        f"Detectable differences in {title_of(PRIMARY)} on {study.about.data}, {study.about.part}",
        ["", "observed difference", *columns, "groups needed"],
        rows,
        [
            "Under each number of groups: the true difference that a two-sided test at 5 % detects"
            " with a probability of 80 %, from the spread over groups in this study; a dash: none.",
            "Groups needed: number of groups like these that would detect a difference as large as"
            " the observed one; a dash for more than a million.",
            f"A paired permutation of {groups} groups gives no p below {least_p(groups):.2g}.",
        ],
    )


def calibration_table(study: Study) -> Table:
    """Returns the scores of the probabilities before and after temperature scaling."""
    rows: list[list[Cell]] = []
    for model, result in study.calibration.items():
        before, after = result.scores_before, result.scores_after
        temperatures = ", ".join(f"{t:.3f}" for t in result.temperatures) or None
        rows.append([model, "as given", None, *(before.values[n] for n in CALIBRATION_SCORES)])
        if after is not None:
            values = [after.values[n] for n in CALIBRATION_SCORES]
            rows.append([model, "scaled", temperatures, *values])
    header = ["", "probabilities", "temperature", *map(title_of, CALIBRATION_SCORES)]
    notes = [
        "Temperature: fitted on the validation images of each run, never on test; above 1 the model"
        " was overconfident. It changes no predicted class of a single run."
    ]
    title = f"Calibration on {study.about.data}, {study.calibrated_part}"
    return Table("calibration", title, header, rows, notes, left=(0, 1, 2))


def inflation_table(study: Study) -> Table | None:
    """Returns the scores of models with a leaky split and with a split by subject."""
    rows: list[list[Cell]] = []
    for leaky, subject_wise in same_architecture(study):
        for score in COMPARED:
            a = study.scores[leaky.name].by_image[score]
            b = study.scores[subject_wise.name].by_image[score]
            gain = None if a.value is None or b.value is None else a.value - b.value
            rows.append([f"{leaky.name} / {subject_wise.name}", title_of(score), a, b, gain])
    if not rows:
        return None
    return Table(
        "inflation",
        f"Inflation by a leaky split on {study.about.data}",
        ["leaky split / split by subject", "score", "LEAKY", "by subject", "inflation"],
        rows,
        ["The two were tested on different images of the same data, so no paired test applies."],
        left=(0, 1),
    )


def same_architecture(study: Study) -> list[tuple[Entry, Entry]]:
    """Returns pairs of a leaky and a subject-wise split model of the same architecture."""

    def architecture(entry: Entry) -> object:
        return entry.runs[0].config["model"] if entry.runs else entry.name

    return [
        (leaky, subject_wise)
        for leaky in study.entries
        if leaky.leaky
        for subject_wise in study.entries
        if not subject_wise.leaky and architecture(leaky) == architecture(subject_wise)
    ]
