"""The tables of the report, from the numbers of the study."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from leukjax.compare import baseline as baseline_names
from leukjax.compare.analysis import COMPARED, PRIMARY, Pair, Scored, Study, leading_tests
from leukjax.compare.curve_figures import by_epoch
from leukjax.compare.load_results import Entry
from leukjax.compare.score_figures import title_of
from leukjax.compare.secondary_analyses import TESTS_NAMED, disagreements
from leukjax.compare.verdict import primary_tests
from leukjax.metrics import comparisons as paired
from leukjax.metrics.comparisons import INDEPENDENT, TESTS, groups_needed
from leukjax.metrics.intervals import METHODS, Interval
from leukjax.metrics.paired_tests import least_p
from leukjax.metrics.scores import predicted_class
from leukjax.report.tables import Cell, P, Spread, Table
from leukjax.report.text_tables import COLUMNS

MORE = ("loss", "macro_f1", "mcc", "average_precision", "sensitivity_at_95_specificity",
        "brier", "ece", "ece_equal_mass")  # fmt: skip
EPOCH_SCORES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")


def of_whom(study: Study, part: str = "") -> str:
    """Data, part and positive class: the ending of every caption of scores."""
    about = study.about
    marks = f" {', '.join(about.marks())}." if about.marks() else ""
    if len(about.classes) == 2:
        speaks = f"positive class {about.positive}"
    else:
        speaks = f"means over {', '.join(about.classes)}, each against the rest"
    return f"{about.data}, {part or about.part}; {speaks}.{marks}"


def score_table(
    study: Study,
    scored: Mapping[str, Scored],
    name: str,
    what: str,
    *,
    by_subject: bool = False,
    part: str = "",
    baseline: Scored | None = None,
) -> Table:
    """The scores with their intervals, one row per model, and the baseline's last."""
    scored = {**scored, **({baseline_names.NAME: baseline} if baseline else {})}
    found = {model: one.by_subject if by_subject else one.by_image for model, one in scored.items()}
    rows: list[list[Cell]] = [
        [model, *(each[score] for score in COLUMNS), each["accuracy"].groups]
        for model, each in found.items()
        if each is not None
    ]
    shown = [
        (model, score, one[score])
        for model, one in found.items()
        if one is not None
        for score in COLUMNS
    ]
    used = [method for method in METHODS if any(i.method == method for *_, i in shown)]
    notes = [
        f"With each score its 95 % interval by group: {METHODS[method]}." for method in used[:1]
    ]
    notes += [f"Where no group differs: {METHODS[method]}." for method in used[1:]]
    if by_subject:
        notes.append("Secondary: every subject counts once, however many images it has.")
    else:
        notes.append(f"{title_of(PRIMARY).capitalize()} is the primary score, all others are"
                     " secondary.")  # fmt: skip
    notes += [baseline_names.NOTE] if baseline else []
    notes += _reasons(
        (f"{title_of(score)} of {model}", interval.reason) for model, score, interval in shown
    )
    header = ["", *(title_of(score) for score in COLUMNS), "groups"]
    return Table(name, f"{what} on {of_whom(study, part)}", header, rows, notes)


def more_scores(study: Study) -> Table:
    """The other scores, and what probabilities are worth."""
    titles = ["", *(title_of(score) for score in MORE)]
    rows: list[list[Cell]] = [
        [model, *(one.by_image[score] for score in MORE)] for model, one in study.scored.items()
    ]
    notes = _reasons(
        (f"{title_of(score)} of {model}", one.by_image[score].reason)
        for model, one in study.scored.items()
        for score in MORE
    )
    return Table("more_scores", f"Further scores on {of_whom(study)}", titles, rows, notes)


def _reasons(found: Iterable[tuple[str, str]], most: int = 4) -> list[str]:
    """Why something is missing: a sentence a reason, with the first places where it holds."""
    places: dict[str, list[str]] = {}
    for place, reason in found:
        if reason:
            places.setdefault(reason, []).append(place)
    return [
        f"{reason[0].upper()}{reason[1:]} ({', '.join(of[:most])}{', …' * (len(of) > most)})."
        for reason, of in places.items()
    ]


def by_class(study: Study) -> Table:
    """Each class against the rest."""
    names = ("precision", "recall", "specificity", "f1", "auroc")
    rows: list[list[Cell]] = [
        [model, c, *(found[name] for name in names), int(one.plain.by_class[c]["images"] or 0),
         found["recall"].groups]
        for model, one in study.scored.items()
        for c, found in one.by_class.items()
    ]  # fmt: skip
    header = ["", "class", *(title_of(name) for name in names), "images", "groups"]
    title = f"Scores by class, each against the rest, on {study.about.data}, {study.about.part}"
    notes = ["With each score its 95 % interval by group; images and groups: of the class."]
    notes += _reasons(
        (f"{title_of(name)} of {c}, {model}", found[name].reason)
        for model, one in study.scored.items()
        for c, found in one.by_class.items()
        for name in names
    )
    return Table("scores_by_class", title, header, rows, notes, left=(0, 1))


def epochs(study: Study) -> Table | None:
    """Training and validation at epochs 1, 10, 20 … and at the one that was chosen."""
    rows: list[list[Cell]] = []
    for entry in study.entries:
        if entry.runs:
            rows += _epochs_of(entry)
    if not rows:
        return None
    header = ["", "epoch", "training loss", "loss", *(title_of(name) for name in EPOCH_SCORES)]
    notes = [
        "All but the training loss are of validation; the mean over runs where there are several."
    ]
    title = f"Epochs 1, 10, 20 … and the chosen ones on {study.about.data}, validation"
    return Table("epochs", title, header, rows, notes, left=(0, 1))


def _epochs_of(entry: Entry) -> list[list[Cell]]:
    columns = {("train", "loss"): by_epoch(entry, "train", "loss")}
    columns |= {("val", name): by_epoch(entry, "val", name) for name in ("loss", *EPOCH_SCORES)}
    available, _ = columns["val", "loss"]
    best = [float(run.summary["epoch_chosen"]) for run in entry.runs]
    wanted = [e for e in available if e == 1 or e % 10 == 0]
    rows: list[list[Cell]] = []
    for e in wanted:
        rows.append([entry.name, f"{e:g}", *(_at(*column, [e] * len(best)) for column in
                                             columns.values())])  # fmt: skip
    chosen = ", ".join(f"{e:g}" for e in best[:6]) + (", …" if len(best) > 6 else "")
    rows.append([entry.name, f"chosen ({chosen})", *(_at(*c, best) for c in columns.values())])
    return rows


def _at(epochs: np.ndarray, values: np.ndarray, wanted: Sequence[float]) -> float | None:
    """Mean over runs of the value at each run's epoch."""
    found = []
    for run, epoch in enumerate(wanted):
        place = np.flatnonzero(np.isclose(epochs, epoch, atol=1e-3))
        if len(place) and not np.isnan(values[run, place[0]]):
            found.append(values[run, place[0]])
    return float(np.mean(found)) if found else None


def _mean_and_spread(values: np.ndarray) -> Spread:
    """Of the runs whose score is defined; says of how many, where it is not of all."""
    defined = values[~np.isnan(values)]
    return Spread(
        float(defined.mean()) if len(defined) else None,
        float(defined.std(ddof=1)) if len(defined) > 1 else None,
        len(defined),
        len(values),
    )


def seeds(study: Study) -> Table | None:
    """Scores of each run alone, where a model has several on the same images."""
    rows: list[list[Cell]] = []
    for model, one in study.scored.items():
        if len(one.seeds) < 2:
            continue
        values = np.array([[s.values[name] for name in COLUMNS] for s in one.seeds], float)
        rows.append([model, len(values), *(_mean_and_spread(column) for column in values.T)])
    if not rows:
        return None
    return Table(
        "seeds",
        f"Spread over runs on {of_whom(study)}",
        ["", "runs", *(title_of(score) for score in COLUMNS)],
        rows,
        ["Mean and standard deviation of the runs alone (each: results.json). The score tables"
         " are of the ensemble, the mean of their probabilities. Seeds are no subjects: they enter"
         " no interval."],
    )  # fmt: skip


def comparisons(
    study: Study, pairs: Sequence[Pair], name: str, *, contrast: bool, part: str = ""
) -> Table | None:
    """The pairwise tests; or, for contrast, those that assume independent images."""
    shown = [pair for pair in pairs if (pair.found.test in INDEPENDENT) is contrast]
    if not shown:
        return None
    shown = sorted(shown, key=lambda pair: not pair.primary)
    leading = leading_tests(shown)
    rows: list[list[Cell]] = []
    for pair in shown:
        one = pair.found
        # An interval stands beside the test that goes with it, and once.
        own = one.test not in _SHARING or pair in leading
        difference = Interval(
            one.difference,
            one.low if own else None,
            one.high if own else None,
            "jackknife",
            one.groups,
        )
        role = "contrast" if contrast else "primary" if pair.primary else "secondary"
        rows.append(
            [
                role,
                pair.a,
                pair.b,
                title_of(one.score),
                TESTS_NAMED[one.test],
                difference,
                one.statistic,
                None if one.p is None else P(one.p),
                None if pair.p_holm is None else P(pair.p_holm),
                one.groups if one.test in _SHARING else f"{one.groups} folds",
            ]
        )
    tests = dict.fromkeys(pair.found.test for pair in shown)
    notes = []
    if not contrast:
        notes = ["With each difference its 95 % interval, beside the test that goes with it."]
        notes += [note] if (note := disagreements(leading)) else []
    notes += [
        f"{TESTS_NAMED[test][0].upper()}{TESTS_NAMED[test][1:]}: {TESTS[test]}." for test in tests
    ]
    notes += dict.fromkeys(
        f"{title_of(p.found.score)}, {p.a} and {p.b}: {p.found.reason}."
        for p in shown
        if p.found.reason
    )
    what = "Tests that ASSUME INDEPENDENT IMAGES, for contrast only" if contrast else "Paired tests"
    header = [
        "analysis",
        "a",
        "b",
        "score",
        "test",
        "a − b",
        "statistic",
        "p",
        "p (Holm)",
        "groups",
    ]
    left = (0, 1, 2, 3, 4)
    return Table(name, f"{what} on {of_whom(study, part)}", header, rows, notes, left=left)


# Tests of one score that share its paired jackknife interval; those over folds have their own.
_SHARING = ("cluster_permutation", "obuchowski", "clustered_mcnemar", "mcnemar", "delong")


def power_table(study: Study) -> Table | None:
    """Detectable differences of the primary score with this number of groups, and with others."""
    groups = len(np.unique(study.test.group))
    rows: list[list[Cell]] = []
    numbers: list[int] = []
    for pair in primary_tests(study):
        one = pair.found
        if one.error is None or one.df is None or one.difference is None:
            continue
        lines = paired.power_table(one.error, one.df, groups)
        numbers = [line.groups for line in lines]
        needed = groups_needed(one.difference, one.error, one.df, groups)
        names = f"{pair.a} and {pair.b}"
        possible = [line.detectable if line.detectable <= 1 else None for line in lines]
        rows.append([names, one.difference, *possible, needed])
    if not rows:
        return None
    shown = [f"{n} groups" + (" (this study)" if n == groups else "") for n in numbers]
    return Table(
        "power",
        f"Differences in {title_of(PRIMARY)} that can be shown on {study.about.data},"
        f" {study.about.part}",
        ["", "difference seen", *shown, "groups for the one seen"],
        rows,
        [
            "Under each number of groups: the true difference that a two-sided test at 5 % finds"
            " with a probability of 80 %, from the spread over groups seen here; a dash: none.",
            "Last column: how many groups like these would show a difference as large as the one"
            " seen; a dash for more than a million.",
            f"A paired permutation of {groups} groups gives no p below {least_p(groups):.2g}.",
        ],
    )


def calibration_table(study: Study) -> Table:
    """Before and after temperature scaling."""
    names = ("loss", "brier", "ece", "ece_equal_mass")
    rows: list[list[Cell]] = []
    for model, found in study.calibration.items():
        heat = ", ".join(f"{t:.3f}" for t in found.temperatures) or None
        rows.append([model, "as given", None, *(found.scores_before.values[n] for n in names)])
        if found.scores_after is not None:
            rows.append([model, "scaled", heat, *(found.scores_after.values[n] for n in names)])
    header = ["", "probabilities", "temperature", *(title_of(name) for name in names)]
    notes = [
        "Temperature: fitted on the validation part of each run, never on test; above 1 the model"
        " was too sure. It changes no predicted class of a single run."
    ]
    title = f"Calibration on {study.about.data}, {study.calibrated_part}"
    return Table("calibration", title, header, rows, notes, left=(0, 1, 2))


def subjects(study: Study) -> Table:
    """Share of every subject's images that each model called right, the hardest first."""
    test = study.test
    names, first, member, images = np.unique(
        test.subject, return_index=True, return_inverse=True, return_counts=True
    )
    right = np.stack(
        [
            np.bincount(member, predicted_class(e.predictions.probabilities) == test.labels)
            for e in study.shown
        ]
    )
    share = right / images
    order = np.lexsort((names, share.mean(axis=0)))
    rows: list[list[Cell]] = []
    for s in order:
        held = np.unique(test.labels[member == s])
        rows.append(
            [
                str(names[s]),
                str(test.group[first[s]]),
                ", ".join(study.about.classes[c] for c in held),
                int(images[s]),
                *(float(one) for one in share[:, s]),
            ]
        )
    header = ["subject", "group", "class", "images", *(entry.name for entry in study.shown)]
    title = f"Share of each subject's images called right on {study.about.data}, {study.about.part}"
    return Table("subjects", title, header, rows, left=(0, 1, 2))


def inflation(study: Study) -> Table | None:
    """The same model split by image and by subject."""
    rows: list[list[Cell]] = []
    for leaky, honest in twins(study):
        for score in COMPARED:
            a = study.scored[leaky.name].by_image[score]
            b = study.scored[honest.name].by_image[score]
            gain = None if a.value is None or b.value is None else a.value - b.value
            rows.append([f"{leaky.name} / {honest.name}", title_of(score), a, b, gain])
    if not rows:
        return None
    return Table(
        "inflation",
        f"What an image split adds on {study.about.data}",
        ["split by image / by subject", "score", "by image (LEAKY)", "by subject", "inflation"],
        rows,
        ["The two were tested on different images of the same data, so no paired test applies."],
        left=(0, 1),
    )


def twins(study: Study) -> list[tuple[Entry, Entry]]:
    """Pairs of a leaky and an honest model of the same architecture."""

    def kind(entry: Entry) -> object:
        return entry.runs[0].config["model"] if entry.runs else entry.name

    return [
        (leaky, honest)
        for leaky in study.entries
        if leaky.leaky
        for honest in study.entries
        if not honest.leaky and kind(leaky) == kind(honest)
    ]
