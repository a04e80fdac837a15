"""Who wins, in plain words; or that with so many subjects nobody can be said to."""

import itertools
from collections.abc import Sequence

import numpy as np

from leukjax.metrics import power
from leukjax.report.comparison.study import PRIMARY, SIGNIFICANT, Pair, Study
from leukjax.report.table import p_value
from leukjax.report.tables import number, span

_NAMED = PRIMARY.replace("_", " ")


def verdict(study: Study) -> list[str]:
    """A paragraph on who wins, one on what could have been shown, one for each caution.

    The score was fixed beforehand (`PRIMARY`), and so was the test: the paired cluster permutation,
    adjusted over all pairs.
    """
    if len(study.shown) == 1:
        return [_alone(study), *_cautions(study)]
    tests = primary_tests(study)
    return [_winner(study, tests), _what_could_be_shown(study, tests), *_cautions(study)]


def primary_tests(study: Study) -> list[Pair]:
    """The tests that decide: of the primary score, between the shown models."""
    names = {entry.name for entry in study.shown}
    return [
        pair
        for pair in study.pairs
        if pair.found.score == PRIMARY
        and pair.found.test == "cluster_permutation"
        and {pair.a, pair.b} <= names
    ]


def _value(study: Study, name: str) -> float | None:
    return study.scored[name].by_image[PRIMARY].value


def _with_interval(study: Study, name: str) -> str:
    found = study.scored[name].by_image[PRIMARY]
    between = span(found)
    return number(found.value) + (f", 95 % interval {between}" if between else "")


def sample(study: Study) -> str:
    """How many images, subjects and groups were tested."""
    test = study.test
    subjects, groups = len(np.unique(test.subject)), len(np.unique(test.group))
    text = f"{len(test):,} images of {subjects:,} subjects"
    return text if groups == subjects else f"{text} in {groups:,} groups"


def _alone(study: Study) -> str:
    (entry,) = study.shown
    if _value(study, entry.name) is None:
        why = study.scored[entry.name].by_image[PRIMARY].reason
        return f"The {_NAMED} of {entry.name} is undefined: {why}."
    return (
        f"{entry.name} reaches a {_NAMED} of {_with_interval(study, entry.name)} on"
        f" {sample(study)}. There is no other model on these images to compare it with."
    )


def _winner(study: Study, tests: Sequence[Pair]) -> str:
    ranked = sorted(
        (entry.name for entry in study.shown if _value(study, entry.name) is not None),
        key=lambda name: (-(_value(study, name) or 0.0), name),
    )
    if not ranked:
        return f"The {_NAMED} is undefined for every model, so nothing can be ranked."
    best, others = ranked[0], ranked[1:]
    beaten = [name for name in others if _beats(tests, best, name)]
    level = [name for name in others if name not in beaten]
    lead = f"{best} has the highest {_NAMED} ({_with_interval(study, best)})"
    on = f"on {sample(study)}"
    if not others:
        return f"{lead} {on}; that of the others is undefined."
    ps = "; ".join(f"against {name} {_numbers(tests, best, name)}" for name in others)
    if not level:
        return f"{best} wins: {lead} {on}, and its lead is more than chance ({ps})."
    if beaten:
        return (
            f"{lead} {on} and is better than {_and(beaten)}; between {_and([best, *level])} nobody"
            f" can be said to win ({ps})."
        )
    some = [
        f"{a} is better than {b}"
        for a, b in itertools.permutations(ranked, 2)
        if _beats(tests, a, b)
    ]
    also = f" What can be said: {'; '.join(some)}." if some else ""
    best_value = _value(study, best)
    if all(_value(study, name) == best_value for name in others):
        return f"Nobody wins: {_and(ranked)} have the same {_NAMED} ({best_value:.3f}) {on}.{also}"
    return (
        f"Nobody can be said to win. {lead} {on}, but a lead as large as this may be chance ({ps})."
        f"{also}"
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


def _numbers(tests: Sequence[Pair], a: str, b: str) -> str:
    found = _find(tests, a, b)
    if found is None:
        return "no difference can be computed"
    pair, sign = found
    one = pair.found
    if one.difference is None:
        return "no difference can be computed"
    between = ""
    if one.low is not None and one.high is not None:
        low, high = sorted((sign * one.low, sign * one.high))
        between = f", {low:+.3f} to {high:+.3f}"
    adjusted = p_value(pair.p_holm)
    equals = "" if adjusted.startswith("<") else "= "
    return f"{sign * one.difference:+.3f}{between}, adjusted p {equals}{adjusted}".replace("-", "−")


def _what_could_be_shown(study: Study, tests: Sequence[Pair]) -> str:
    groups = len(np.unique(study.test.group))
    if 2.0 ** (1 - groups) > SIGNIFICANT:
        return (
            f"With {groups} groups no permutation can give a p below {2.0 ** (1 - groups):.3g}:"
            " this test set could not have shown any difference, however large."
        )
    smallest = [
        (power.detectable(pair.found.error, pair.found.df), pair)
        for pair in tests
        if pair.found.error is not None and pair.found.df is not None
    ]
    if not smallest:
        return "The models do not differ on any group, so no power can be computed."
    least, pair = min(smallest, key=lambda one: one[0])
    return (
        f"What this test set could show at all: with a probability of 80 % a true difference in"
        f" {_NAMED} of {least:.3f} or more ({pair.a} and {pair.b}, before adjusting for the number"
        " of pairs). Smaller ones would most often be missed; the table of power says how many"
        " subjects they need."
    )


def _cautions(study: Study) -> list[str]:
    sentences = list(study.about.warnings())
    if any(entry.leaky for entry in study.entries) and not study.about.leaky:
        names = _and([entry.name for entry in study.entries if entry.leaky])
        sentences.append(
            f"LEAKY: {names} was split by image, with cells of one subject on both sides. Its"
            " scores are too high; they stand in a section of their own, ranked with nothing."
        )
    return sentences


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
