"""Computes every number of the report from predictions."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from leukjax.compare.external import by_model
from leukjax.compare.load_results import (
    Entry,
    Run,
    check_comparable,
    choose_positive,
    join,
    mean,
)
from leukjax.metrics import calibration, clustered, comparisons
from leukjax.metrics.calibration import Bin
from leukjax.metrics.comparisons import Comparison
from leukjax.metrics.evaluation import score
from leukjax.metrics.intervals import Interval
from leukjax.metrics.predictions import Predictions
from leukjax.metrics.scores import NAMES, Scores, scores
from leukjax.metrics.subgroups import Subgroups, subgroups
from leukjax.report.external import External
from leukjax.report.provenance import About

# The primary analysis, fixed before any result: the headline follows from it alone.
PRIMARY = "balanced_accuracy"
PRIMARY_TEST = "cluster_permutation"
SIGNIFICANT = 0.05
COMPARED = ("accuracy", "balanced_accuracy", "f1", "weighted_f1", "auroc")
HELD_OUT = "held-out test"  # of a cross-validation, whose runs call what a fold leaves out "test"
OUT_OF_FOLD = "out of fold"
BASELINE = "larger class (baseline)"


@dataclasses.dataclass(frozen=True)
class ModelScores:
    """Scores of one model.

    Attributes:
      by_image, by_subject: intervals by score; by_subject is None where subjects have no class.
      no_subjects: reason why there are no scores by subject; otherwise empty.
      by_class: intervals of each class against the rest, by class and score.
      values: all scores without intervals, and those of each class.
      seeds: scores of each seed alone.
      without_rare: macro scores without the rare classes of the split; {} if there are none.
    """

    by_image: dict[str, Interval]
    by_subject: dict[str, Interval] | None
    no_subjects: str
    by_class: dict[str, dict[str, Interval]]
    values: Scores
    seeds: list[Scores]
    without_rare: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One test of two models.

    Attributes:
      a, b: names of the models; differences are a minus b.
      result: result of the test.
      p_holm: p adjusted over all pairs with the same score and test.
      primary: whether this is the primary analysis; all others are secondary.
    """

    a: str
    b: str
    result: Comparison
    p_holm: float | None
    primary: bool = False

    @property
    def role(self) -> str:
        """Primary, secondary, or contrast (a test that assumes independent images)."""
        if self.result.test in comparisons.INDEPENDENT:
            return "contrast"
        return "primary" if self.primary else "secondary"

    @property
    def significance(self) -> int:
        """1 or -1 if a is significantly above or below b (after adjustment), otherwise 0."""
        difference = self.result.difference
        if self.p_holm is None or difference is None or self.p_holm > SIGNIFICANT:
            return 0
        return int(np.sign(difference))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Probabilities before and after temperature scaling.

    Attributes:
      temperatures: one per run, fitted on the validation images of that run; empty for predictions
        without runs, and then `after` is None.
      before, after: the predictions.
      scores_before, scores_after: their scores, such as loss, brier, ece and ece_equal_mass.
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
      entries: the models, in the order of the arguments.
      about: what was evaluated.
      scores: by model name.
      pairs: tests of all pairs of models with the same test images.
      calibration: by model name.
      out_of_fold, out_of_fold_pairs, out_of_fold_entries: for cross-validations with a held-out
        test; otherwise empty.
      baseline, out_of_fold_baseline: of the larger class, where runs record their training images.
      notes: sentences from the checks of the inputs.
      subgroups: by model name, for the ranked models whose runs have attributes.
      external: external tests by model, beside the comparison and never ranked.
    """

    entries: list[Entry]
    about: About
    scores: dict[str, ModelScores]
    pairs: list[Pair]
    calibration: dict[str, Calibration]
    out_of_fold: dict[str, ModelScores]
    out_of_fold_pairs: list[Pair]
    out_of_fold_entries: list[Entry]
    baseline: ModelScores | None
    out_of_fold_baseline: ModelScores | None
    notes: list[str]
    subgroups: dict[str, Subgroups]
    external: dict[str, list[External]]

    @property
    def ranked(self) -> list[Entry]:
        """The models without subjects in several parts of the split; all, if there are none."""
        return [entry for entry in self.entries if not entry.leaky] or self.entries

    @property
    def with_runs(self) -> list[Entry]:
        """The models that come with work directories."""
        return [entry for entry in self.entries if entry.runs]

    @property
    def calibrated_part(self) -> str:
        """The part that calibration uses: out of fold where the test has ensembles only."""
        return OUT_OF_FOLD if self.ranked[0].out_of_fold is not None else self.about.part

    @property
    def positive(self) -> int:
        """Index of the positive class; 0 above two classes, where no score depends on it."""
        return self.about.classes.index(self.about.positive) if self.about.positive else 0

    @property
    def test(self) -> Predictions:
        """The predictions of the first ranked model, for the images and subjects that all share."""
        return self.ranked[0].predictions


def make_study(
    entries: Sequence[Entry], positive: str = "", tests: Sequence[External] = ()
) -> Study:
    """Checks that the models can be compared, and compares them.

    Args:
      entries: at least one.
      positive: the positive class; "" = that of the runs.
      tests: external tests.

    Raises:
      UserError: the models cannot be compared.
    """
    entries = list(entries)
    notes = check_comparable(entries)
    positive = choose_positive(entries, positive)
    ranked = [entry for entry in entries if not entry.leaky] or entries
    out_of_fold = [
        dataclasses.replace(
            entry, predictions=entry.out_of_fold, part=OUT_OF_FOLD, members=(), out_of_fold=None
        )
        for entry in ranked
        if entry.out_of_fold is not None
    ]
    pairs = [
        pair
        for leaky in (False, True)
        for pair in _pairs(
            [entry for entry in entries if entry.leaky is leaky],
            positive,
            primary=leaky is ranked[0].leaky,
        )
    ]
    return Study(
        entries,
        _about(ranked, positive),
        {entry.name: _scores(entry, positive) for entry in entries},
        pairs,
        {entry.name: _calibrate(entry, positive) for entry in ranked},
        {entry.name: _scores(entry, positive) for entry in out_of_fold},
        _pairs(out_of_fold, positive, primary=False),
        out_of_fold,
        _baseline(ranked, positive),
        _baseline(out_of_fold, positive),
        notes,
        {
            entry.name: subgroups(entry.predictions, entry.runs[0].attributes, positive)
            for entry in ranked
            if entry.runs and entry.runs[0].attributes
        },
        by_model(entries, tests),
    )


def _about(ranked: Sequence[Entry], positive: str) -> About:
    with_runs = [entry for entry in ranked if entry.runs]
    summary = with_runs[0].runs[0].summary if with_runs else None
    test = ranked[0].predictions
    return About(
        data=summary["data"] if summary else "the predictions given",
        part=ranked[0].part if ranked[0].out_of_fold is None else HELD_OUT,
        classes=test.classes,
        positive=positive,
        synthetic=bool(summary and summary["synthetic"]),
        leaky=ranked[0].leaky,
        subjects_known=summary["subjects_known"]
        if summary
        else len(np.unique(test.subject)) < len(test),
        rare=_rare(ranked),
        groups=summary["groups"] if summary else "auto",
    )


def _rare(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns the classes that a run of these models lists as rare, in the order of the classes."""
    named = {
        name for entry in entries for run in entry.runs for name in run.summary["rare_classes"]
    }
    return tuple(name for name in entries[0].predictions.classes if name in named)


def leading_tests(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns the test to print beside the interval of each pair of models and score.

    It is the cluster permutation; for the AUROC it is Obuchowski's test where that exists, because
    a permutation mixes the probability scales of two models and has less power than the interval.
    """
    tests = {(p.a, p.b, p.result.score): p for p in pairs if p.result.test == PRIMARY_TEST}
    for pair in pairs:
        if pair.result.test == "obuchowski" and pair.result.p is not None:
            tests[pair.a, pair.b, pair.result.score] = pair
    return list(tests.values())


def _scores(entry: Entry, positive: str) -> ModelScores:
    p = entry.predictions
    evaluation = score(p, positive)
    by_image = dict(evaluation.by_image)
    for name in NAMES:
        if name not in by_image:
            default = "no interval by groups is known to have the right coverage"
            reason = evaluation.scores.reasons.get(name, default)
            value, groups = evaluation.scores.values[name], len(np.unique(p.group))
            by_image[name] = Interval(value, None, None, "none", groups, reason)
    return ModelScores(
        by_image,
        evaluation.by_subject,
        evaluation.no_subjects,
        evaluation.by_class,
        evaluation.scores,
        [_point_scores(member, positive) for member in entry.members],
        evaluation.without(_rare([entry])),
    )


def _point_scores(p: Predictions, positive: str) -> Scores:
    return scores(p.labels, p.probabilities, p.classes, positive)


def _pairs(entries: Sequence[Entry], positive: str, *, primary: bool) -> list[Pair]:
    results: list[tuple[str, str, Comparison]] = []
    for a, b in itertools.combinations(entries, 2):
        p, q = a.predictions, b.predictions
        index = p.classes.index(positive) if positive else 0
        tests = comparisons.compare(
            p.labels, p.probabilities, q.probabilities, p.group, index, COMPARED
        )
        results += [(a.name, b.name, test) for test in [*tests, *_over_folds(a, b, positive)]]
    adjusted: dict[int, float | None] = {}
    for family in {(result.score, result.test) for *_, result in results}:
        members = [i for i, (*_, r) in enumerate(results) if (r.score, r.test) == family]
        p_values = comparisons.holm([results[i][2].p for i in members])
        adjusted |= dict(zip(members, p_values, strict=True))
    return [
        Pair(a, b, r, adjusted[i], primary and (r.score, r.test) == (PRIMARY, PRIMARY_TEST))
        for i, (a, b, r) in enumerate(results)
    ]


def _over_folds(a: Entry, b: Entry, positive: str) -> list[Comparison]:
    """Returns corrected resampled t tests, if both models have scores of the same folds."""
    held_out = a.out_of_fold is not None or b.out_of_fold is not None
    if held_out or not a.folds or not b.folds or len(a.folds[0]) != len(b.folds[0]):
        return []
    run = a.runs[0]
    trained = sum(part == "train" for *_, part in run.split.values())
    scores_a, scores_b = (_fold_scores(entry, positive) for entry in (a, b))
    return [
        comparisons.resampled_t(name, scores_a[name], scores_b[name], len(run.test) / trained)
        for name in COMPARED
    ]


def _fold_scores(entry: Entry, positive: str) -> dict[str, np.ndarray]:
    """Returns each score by fold, averaged over seeds, because seeds are no further subjects."""
    values = [[_point_scores(fold, positive).values for fold in folds] for folds in entry.folds]
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
            temperature = calibration.temperature(run.val.labels, run.val.probabilities)
            temperatures.append(temperature)
            p = calibration.rescale(run.test.probabilities, temperature)
            scaled = dataclasses.replace(run.test, probabilities=p)
            seed = run.config["seed"] if entry.folds else len(by_seed)
            by_seed.setdefault(seed, []).append(scaled)
        after = mean([join(parts) for parts in by_seed.values()])
    index = before.classes.index(positive) if positive else 0
    # Bins of about forty images: smaller ones are dominated by noise.
    bins = int(np.clip(len(before) // 40, 3, calibration.BINS))

    def reliability(p: Predictions) -> list[Bin]:
        return calibration.reliability(p.labels, p.probabilities, p.group, index, bins)

    return Calibration(
        temperatures,
        before,
        after,
        _point_scores(before, positive),
        None if after is None else _point_scores(after, positive),
        reliability(before),
        [] if after is None else reliability(after),
    )


def _baseline(entries: Sequence[Entry], positive: str) -> ModelScores | None:
    for entry in entries:
        predictions = larger_class(entry)
        if predictions is not None:
            return _scores(
                dataclasses.replace(entry, predictions=predictions, members=()), positive
            )
    return None


def larger_class(entry: Entry) -> Predictions | None:
    """Returns the baseline on an entry's images: the class frequencies of the training images.

    Out of fold, each image gets the frequencies of its own fold; on a test that all runs share, the
    mean over the runs. None if no run records its training images.
    """
    if not entry.runs:
        return None
    if entry.folds and entry.part == OUT_OF_FOLD:
        run_of = {id(run.test): run for run in entry.runs}
        return join([_constant(fold, _frequencies(run_of[id(fold)])) for fold in entry.folds[0]])
    shares = np.mean([_frequencies(run) for run in entry.runs], axis=0)
    return _constant(entry.predictions, shares)


def _constant(images: Predictions, shares: Float[np.ndarray, " c"]) -> Predictions:
    return dataclasses.replace(images, probabilities=np.tile(shares, (len(images), 1)))


def _frequencies(run: Run) -> Float[np.ndarray, " c"]:
    labels = [label for *_, label, part in run.split.values() if part == "train"]
    counts = np.array([labels.count(name) for name in run.test.classes], float)
    return counts / max(counts.sum(), 1)


def grouped(predictions: Predictions) -> clustered.Grouped:
    """Returns predictions in the form that the metrics by group take."""
    return clustered.group(predictions.labels, predictions.probabilities, predictions.group)
