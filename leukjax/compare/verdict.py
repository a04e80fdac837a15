"""The result in words: headline, primary analysis, power, and secondary analyses that differ.

Score, test and part of the primary analysis are fixed in `leukjax.compare.analysis`, before any
result.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from leukjax.compare.analysis import (
    OUT_OF_FOLD,
    PRIMARY,
    PRIMARY_TEST,
    SIGNIFICANT,
    Pair,
    Study,
)
from leukjax.metrics import comparisons as paired
from leukjax.metrics.comparisons import INDEPENDENT, TESTS
from leukjax.metrics.paired_tests import least_p
from leukjax.metrics.predictions import Predictions
from leukjax.report.tables import UNDEFINED, Cell, Table, capitalized, number, p_value, title_of

TEST_NAMES = {
    "cluster_permutation": "cluster permutation",
    "obuchowski": "Obuchowski",
    "clustered_mcnemar": "clustered McNemar",
    "corrected_resampled_t": "corrected resampled t",
    "mcnemar": "McNemar",
    "delong": "DeLong",
}
assert TEST_NAMES.keys() == TESTS.keys()

_PRIMARY = title_of(PRIMARY)
_SCORE_REASONS = {
    "accuracy": "weights every image equally, so the larger class and large subjects count more",
    "f1": "ignores the true negatives",
    "weighted_f1": "weights the classes by their numbers of images",
    "auroc": "evaluates the ranking by probability, not the predicted class",
}
_TEST_REASONS = {
    "obuchowski": "is asymptotic: with few groups its p-values are slightly too small",
    "clustered_mcnemar": "is asymptotic and compares numbers of correct images",
    "corrected_resampled_t": "takes folds, not subjects, as the sample",
}
_SCALE_REASON = (
    "swaps the probabilities of two models, which makes models with different probability scales"
    " look more alike"
)
_OTHER_IMAGES = (
    "other images, predicted by the models of single folds, each trained on fewer images"
)

_MOST_NAMED = 3  # pairs besides those of the best model; a list of thirty is not read


def verdict(study: Study) -> list[str]:
    """Returns headline, primary analysis, power, differing secondary analyses, and warnings."""
    if len(study.ranked) == 1:
        return [_single_model(study), *_warnings(study)]
    tests = primary_tests(study)
    return [
        _headline(study, tests),
        _primary_analysis(study, tests),
        _power(study, tests),
        _secondary_analyses(study),
        *_warnings(study),
    ]


def primary_tests(study: Study) -> list[Pair]:
    """Returns the tests of the primary analysis."""
    return [pair for pair in study.pairs if pair.primary]


def sample(predictions: Predictions) -> str:
    """Returns the numbers of images, subjects and groups as text."""
    subjects, groups = (len(np.unique(c)) for c in (predictions.subject, predictions.group))
    text = f"{len(predictions):,} images of {subjects:,} subjects"
    return text if groups == subjects else f"{text} in {groups:,} groups"


def _value(study: Study, name: str) -> float | None:
    return study.scores[name].by_image[PRIMARY].value


def _value_with_interval(study: Study, name: str) -> str:
    score = study.scores[name].by_image[PRIMARY]
    if score.low is None or score.high is None:
        return number(score.value)
    return f"{number(score.value)}, 95 % CI {score.low:.3f} to {score.high:.3f}"


def _single_model(study: Study) -> str:
    (entry,) = study.ranked
    if _value(study, entry.name) is None:
        reason = study.scores[entry.name].by_image[PRIMARY].reason
        return f"The {_PRIMARY} of {entry.name} is undefined: {reason}."
    return (
        f"{entry.name} has a {_PRIMARY} of {_value_with_interval(study, entry.name)} on"
        f" {sample(study.test)}. There is no other model on these images to compare it with."
    )


def _headline(study: Study, tests: Sequence[Pair]) -> str:
    ordered = sorted(
        (entry.name for entry in study.ranked if _value(study, entry.name) is not None),
        key=lambda name: (-(_value(study, name) or 0.0), name),
    )
    if not ordered:
        return f"The {_PRIMARY} is undefined for every model: there is no ranking."
    best, others = ordered[0], ordered[1:]
    lead = f"{best} scored highest ({_PRIMARY} {_value_with_interval(study, best)})"
    if not others:
        return f"{lead}; the score of the others is undefined."
    values = {_value(study, name) for name in ordered}
    if len(values) == 1:
        return f"No difference. {_and(ordered)} have the same {_PRIMARY} ({number(values.pop())})."
    worse = [name for name in others if _beats(tests, best, name)]
    level = [name for name in others if name not in worse]

    def over(names: Sequence[str]) -> str:
        return _and([f"over {name} ({_difference(tests, best, name)})" for name in names])

    def evidence(names: Sequence[str]) -> str:
        p_values = _and([_adjusted_p(tests, best, name) for name in names])
        return f"(adjusted {p_values}, {_groups(study)})"

    among_others = [
        f"{a} above {b} ({_difference(tests, a, b)}, adjusted {_adjusted_p(tests, a, b)})"
        for a, b in itertools.permutations(ordered, 2)
        if a != best and _beats(tests, a, b)
    ]
    also = f" Significant among the others: {'; '.join(among_others)}." if among_others else ""
    if len(among_others) > _MOST_NAMED:
        also = (
            f" {len(among_others)} pairs of the others differ significantly, see the pairs below."
        )
    if not level:
        return (
            f"Significant difference. {lead}, and its lead {over(worse)} is more than chance"
            f" {evidence(worse)}."
        )
    if worse:
        return (
            f"{lead}. Its lead {over(worse)} is more than chance {evidence(worse)}; its lead"
            f" {over(level)} is within chance {evidence(level)}.{also}"
        )
    return (
        f"No significant difference{' to the highest score' if among_others else ''}. {lead}, but"
        f" its lead {over(level)} is within chance {evidence(level)}.{also}"
    )


def _groups(study: Study) -> str:
    groups = len(np.unique(study.test.group))
    unit = "subjects" if groups == len(np.unique(study.test.subject)) else "groups"
    return f"{groups:,} {unit}"


def _find(tests: Sequence[Pair], a: str, b: str) -> tuple[Pair | None, int]:
    """Returns the test of two models, and -1 if its difference is b minus a, otherwise 1."""
    for pair in tests:
        if {pair.a, pair.b} == {a, b}:
            return pair, 1 if pair.a == a else -1
    return None, 1


def _beats(tests: Sequence[Pair], a: str, b: str) -> bool:
    pair, sign = _find(tests, a, b)
    return pair is not None and sign * pair.significance > 0


def _difference(tests: Sequence[Pair], a: str, b: str) -> str:
    """Returns the score of a minus that of b, with its interval, as text."""
    pair, sign = _find(tests, a, b)
    result = pair.result if pair else None
    if result is None or result.difference is None:
        return "no difference can be computed"
    text = _signed(sign * result.difference)
    if result.low is not None and result.high is not None:
        low, high = sorted((sign * result.low, sign * result.high))
        text += f", 95 % CI {_signed(low)} to {_signed(high)}"
    return text


def _signed(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:+.3f}".replace("-", "−")


def _adjusted_p(tests: Sequence[Pair], a: str, b: str) -> str:
    pair, _ = _find(tests, a, b)
    return _p_text(pair.p_holm if pair else None)


def _p_text(p: float | None) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _primary_analysis(study: Study, tests: Sequence[Pair]) -> str:
    adjusted = f", p adjusted over {len(tests)} pairs of models (Holm)" if len(tests) > 1 else ""
    part = study.about.part
    images = part if part == OUT_OF_FOLD else f"on the {part} images"
    return (
        f"Primary analysis: {_PRIMARY} {images} ({sample(study.test)}), compared by the paired"
        f" cluster permutation test at 5 %{adjusted}. It was fixed before any result; all other"
        " scores, tests and images in this report are secondary."
        f" {disagreements(tests)}"
    ).rstrip()


def disagreements(pairs: Sequence[Pair]) -> str:
    """Returns a sentence on intervals and tests that disagree on significance; "" if none do."""
    clauses = []
    for pair in pairs:
        result = pair.result
        if result.low is None or result.high is None or result.p is None:
            continue
        excludes_zero = not result.low <= 0 <= result.high
        if excludes_zero != (result.p <= SIGNIFICANT):
            verb = "excludes" if excludes_zero else "includes"
            clauses.append(
                f"{title_of(result.score)}, {pair.a} and {pair.b}: the interval {verb} 0 and p is"
                f" {p_value(result.p)}"
            )
    if not clauses:
        return ""
    return (
        f"{capitalized('; '.join(clauses))}. Interval and test use different approximations, which"
        " can disagree when there are few groups; the test decides."
    )


def _power(study: Study, tests: Sequence[Pair]) -> str:
    groups = len(np.unique(study.test.group))
    least = least_p(groups)
    if least * len(tests) > SIGNIFICANT:
        pairs = f" and {len(tests)} pairs of models" if len(tests) > 1 else ""
        return (
            f"With {groups} groups{pairs} no permutation can give an adjusted p below"
            f" {least * len(tests):.3g}: this test set could not have shown any difference, however"
            " large."
        )
    detectable = [
        (paired.detectable(pair.result.error, pair.result.df), pair)
        for pair in tests
        if pair.result.error is not None and pair.result.df is not None
    ]
    if not detectable:
        return "The models do not differ on any group, so no power can be computed."
    difference, pair = min(detectable, key=lambda item: item[0])
    return (
        f"Statistical power: a true difference in {_PRIMARY} of {difference:.3f} or more ({pair.a}"
        f" and {pair.b}, before adjusting for the number of pairs) is detected with a probability"
        " of 80 %; most smaller differences are missed. The power table lists the number of groups"
        " that they need."
    )


def _warnings(study: Study) -> list[str]:
    sentences = list(study.about.warnings())
    names = [entry.name for entry in study.entries if entry.leaky]
    if names and not study.about.leaky:
        several = len(names) > 1
        sentences.append(
            f"LEAKY: {_and(names)} {'have' if several else 'has'} cells of the same subjects in"
            f" training and test. {'Their' if several else 'Its'} scores are too high; they have a"
            " section of their own and are not ranked."
        )
    return sentences


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A secondary test that leads to another conclusion than the primary test.

    Attributes:
      pair: the test.
      part: its part of the split.
      sample: its numbers of images and subjects, as text.
    """

    pair: Pair
    part: str
    sample: str


def _parts(study: Study) -> list[tuple[str, Predictions, list[Pair]]]:
    """Returns part, images and tests of the test images and, for cross-validations, out of fold."""
    parts = [(study.about.part, study.test, study.pairs)]
    if study.out_of_fold_entries:
        predictions = study.out_of_fold_entries[0].predictions
        parts.append((OUT_OF_FOLD, predictions, study.out_of_fold_pairs))
    return parts


def differences(study: Study) -> list[Difference]:
    """Returns secondary tests of the ranked models whose conclusion is not that of the primary one.

    The primary score out of fold comes first. Tests that assume independent images do not count.
    """
    primary = {(pair.a, pair.b): pair.significance for pair in study.pairs if pair.primary}
    secondary = [
        Difference(pair, part, sample(predictions))
        for part, predictions, pairs in _parts(study)
        for pair in pairs
        if pair.role == "secondary"
        and pair.p_holm is not None
        and (pair.a, pair.b) in primary
        and pair.significance != primary[pair.a, pair.b]
    ]
    return sorted(
        secondary, key=lambda item: (item.pair.result.score != PRIMARY, item.part != OUT_OF_FOLD)
    )


def _secondary_analyses(study: Study, most: int = 3) -> str:
    differing = differences(study)
    if not differing:
        return "No secondary analysis leads to another conclusion at the 5 % level."
    more = f" ({len(differing) - most} more are in the tables)" if len(differing) > most else ""
    return (
        f"Secondary analyses with another conclusion{more}."
        f" {' '.join(_sentences(differing[:most]))} They do not overrule the primary analysis; they"
        " are a reason to test on new subjects."
    )


def _sentences(differing: Sequence[Difference]) -> Iterable[str]:
    """Returns one sentence per part: its sample, why it differs, and the results."""
    for part in dict.fromkeys(item.part for item in differing):
        of_part = [item for item in differing if item.part == part]
        reason = f"; {_OTHER_IMAGES}" if part == OUT_OF_FOLD else ""
        results = "; ".join(_result(item.pair) for item in of_part)
        yield f"{capitalized(part)} ({of_part[0].sample}{reason}): {results}."


def _result(pair: Pair) -> str:
    result = pair.result
    interval = ""
    if result.low is not None and result.high is not None:
        interval = f" (95 % CI {_signed(result.low)} to {_signed(result.high)})"
    return (
        f"{title_of(result.score)}, {pair.a} minus {pair.b} {_signed(result.difference)}{interval},"
        f" adjusted {_p_text(pair.p_holm)} by {TEST_NAMES[result.test]}"
    )


def analyses_table(study: Study) -> Table | None:
    """Returns every analysis of the report with its role, its sample and why it may differ."""
    rows: list[list[Cell]] = []
    used: dict[str, None] = {}
    for part, predictions, pairs in _parts(study):
        pairs = [pair for pair in pairs if pair.result.test not in INDEPENDENT]
        used |= dict.fromkeys(pair.result.test for pair in pairs)
        kinds = dict.fromkeys((pair.role, pair.result.score) for pair in pairs)
        for role, score in sorted(kinds, key=lambda kind: kind[0]):
            tests = dict.fromkeys(
                TEST_NAMES[pair.result.test]
                for pair in pairs
                if (pair.role, pair.result.score) == (role, score)
            )
            reasons = [_OTHER_IMAGES] if part == OUT_OF_FOLD else []
            reasons += [f"{title_of(score)} {_SCORE_REASONS[score]}"] if score != PRIMARY else []
            default = "decides" if role == "primary" else "another test"
            rows.append(
                [
                    role,
                    title_of(score),
                    ", ".join(tests),
                    part,
                    len(predictions),
                    len(np.unique(predictions.group)),
                    "; ".join(reasons) or default,
                ]
            )
    if not rows:
        return None
    header = ["analysis", "score", "tests", "part", "images", "groups", "why it may differ"]
    notes = [
        "The primary analysis was fixed in the code before any result. Secondary analyses are"
        " reported in full and overrule nothing."
    ]
    notes += [
        f"{capitalized(TEST_NAMES[test])} {_TEST_REASONS[test]}."
        for test in used
        if test != PRIMARY_TEST
    ]
    if len(study.about.classes) == 2:
        notes.append(f"The cluster permutation of the AUROC {_SCALE_REASON}.")
    title = "Primary and secondary analyses"
    return Table("analyses", title, header, rows, notes, left=(0, 1, 2, 3, 6))
