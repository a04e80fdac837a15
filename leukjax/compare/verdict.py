"""The result in words: headline, primary analysis, power, and secondary analyses that differ."""

import itertools
from collections.abc import Sequence

import numpy as np

from leukjax.compare import secondary_analyses
from leukjax.compare.analysis import PRIMARY, SIGNIFICANT, Pair, Study
from leukjax.metrics.comparisons import detectable
from leukjax.metrics.paired_tests import least_p
from leukjax.report.tables import p_value
from leukjax.report.text_tables import number

_NAMED = PRIMARY.replace("_", " ")


def verdict(study: Study) -> list[str]:
    """The headline, the primary analysis, its power, what differs, and one paragraph per caution.

    Score, test and part of the primary analysis were fixed beforehand (`study.PRIMARY`).
    """
    if len(study.shown) == 1:
        return [_alone(study), *_cautions(study)]
    tests = primary_tests(study)
    return [
        _headline(study, tests),
        _primary(study, tests),
        _what_could_be_shown(study, tests),
        _secondary(study),
        *_cautions(study),
    ]


def primary_tests(study: Study) -> list[Pair]:
    """The tests that decide: of the primary score, between the shown models."""
    return [pair for pair in study.pairs if pair.primary]


def _value(study: Study, name: str) -> float | None:
    return study.scored[name].by_image[PRIMARY].value


def _with_interval(study: Study, name: str) -> str:
    found = study.scored[name].by_image[PRIMARY]
    if found.low is None or found.high is None:
        return number(found.value)
    return f"{number(found.value)}, 95 % CI {found.low:.3f} to {found.high:.3f}"


def sample(study: Study) -> str:
    """How many images, subjects and groups were tested."""
    return secondary_analyses.sample_of(study.test)


def _alone(study: Study) -> str:
    (entry,) = study.shown
    if _value(study, entry.name) is None:
        why = study.scored[entry.name].by_image[PRIMARY].reason
        return f"The {_NAMED} of {entry.name} is undefined: {why}."
    return (
        f"{entry.name} has a {_NAMED} of {_with_interval(study, entry.name)} on {sample(study)}."
        " There is no other model on these images to compare it with."
    )


def _headline(study: Study, tests: Sequence[Pair]) -> str:
    ranked = sorted(
        (entry.name for entry in study.shown if _value(study, entry.name) is not None),
        key=lambda name: (-(_value(study, name) or 0.0), name),
    )
    if not ranked:
        return f"The {_NAMED} is undefined for every model: there is no ranking."
    best, others = ranked[0], ranked[1:]
    lead = f"{best} scored highest ({_NAMED} {_with_interval(study, best)})"
    if not others:
        return f"{lead}; the score of the others is undefined."
    values = {_value(study, name) for name in ranked}
    if len(values) == 1:
        return f"No difference. {_and(ranked)} have the same {_NAMED} ({number(values.pop())})."
    beaten = [name for name in others if _beats(tests, best, name)]
    level = [name for name in others if name not in beaten]

    def over(names: Sequence[str]) -> str:
        return _and([f"over {name} ({_difference(tests, best, name)})" for name in names])

    def evidence(names: Sequence[str]) -> str:
        return f"(adjusted {_and([_p(tests, best, name) for name in names])}, {_groups(study)})"

    some = [
        f"{a} above {b} ({_difference(tests, a, b)}, adjusted {_p(tests, a, b)})"
        for a, b in itertools.permutations(ranked, 2)
        if a != best and _beats(tests, a, b)
    ]
    also = f" Significant among the others: {'; '.join(some)}." if some else ""
    if not level:
        return (
            f"Significant difference. {lead}, and its lead {over(beaten)} is more than chance"
            f" {evidence(beaten)}."
        )
    if beaten:
        return (
            f"{lead}. Its lead {over(beaten)} is more than chance {evidence(beaten)}; its lead"
            f" {over(level)} is within chance {evidence(level)}.{also}"
        )
    return (
        f"No significant difference{' to the highest score' if some else ''}. {lead}, but its lead"
        f" {over(level)} is within chance {evidence(level)}.{also}"
    )


def _groups(study: Study) -> str:
    test = study.test
    groups = len(np.unique(test.group))
    return f"{groups:,} {'subjects' if groups == len(np.unique(test.subject)) else 'groups'}"


def _primary(study: Study, tests: Sequence[Pair]) -> str:
    adjusted = f", p adjusted over {len(tests)} pairs of models (Holm)" if len(tests) > 1 else ""
    part = study.about.part
    where = part if part == secondary_analyses.OUT_OF_FOLD else f"on the {part} part"
    return (
        f"Primary analysis: {_NAMED} {where} ({sample(study)}), compared by the paired cluster"
        f" permutation test at 5 %{adjusted}. It was fixed before any result; every other score,"
        " test and part in this report is secondary."
        f" {secondary_analyses.disagreements(tests)}"
    ).rstrip()


def _secondary(study: Study, most: int = 3) -> str:
    found = secondary_analyses.differences(study)
    if not found:
        return "No secondary analysis comes to another conclusion at the 5 % level."
    more = f" ({len(found) - most} more are in the tables)" if len(found) > most else ""
    told = " ".join(secondary_analyses.sentences(found[:most]))
    return (
        f"Secondary analyses with another conclusion{more}. {told} They do not overrule the primary"
        " analysis; they are a reason to test on new subjects."
    )


def _find(tests: Sequence[Pair], a: str, b: str) -> tuple[Pair, int] | None:
    for pair in tests:
        if {pair.a, pair.b} == {a, b}:
            return pair, 1 if pair.a == a else -1
    return None


def _beats(tests: Sequence[Pair], a: str, b: str) -> bool:
    found = _find(tests, a, b)
    if found is None:
        return False
    pair, sign = found
    p, difference = pair.p_holm, pair.found.difference
    return p is not None and difference is not None and p <= SIGNIFICANT and sign * difference > 0


def _difference(tests: Sequence[Pair], a: str, b: str) -> str:
    """a less b with its interval."""
    found = _find(tests, a, b)
    if found is None or found[0].found.difference is None:
        return "no difference can be computed"
    one, sign = found[0].found, found[1]
    text = f"{sign * (one.difference or 0.0):+.3f}"
    if one.low is not None and one.high is not None:
        low, high = sorted((sign * one.low, sign * one.high))
        text += f", 95 % CI {low:+.3f} to {high:+.3f}"
    return text.replace("-", "−")


def _p(tests: Sequence[Pair], a: str, b: str) -> str:
    found = _find(tests, a, b)
    adjusted = p_value(found[0].p_holm if found else None)
    return f"p {adjusted}" if adjusted.startswith("<") else f"p = {adjusted}"


def _what_could_be_shown(study: Study, tests: Sequence[Pair]) -> str:
    groups = len(np.unique(study.test.group))
    least = least_p(groups)
    if least * len(tests) > SIGNIFICANT:
        pairs = f" and {len(tests)} pairs of models" if len(tests) > 1 else ""
        return (
            f"With {groups} groups{pairs} no permutation can give an adjusted p below"
            f" {least * len(tests):.3g}: this test set could not have shown any difference, however"
            " large."
        )
    smallest = [
        (detectable(pair.found.error, pair.found.df), pair)
        for pair in tests
        if pair.found.error is not None and pair.found.df is not None
    ]
    if not smallest:
        return "The models do not differ on any group, so no power can be computed."
    detected, pair = min(smallest, key=lambda one: one[0])
    return (
        f"Statistical power: a true difference in {_NAMED} of {detected:.3f} or more ({pair.a} and"
        f" {pair.b}, before adjusting for the number of pairs) is found with a probability of 80 %;"
        " smaller ones are mostly missed. The table of power says how many subjects they need."
    )


def _cautions(study: Study) -> list[str]:
    sentences = list(study.about.warnings())
    if any(entry.leaky for entry in study.entries) and not study.about.leaky:
        names = _and([entry.name for entry in study.entries if entry.leaky])
        sentences.append(
            f"LEAKY: {names} was split by image, with cells of one subject on both sides. Its"
            " scores are too high; they are in a section of their own and not ranked."
        )
    return sentences


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
