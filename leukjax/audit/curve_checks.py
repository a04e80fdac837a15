"""Checks of columns over epochs: what training never prints by itself."""

import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from leukjax.audit import rounding
from leukjax.audit.finding import Finding, answer
from leukjax.audit.paper import Curve, Paper
from leukjax.audit.score_checks import rows_of

# So many rows agreeing in every digit are no accident; fewer may be.
ENOUGH_ROWS = 4
# A column has to change by so many units of its last digit to be called a line or a copy: one
# that stands still is both, and says nothing.
ENOUGH_CHANGE = 20


def _varies(values: Sequence[Decimal]) -> bool:
    unit = 2 * max(rounding.half_step(value) for value in values)
    return Fraction(max(values)) - Fraction(min(values)) >= ENOUGH_CHANGE * unit


def column_affine(paper: Paper) -> Iterator[Finding]:
    """Columns that are another column plus a constant, in every printed row."""
    shared = [set(curve.columns) - {"epoch"} for curve in paper.curves]
    names = [
        n for n in (paper.curves[0].columns if shared else ()) if n in set.intersection(*shared)
    ]
    accuracy = next((n for n in ("val_accuracy", "accuracy") if n in names), None)
    pairs: list[tuple[str, str]] = []
    if accuracy:
        pairs = [(accuracy, n) for n in ("precision", "recall", "f1") if n in names]
    pairs += [("train_loss", "val_loss")] if {"train_loss", "val_loss"} <= set(names) else []
    for first, second in pairs:
        tables = [(f"curve {curve.model}", [curve]) for curve in paper.curves]
        if len(paper.curves) > 1:
            tables.insert(0, ("all curves", list(paper.curves)))
        for where, curves in tables:
            a = [value for curve in curves for value in curve.column(first) or ()]
            b = [value for curve in curves for value in curve.column(second) or ()]
            if len(a) < ENOUGH_ROWS or not _varies(a):
                continue
            gaps = {y - x for x, y in zip(a, b, strict=True)}
            if len(gaps) > 1:
                why = f"{second} - {first} takes {len(gaps)} values in {len(a)} rows"
                yield answer("column_affine", f"{where}: {second}", True, why)
                continue
            (gap,) = gaps
            why = f"{second} = {first} {'+' if gap >= 0 else '-'} {abs(gap)} in all {len(a)} rows"
            if gap == 0:  # weighted recall is accuracy
                yield answer("column_affine", f"{where}: {second}", None, why)
                continue
            yield answer("column_affine", f"{where}: {second}", False, why)
            break  # it holds for every curve of them


def curve_linearity(paper: Paper) -> Iterator[Finding]:
    """Accuracies and losses that lie on a straight line over the epochs, within rounding.

    Three points may; four, or three with the slope of another curve, are no course of training.
    """
    lines = {}
    for curve in paper.curves:
        epochs = curve.column("epoch")
        for name in ("val_accuracy", "accuracy", "train_loss", "val_loss"):
            values = curve.column(name)
            if epochs and values and len(values) >= 3 and _varies(values):
                lines[curve.model, name] = (len(values), _slope(epochs, values))
    for (model, name), (count, slope) in lines.items():
        where = f"curve {model}: {name}"
        if slope is None:
            yield answer("curve_linearity", where, True, f"{count} points, no straight line")
            continue
        alike = [m for (m, n), (_, s) in lines.items() if n == name and m != model and s == slope]
        why = f"{count} points lie on a line of {float(slope):+.4g} an epoch, within rounding"
        if alike:
            why += f"; so do those of {', '.join(alike)}, with the same slope"
        fails = count >= ENOUGH_ROWS or bool(alike)
        yield answer("curve_linearity", where, False if fails else None, why)


def _slope(epochs: Sequence[Decimal], values: Sequence[Decimal]) -> Fraction | None:
    """Slope of the line through the first and last point if all lie within a unit of it."""
    x = [Fraction(e) for e in epochs]
    if x[0] == x[-1]:
        return None
    slope = (Fraction(values[-1]) - Fraction(values[0])) / (x[-1] - x[0])
    on = all(
        abs(Fraction(values[0]) + slope * (e - x[0]) - Fraction(v)) <= 2 * rounding.half_step(v)
        for e, v in zip(x, values, strict=True)
    )
    return slope if on else None


def identical_columns(paper: Paper) -> Iterator[Finding]:
    """Columns of two models that agree in every digit at all epochs they share."""
    same: dict[str, list[str]] = {}
    compared: dict[str, int] = {}
    names = ("train_loss", "val_loss", "val_accuracy", "accuracy")
    values = [{name: _by_epoch(curve, name) for name in names} for curve in paper.curves]
    for (a, of_a), (b, of_b) in itertools.combinations(zip(paper.curves, values, strict=True), 2):
        for name in names:
            one, other = of_a[name], of_b[name]
            common = sorted(one.keys() & other.keys())
            if len(common) < 3 or not _changes([one[e] for e in common]):
                continue
            compared[name] = compared.get(name, 0) + 1
            if all(one[e] == other[e] for e in common):
                text = f"{a.model} and {b.model} agree at all {len(common)} common epochs"
                same.setdefault(name, []).append(text)
    for name, pairs in compared.items():
        why = "; ".join(same.get(name, [])) or f"differs in all {pairs} pairs of models"
        yield answer("identical_columns", name, name not in same, why)


def _by_epoch(curve: Curve, name: str) -> dict[Decimal, Decimal]:
    epochs, values = curve.column("epoch"), curve.column(name)
    return dict(zip(epochs, values, strict=True)) if epochs and values else {}


def _changes(values: Sequence[Decimal]) -> bool:
    return len(set(values)) >= 3


def rank_flip(paper: Paper) -> Iterator[Finding]:
    """Two models that change places between validation and test by more than chance would have it.

    Chance: two standard errors of independent images, which is too little where images come in
    groups; so a flip beyond it can still be one between subjects.
    """
    val_images, test_images = paper.split.get("val"), paper.split.get("test")
    val = {}
    for curve in paper.curves:
        accuracy = [v["accuracy"] for _, v in rows_of(curve) if "accuracy" in v]
        if accuracy:
            val[curve.model] = curve.text.get("last", accuracy[-1])
    test = {
        t.model: rounding.share(t.percent["accuracy"])
        for t in paper.tests
        if "accuracy" in t.percent
    }
    for a, b in itertools.combinations([model for model in val if model in test], 2):
        before, after = val[a] - val[b], test[a] - test[b]
        if before * after >= 0:
            yield answer("rank_flip", f"{a} and {b}", True, "the same order on both parts")
            continue
        if before < 0:
            a, b, before, after = b, a, -before, -after
        why = (
            f"{a} leads {b} on validation ({val[a]} against {val[b]}) and trails on test "
            f"({test[a]} against {test[b]})"
        )
        if not val_images or not test_images:
            yield answer("rank_flip", f"{a} and {b}", None, why)
            continue
        errors = (_error(val[a], val[b], val_images), _error(test[a], test[b], test_images))
        sizes = [float(abs(before)) / errors[0], float(abs(after)) / errors[1]]
        why += f": {sizes[0]:.1f} and {sizes[1]:.1f} standard errors of independent images"
        yield answer("rank_flip", f"{a} and {b}", False if min(sizes) > 2 else None, why)


def _error(p: Decimal, q: Decimal, images: int) -> float:
    # A printed accuracy may be no share at all.
    variances = (max(0.0, float(share * (1 - share))) for share in (p, q))
    return math.sqrt(sum(variances) / images) or math.inf


def text_agrees(paper: Paper) -> Iterator[Finding]:
    """Accuracies that the text names against those of the table."""
    last_epoch = paper.training.get("epochs")
    for curve in paper.curves:
        values = _by_epoch(curve, "val_accuracy") or _by_epoch(curve, "accuracy")
        if not values:
            continue
        for which, epoch in (("first", min(values)), ("last", max(values))):
            if which not in curve.text:
                continue
            said, where = curve.text[which], f"curve {curve.model}: text {which}"
            if which == "last" and isinstance(last_epoch, int) and epoch != last_epoch:
                why = f"the text says {said}; the table ends at epoch {epoch} of {last_epoch}"
                yield answer("text_agrees", where, None, why)
                continue
            why = f"the text says {said}, the table {values[epoch]}"
            ranges = rounding.before_rounding(said), rounding.before_rounding(values[epoch])
            inside = ranges[0][0] <= Fraction(values[epoch]) <= ranges[0][1]
            yield answer("text_agrees", where, said == values[epoch] or inside, why)


def loss_level(paper: Paper) -> Iterator[Finding]:
    """A cross-entropy so high that the model would hardly decide about images it gets right."""
    for curve in paper.curves:
        losses, rows = curve.column("val_loss"), rows_of(curve)
        if not losses or "accuracy" not in rows[-1][1]:
            continue
        loss, accuracy = float(losses[-1]), rows[-1][1]["accuracy"]
        given = math.exp(-max(loss, 0.0))  # a cross-entropy is not negative
        why = (
            f"loss {losses[-1]} (ln 2 is 0.693) gives the true class a probability of {given:.3f} "
            f"in the geometric mean, at an accuracy of {accuracy}"
        )
        strange = accuracy >= Decimal("0.9") and given < 0.6
        yield answer("loss_level", f"curve {curve.model}", None if strange else True, why)
