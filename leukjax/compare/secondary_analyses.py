"""The primary analysis, and why each secondary one may differ from it.

One score, one test and one part decide; they are fixed here and in `study`, before any result.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from leukjax.compare.analysis import PRIMARY, PRIMARY_TEST, SIGNIFICANT, Pair, Study
from leukjax.compare.score_figures import title_of
from leukjax.metrics.comparisons import INDEPENDENT, TESTS
from leukjax.metrics.predictions import Predictions
from leukjax.report.tables import Cell, Table, p_value

OUT_OF_FOLD = "out of fold"
_SCORES = {
    "accuracy": "counts every image alike: the larger class and large subjects weigh more",
    "f1": "leaves the correct negatives out",
    "weighted_f1": "weights the classes by their images",
    "auroc": "judges the ranking by probability and not the predicted class",
}
_TESTS = {
    "obuchowski": "is asymptotic: with few groups it finds a little too much",
    "clustered_mcnemar": "is asymptotic and compares numbers of correct images",
    "corrected_resampled_t": "takes folds, not subjects, as the sample",
}
_ONE_SCALE = "swaps probabilities of two models, so that models on different scales seem more alike"
_OTHER_IMAGES = "other images, scored by models of single folds, each trained on fewer images"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A secondary test that comes to another conclusion than the primary one."""

    pair: Pair
    part: str
    sample: str


def sample_of(predictions: Predictions) -> str:
    """How many images, subjects and groups."""
    subjects, groups = (len(np.unique(c)) for c in (predictions.subject, predictions.group))
    text = f"{len(predictions):,} images of {subjects:,} subjects"
    return text if groups == subjects else f"{text} in {groups:,} groups"


def significant(pair: Pair) -> int:
    """1 or -1 where a is significantly above or below b (after adjustment), else 0."""
    difference = pair.found.difference
    if pair.p_holm is None or difference is None or pair.p_holm > SIGNIFICANT:
        return 0
    return int(np.sign(difference))


def differences(study: Study) -> list[Difference]:
    """Secondary tests of the shown models whose conclusion is not that of the primary test.

    The primary score out of fold comes first. Tests that assume independent images are no analyses.
    """
    primary = {(pair.a, pair.b): significant(pair) for pair in study.pairs if pair.primary}
    parts = [(study.about.part, sample_of(study.test), study.pairs)]
    if study.out_of_fold_entries:
        here = sample_of(study.out_of_fold_entries[0].predictions)
        parts.append((OUT_OF_FOLD, here, study.out_of_fold_pairs))
    found = [
        Difference(pair, part, sample)
        for part, sample, pairs in parts
        for pair in pairs
        if not pair.primary
        and pair.found.test not in INDEPENDENT
        and pair.p_holm is not None
        and (pair.a, pair.b) in primary
        and significant(pair) != primary[pair.a, pair.b]
    ]
    return sorted(found, key=lambda one: (one.pair.found.score != PRIMARY, one.part != OUT_OF_FOLD))


def sentences(found: Sequence[Difference]) -> list[str]:
    """Secondary results with their numbers: one sentence per part, and why that part differs."""
    told = []
    for part in dict.fromkeys(one.part for one in found):
        own = [one for one in found if one.part == part]
        reason = f"; {_OTHER_IMAGES}" if part == OUT_OF_FOLD else ""
        results = "; ".join(_result(one.pair) for one in own)
        told.append(f"{_upper(part)} ({own[0].sample}{reason}): {results}.")
    return told


def _result(pair: Pair) -> str:
    found, p = pair.found, p_value(pair.p_holm)
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" (95 % CI {_signed(found.low)} to {_signed(found.high)})"
    return (
        f"{title_of(found.score)}, {pair.a} minus {pair.b} {_signed(found.difference)}{interval},"
        f" adjusted p {p if p[0] == '<' else f'= {p}'} by {TESTS_NAMED[found.test]}"
    )


def disagreements(pairs: Sequence[Pair]) -> str:
    """Where an interval excludes 0 and the test beside it finds nothing, or the reverse.

    Returns:
        A sentence; "" where they agree everywhere.
    """
    found = []
    for pair in pairs:
        one = pair.found
        if one.low is None or one.high is None or one.p is None:
            continue
        outside = not one.low <= 0 <= one.high
        if outside != (one.p <= SIGNIFICANT):
            says = "excludes" if outside else "includes"
            found.append(
                f"{title_of(one.score)}, {pair.a} and {pair.b}: the interval {says} 0 and p is"
                f" {p_value(one.p)}"
            )
    if not found:
        return ""
    return (
        f"{_upper('; '.join(found))}. Interval and test rest on different approximations, which"
        " part with few groups; the test decides."
    )


def table(study: Study) -> Table | None:
    """Every analysis of the report with its role, its sample and why it may differ."""
    parts = [(study.about.part, study.test, study.pairs)]
    if study.out_of_fold_entries:
        outside = study.out_of_fold_entries[0].predictions
        parts.append((OUT_OF_FOLD, outside, study.out_of_fold_pairs))
    rows: list[list[Cell]] = []
    used: dict[str, None] = {}
    for part, predictions, pairs in parts:
        own = [pair for pair in pairs if pair.found.test not in INDEPENDENT]
        used |= dict.fromkeys(pair.found.test for pair in own)
        kinds = dict.fromkeys((not pair.primary, pair.found.score) for pair in own)
        for secondary, score in sorted(kinds, key=lambda kind: kind[0]):
            tests = dict.fromkeys(
                TESTS_NAMED[pair.found.test]
                for pair in own
                if (not pair.primary, pair.found.score) == (secondary, score)
            )
            reasons = [_OTHER_IMAGES] if part == OUT_OF_FOLD else []
            reasons += [f"{title_of(score)} {_SCORES[score]}"] if score != PRIMARY else []
            rows.append(
                [
                    "secondary" if secondary else "primary",
                    title_of(score),
                    ", ".join(tests),
                    part,
                    len(predictions),
                    len(np.unique(predictions.group)),
                    "; ".join(reasons) or ("the test is another" if secondary else "decides"),
                ]
            )
    if not rows:
        return None
    header = ["analysis", "score", "tests", "part", "images", "groups", "why it may differ"]
    notes = ["The primary analysis was fixed in the code before any result. Secondary ones are"
             " reported in full and overrule nothing."]  # fmt: skip
    notes += [
        f"{_upper(TESTS_NAMED[test])} {_TESTS[test]}." for test in used if test != PRIMARY_TEST
    ]
    if len(study.about.classes) == 2:
        notes.append(f"The cluster permutation of the AUROC {_ONE_SCALE}.")
    title = "Primary and secondary analyses"
    return Table("analyses", title, header, rows, notes, left=(0, 1, 2, 3, 6))


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


TESTS_NAMED = {
    "cluster_permutation": "cluster permutation",
    "obuchowski": "Obuchowski",
    "clustered_mcnemar": "clustered McNemar",
    "corrected_resampled_t": "corrected resampled t",
    "mcnemar": "McNemar",
    "delong": "DeLong",
}
assert TESTS_NAMED.keys() == TESTS.keys()
