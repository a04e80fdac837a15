"""Every number of the report, computed from predictions."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from leukjax.compare import compatibility
from leukjax.compare.baseline import larger_class
from leukjax.compare.load_results import Entry, join, mean
from leukjax.metrics import calibration, clustered, comparisons
from leukjax.metrics.calibration import Bin
from leukjax.metrics.comparisons import Comparison
from leukjax.metrics.evaluation import score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import NAMES, Scores, scores
from leukjax.report.provenance import About

# Named before the numbers are seen: they decide what is said in words.
PRIMARY = "balanced_accuracy"
PRIMARY_TEST = "cluster_permutation"
HELD_OUT = "held-out test"  # of a crossval folder; its runs call the part that they leave out test
COMPARED = ("accuracy", "balanced_accuracy", "f1", "weighted_f1", "auroc")
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Scored:
    """One model's scores.

    Attributes:
        by_image, by_subject: intervals by score; by_subject is None where subjects have no class.
        no_subjects: the reason for that, else empty.
        by_class: intervals of each class against the rest, by class and score.
        plain: all scores without intervals, and those of each class.
        seeds: scores of each seed alone.
    """

    by_image: dict[str, Interval]
    by_subject: dict[str, Interval] | None
    no_subjects: str
    by_class: dict[str, dict[str, Interval]]
    plain: Scores
    seeds: list[Scores]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One test of two models.

    Attributes:
        a, b: names of the models; the difference is a less b.
        found: the test.
        p_holm: adjusted over all pairs of the same score and test.
        primary: whether this is the test that decides; all others are secondary.
    """

    a: str
    b: str
    found: Comparison
    p_holm: float | None
    primary: bool = False


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Before and after temperature scaling.

    Attributes:
        temperatures: one a run, each fitted on that run's validation part; empty where there is
            none, and then `after` is None.
        before, after: the predictions.
        scores_before, scores_after: loss, brier, ece, ece_equal_mass.
        bins_before, bins_after: of the reliability diagram.
    """

    temperatures: list[float]
    before: Predictions
    after: Predictions | None
    scores_before: Scores
    scores_after: Scores | None
    bins_before: list[Bin]
    bins_after: list[Bin]


@dataclasses.dataclass(frozen=True)
class Study:
    """All numbers of a comparison.

    Attributes:
        entries: the models, in the order given.
        about: what was scored.
        scored: by name of the model.
        pairs: tests of all pairs of models with the same test images.
        calibration: by name.
        out_of_fold, out_of_fold_pairs, out_of_fold_entries: of crossval folders with a held-out
            test; else empty.
        baseline, out_of_fold_baseline: of the larger class, where runs say what they trained on.
        notes: sentences of the checks.
    """

    entries: list[Entry]
    about: About
    scored: dict[str, Scored]
    pairs: list[Pair]
    calibration: dict[str, Calibration]
    out_of_fold: dict[str, Scored]
    out_of_fold_pairs: list[Pair]
    out_of_fold_entries: list[Entry]
    baseline: Scored | None
    out_of_fold_baseline: Scored | None
    notes: list[str]

    @property
    def shown(self) -> list[Entry]:
        """The models of an honest split; if there are none, all."""
        return [entry for entry in self.entries if not entry.leaky] or self.entries

    @property
    def calibrated_part(self) -> str:
        """What calibration is of: a held-out test has no members to scale, so the folds."""
        return "out of fold" if self.shown[0].out_of_fold is not None else self.about.part

    @property
    def positive(self) -> int:
        """Index of the positive class; 0 above two classes, where nothing speaks of it."""
        return self.about.classes.index(self.about.positive) if self.about.positive else 0

    @property
    def test(self) -> Predictions:
        """The predictions of the first shown model: for the images and subjects that all share."""
        return self.shown[0].predictions


def make_study(entries: Sequence[Entry], positive: str = "") -> Study:
    """Check that the models can be compared, and compare them.

    Args:
        entries: at least one.
        positive: the positive class; "" = that of the runs.

    Raises:
        UserError: they cannot be compared.
    """
    entries = list(entries)
    notes = compatibility.check(entries)
    chosen = compatibility.positive_class(entries, positive)
    shown = [entry for entry in entries if not entry.leaky] or entries
    with_runs = [entry for entry in shown if entry.runs]
    of = with_runs[0].runs[0].summary if with_runs else None
    test = shown[0].predictions
    about = About(
        data=of["data"] if of else "the predictions given",
        part=shown[0].part if shown[0].out_of_fold is None else HELD_OUT,
        classes=test.classes,
        positive=chosen,
        synthetic=bool(of and of["synthetic"]),
        leaky=shown[0].leaky,
        subjects_known=of["subjects_known"] if of else len(np.unique(test.subject)) < len(test),
    )
    pooled = [entry for entry in shown if entry.out_of_fold is not None]
    outside = [
        dataclasses.replace(
            e, predictions=e.out_of_fold, part="out of fold", members=(), out_of_fold=None
        )
        for e in pooled
        if e.out_of_fold is not None
    ]
    return Study(
        entries,
        about,
        {entry.name: _score(entry, chosen) for entry in entries},
        [
            pair
            for leaky in (False, True)
            for pair in _pairs(
                [e for e in entries if e.leaky is leaky], chosen, primary=leaky is shown[0].leaky
            )
        ],
        {entry.name: _calibrate(entry, chosen) for entry in shown},
        {entry.name: _score(entry, chosen) for entry in outside},
        _pairs(outside, chosen, primary=False),
        outside,
        _baseline(shown, chosen),
        _baseline(outside, chosen),
        notes,
    )


def leading_tests(pairs: Sequence[Pair]) -> list[Pair]:
    """One test for each pair of models and score, to stand beside its interval.

    The cluster permutation; of the AUROC Obuchowski's test, where there is one: a permutation of
    probabilities on two scales finds less than the interval shows.
    """
    tested = {(p.a, p.b, p.found.score): p for p in pairs if p.found.test == PRIMARY_TEST}
    for pair in pairs:
        if pair.found.test == "obuchowski" and pair.found.p is not None:
            tested[pair.a, pair.b, pair.found.score] = pair
    return list(tested.values())


def _baseline(entries: Sequence[Entry], positive: str) -> Scored | None:
    for entry in entries:
        found = larger_class(entry)
        if found is not None:
            return _score(dataclasses.replace(entry, predictions=found, members=()), positive)
    return None


def _score(entry: Entry, positive: str) -> Scored:
    p = entry.predictions
    found = score(p, positive)
    plain, by_image = found.scores, dict(found.by_image)
    for name in NAMES:
        if name not in by_image:
            why = plain.reasons.get(name, "no interval by groups is known to cover")
            groups = len(np.unique(p.group))
            by_image[name] = Interval(plain.values[name], None, None, "none", groups, why)
    each = [scores(m.labels, m.probabilities, m.classes, positive) for m in entry.members]
    return Scored(by_image, found.by_subject, found.no_subjects, found.by_class, plain, each)


def _pairs(entries: Sequence[Entry], positive: str, *, primary: bool) -> list[Pair]:
    found: list[tuple[str, str, Comparison]] = []
    for a, b in itertools.combinations(entries, 2):
        p, q = a.predictions, b.predictions
        index = p.classes.index(positive) if positive else 0
        tests = comparisons.compare(
            p.labels, p.probabilities, q.probabilities, p.group, index, COMPARED
        )
        found += [(a.name, b.name, one) for one in [*tests, *_over_folds(a, b, positive)]]
    adjusted: dict[int, float | None] = {}
    for family in {(c.score, c.test) for *_, c in found}:
        places = [i for i, (*_, c) in enumerate(found) if (c.score, c.test) == family]
        for i, p_holm in zip(
            places, comparisons.holm([found[i][2].p for i in places]), strict=True
        ):
            adjusted[i] = p_holm
    return [
        Pair(a, b, c, adjusted[i], primary and (c.score, c.test) == (PRIMARY, PRIMARY_TEST))
        for i, (a, b, c) in enumerate(found)
    ]


def _over_folds(a: Entry, b: Entry, positive: str) -> list[Comparison]:
    """The corrected resampled t test, where both are scored out of the same folds."""
    held_out = a.out_of_fold is not None or b.out_of_fold is not None
    if held_out or not a.folds or not b.folds or len(a.folds[0]) != len(b.folds[0]):
        return []
    run = a.runs[0]
    tested = len(run.test)
    trained = sum(part == "train" for *_, part in run.split.values())
    by_fold = [_fold_scores(entry, positive) for entry in (a, b)]
    return [
        comparisons.resampled_t(name, by_fold[0][name], by_fold[1][name], tested / trained)
        for name in COMPARED
    ]


def _fold_scores(entry: Entry, positive: str) -> dict[str, np.ndarray]:
    """Each score by fold, averaged over seeds: seeds are no further subjects."""
    values = [
        [scores(f.labels, f.probabilities, f.classes, positive).values for f in folds]
        for folds in entry.folds
    ]
    return {
        name: np.array([[v[name] for v in seed] for seed in values], float).mean(axis=0)
        for name in COMPARED
    }


def _calibrate(entry: Entry, positive: str) -> Calibration:
    before = entry.predictions if entry.out_of_fold is None else entry.out_of_fold
    temperatures, after = [], None
    if entry.runs:
        by_seed: dict[int, list[Predictions]] = {}
        for run in entry.runs:
            found = calibration.temperature(run.val.labels, run.val.probabilities)
            temperatures.append(found)
            p = calibration.rescale(run.test.probabilities, found)
            part = dataclasses.replace(run.test, probabilities=p)
            by_seed.setdefault(run.config["seed"] if entry.folds else len(by_seed), []).append(part)
        after = mean([join(parts) for parts in by_seed.values()])
    index = before.classes.index(positive) if positive else 0

    # Bins of some forty images: more would be noise.
    bins = int(np.clip(len(before) // 40, 3, calibration.BINS))

    def judged(p: Predictions) -> tuple[Scores, list[Bin]]:
        return (
            scores(p.labels, p.probabilities, p.classes, positive),
            calibration.reliability(p.labels, p.probabilities, p.group, index, bins),
        )

    scores_before, bins_before = judged(before)
    scores_after, bins_after = judged(after) if after is not None else (None, [])
    return Calibration(
        temperatures, before, after, scores_before, scores_after, bins_before, bins_after
    )


def data_of(predictions: Predictions) -> clustered.Grouped:
    """Predictions as the metrics by group want them."""
    return clustered.group(predictions.labels, predictions.probabilities, predictions.group)
