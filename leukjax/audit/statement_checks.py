"""Checks of what is said about the numbers, and of what is not said."""

import re
from collections.abc import Iterator

from leukjax.audit.finding import Finding, answer
from leukjax.audit.paper import NOT_STATED, Paper

_NUMBERED = r"(?:resnet|resnext|vgg|densenet|darknet|inception[-_ ]?resnet)[-_ ]?(\d{2,3})"


def starred_values(paper: Paper) -> Iterator[Finding]:
    """Test results that are marked as something else than measured."""
    for test in paper.tests:
        estimate = re.search(r"estimat|extrapolat|expected", test.note, re.IGNORECASE)
        marked = test.starred or bool(estimate)
        why = f"marked: {test.note or 'a star without a note'}" if marked else "no mark"
        yield answer("starred_values", f"test {test.model}", not marked, why)


def arch_count(paper: Paper) -> Iterator[Finding]:
    """Numbers of layers that are claimed against the one in the network's name."""
    for curve in paper.curves:
        named = re.search(_NUMBERED, curve.model, re.IGNORECASE)
        if named and curve.layers_claimed:
            other = [n for n in curve.layers_claimed if n != int(named[1])]
            why = f"{curve.model} has {named[1]} layers with weights"
            why += f"; the paper says {', '.join(map(str, other))} as well" if other else ""
            yield answer("arch_count", f"curve {curve.model}", not other, why)


def missing_items(paper: Paper) -> Iterator[Finding]:
    """What a reader needs to repeat or judge the numbers, and does not find.

    Without a distortion experiment a paper that claims nothing of distortions lacks nothing: that
    item is never failed.
    """
    one_class = any({"precision", "recall", "f1"} & t.percent.keys() for t in paper.tests)
    needed = [
        ("training.learning_rate", paper.training.get("learning_rate"), True),
        ("training.seeds", paper.training.get("seeds"), True),
        ("data.unit_of_split", paper.data.get("unit_of_split"), True),
        ("evaluation.intervals", paper.evaluation.get("intervals"), True),
        ("evaluation.distortion_experiment", paper.evaluation.get("distortion_experiment"), False),
    ]
    if one_class:
        needed.append(("data.positive_class", paper.data.get("positive_class"), True))
    for test in paper.tests:
        if test.p_value:
            needed.append((f"test {test.model}: p_value_test", test.p_value_test, True))
    for where, value, failed in needed:
        stated = value is not None and value not in ("", NOT_STATED)
        holds = True if stated else False if failed else None
        yield answer("missing_items", where, holds, f"stated: {value}" if stated else NOT_STATED)
