"""Checks of columns over epochs: patterns that real training does not produce."""

import itertools
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

from leukjax.audit import rounding
from leukjax.audit.paper import Curve, Finding, Paper, finding
from leukjax.audit.score_checks import rows_of

MIN_ROWS = 4  # fewer rows may agree in every digit by chance
# Units of the last digit by which a column must change; a constant one is a trivial line and copy.
MIN_CHANGE = 20


def _varies(values: Sequence[Decimal]) -> bool:
    unit = 2 * max(rounding.half_step(value) for value in values)
    return Fraction(max(values)) - Fraction(min(values)) >= MIN_CHANGE * unit


def column_affine(paper: Paper) -> Iterator[Finding]:
    """Finds columns that are another column plus a constant in every printed row."""
    if not paper.curves:
        return
    shared = set.intersection(*(set(curve.columns) - {"epoch"} for curve in paper.curves))
    names = [name for name in paper.curves[0].columns if name in shared]
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
            if len(a) < MIN_ROWS or not _varies(a):
                continue
            gaps = {y - x for x, y in zip(a, b, strict=True)}
            if len(gaps) > 1:
                why = f"{second} - {first} takes {len(gaps)} values in {len(a)} rows"
                yield finding("column_affine", f"{where}: {second}", True, why)
                continue
            (gap,) = gaps
            why = f"{second} = {first} {'+' if gap >= 0 else '-'} {abs(gap)} in all {len(a)} rows"
            if gap == 0:  # weighted recall is accuracy
                yield finding("column_affine", f"{where}: {second}", None, why)
                continue
            yield finding("column_affine", f"{where}: {second}", False, why)
            break  # it holds for each of these curves


def curve_linearity(paper: Paper) -> Iterator[Finding]:
    """Finds accuracies and losses on a straight line over the epochs, within rounding.

    Three points may be on a line by chance; four, or three with the slope of another curve, fail.
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
            yield finding("curve_linearity", where, True, f"{count} points, no straight line")
            continue
        same = [m for (m, n), (_, s) in lines.items() if n == name and m != model and s == slope]
        why = f"{count} points are on a line of {float(slope):+.4g} an epoch, within rounding"
        if same:
            why += f"; so are those of {', '.join(same)}, with the same slope"
        fails = count >= MIN_ROWS or bool(same)
        yield finding("curve_linearity", where, False if fails else None, why)


def _slope(epochs: Sequence[Decimal], values: Sequence[Decimal]) -> Fraction | None:
    """The slope from the first to the last point, if all points are within a unit of this line."""
    x = [Fraction(e) for e in epochs]
    if x[0] == x[-1]:
        return None
    slope = (Fraction(values[-1]) - Fraction(values[0])) / (x[-1] - x[0])
    is_line = all(
        abs(Fraction(values[0]) + slope * (e - x[0]) - Fraction(v)) <= 2 * rounding.half_step(v)
        for e, v in zip(x, values, strict=True)
    )
    return slope if is_line else None


def identical_columns(paper: Paper) -> Iterator[Finding]:
    """Finds columns of two models that agree in every digit at all common epochs."""
    same: dict[str, list[str]] = {}
    compared: dict[str, int] = {}
    names = ("train_loss", "val_loss", "val_accuracy", "accuracy")
    values = [{name: _by_epoch(curve, name) for name in names} for curve in paper.curves]
    curves = list(zip(paper.curves, values, strict=True))
    for (a, values_a), (b, values_b) in itertools.combinations(curves, 2):
        for name in names:
            x, y = values_a[name], values_b[name]
            common = sorted(x.keys() & y.keys())
            if len({x[epoch] for epoch in common}) < 3:
                continue
            compared[name] = compared.get(name, 0) + 1
            if all(x[epoch] == y[epoch] for epoch in common):
                text = f"{a.model} and {b.model} agree at all {len(common)} common epochs"
                same.setdefault(name, []).append(text)
    for name, pairs in compared.items():
        why = "; ".join(same.get(name, [])) or f"differs in all {pairs} pairs of models"
        yield finding("identical_columns", name, name not in same, why)


def _by_epoch(curve: Curve, name: str) -> dict[Decimal, Decimal]:
    epochs, values = curve.column("epoch"), curve.column(name)
    return dict(zip(epochs, values, strict=True)) if epochs and values else {}


def rank_flip(paper: Paper) -> Iterator[Finding]:
    """Finds pairs of models whose order differs between validation and test beyond chance.

    Beyond chance: by more than two standard errors of independent images. These are too small if
    images come in groups, so that a reported pair may differ by the choice of subjects alone.
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
            yield finding("rank_flip", f"{a} and {b}", True, "the same order on both splits")
            continue
        if before < 0:
            a, b, before, after = b, a, -before, -after
        why = (
            f"{a} leads {b} on validation ({val[a]} against {val[b]}) and trails on test "
            f"({test[a]} against {test[b]})"
        )
        if not val_images or not test_images:
            yield finding("rank_flip", f"{a} and {b}", None, why)
            continue
        errors = (_error(val[a], val[b], val_images), _error(test[a], test[b], test_images))
        sizes = [float(abs(before)) / errors[0], float(abs(after)) / errors[1]]
        why += f": {sizes[0]:.1f} and {sizes[1]:.1f} standard errors of independent images"
        yield finding("rank_flip", f"{a} and {b}", False if min(sizes) > 2 else None, why)


def _error(p: Decimal, q: Decimal, images: int) -> float:
    # A printed accuracy may be outside of [0, 1].
    variances = (max(0.0, float(share * (1 - share))) for share in (p, q))
    return math.sqrt(sum(variances) / images) or math.inf


def text_agrees(paper: Paper) -> Iterator[Finding]:
    """Compares accuracies of the text with those of the table."""
    last_epoch = paper.training.get("epochs")
    for curve in paper.curves:
        values = _by_epoch(curve, "val_accuracy") or _by_epoch(curve, "accuracy")
        if not values:
            continue
        for which, epoch in (("first", min(values)), ("last", max(values))):
            if which not in curve.text:
                continue
            stated, where = curve.text[which], f"curve {curve.model}: text {which}"
            if which == "last" and isinstance(last_epoch, int) and epoch != last_epoch:
                why = f"the text says {stated}; the table ends at epoch {epoch} of {last_epoch}"
                yield finding("text_agrees", where, None, why)
                continue
            why = f"the text says {stated}, the table {values[epoch]}"
            ranges = rounding.before_rounding(stated), rounding.before_rounding(values[epoch])
            inside = ranges[0][0] <= Fraction(values[epoch]) <= ranges[0][1]
            yield finding("text_agrees", where, stated == values[epoch] or inside, why)


def loss_level(paper: Paper) -> Iterator[Finding]:
    """Finds a validation loss that is implausibly high for its accuracy."""
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
        is_implausible = accuracy >= Decimal("0.9") and given < 0.6
        yield finding("loss_level", f"curve {curve.model}", None if is_implausible else True, why)
