"""Checks of printed scores: whether some confusion matrix gives them."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from leukjax.audit import published_datasets, rounding
from leukjax.audit.paper import Curve, Finding, Paper, Test, finding

Row = tuple[str, dict[str, Decimal]]  # a name ("epoch 10") and shares by score

GRIM_TOTALS = range(100, 5001)
# Confusion matrices that `metric_feasibility` tries for one paper, which takes seconds. Printed
# numbers of a few digits need hundreds.
_TRIES = 500_000
_MEANS = "the values are means, for which it need not hold"


def rows_of(curve: Curve) -> list[Row]:
    """Returns the scores of a curve's rows as shares."""
    scores = [{"val_accuracy": "accuracy"}.get(name, name) for name in curve.columns]
    epochs = curve.column("epoch") or range(1, len(curve.rows) + 1)
    return [
        (f"epoch {epoch}", dict(zip(scores, row, strict=True)))
        for epoch, row in zip(epochs, curve.rows, strict=True)
    ]


def tables(paper: Paper) -> Iterator[tuple[str, str, str, int | None, list[Row]]]:
    """Yields every table of scores: where, kind, split, number of images, rows."""
    for curve in paper.curves:
        images = curve.images or paper.split.get("val")
        yield f"curve {curve.model}", curve.kind, "val", images, rows_of(curve)
    for test in paper.tests:
        yield f"test {test.model}", test.kind, "test", _images(paper, test), [_row(test)]


def _images(paper: Paper, test: Test) -> int | None:
    return test.images or paper.split.get("test")


def _row(test: Test) -> Row:
    return test.model, {name: rounding.share(value) for name, value in test.percent.items()}


def f1_identity(paper: Paper) -> Iterator[Finding]:
    """Checks F1 = 2 P R / (P + R) within the rounding of all three."""
    for where, kind, _, _, rows in tables(paper):
        having = [(name, v) for name, v in rows if {"precision", "recall", "f1"} <= v.keys()]
        if not having:
            continue
        bad, texts = 0, []
        for name, v in having:
            mean = rounding.harmonic_mean(
                rounding.before_rounding(v["precision"]), rounding.before_rounding(v["recall"])
            )
            if not rounding.overlap(mean, rounding.before_rounding(v["f1"])):
                bad += 1
                gap = Fraction(v["f1"]) - (mean[0] + mean[1]) / 2
                high = "high" if gap > 0 else "low"
                texts.append(
                    f"{name}: {v['precision']} and {v['recall']} give "
                    f"{rounding.range_text(mean, 5)}"
                    f", printed {v['f1']} (too {high} by {rounding.text(abs(gap))})"
                )
            elif len(having) == 1:
                texts.append(f"{rounding.range_text(mean, 5)}; printed {v['f1']}")
        summary = f"differs in {bad} of {len(having)} rows" if len(having) > 1 else ""
        holds: bool | None = not bad
        if bad and kind != "single":
            holds, texts = None, [*texts, _MEANS]
        yield finding("f1_identity", where, holds, "; ".join(filter(None, [summary, *texts])))


def grim(paper: Paper) -> Iterator[Finding]:
    """Finds accuracies that no number of correct images gives (GRIM, Brown & Heathers 2017).

    One finding for each table with a known number of images, with ties rounded either way; and one
    for all curves together: the numbers of images from 100 to 5,000 that allow all accuracies.
    """
    for where, kind, _, images, rows in tables(paper):
        values = [(name, v["accuracy"]) for name, v in rows if "accuracy" in v]
        if not values or images is None:
            continue
        bad = [f"{name} {value}" for name, value in values if not rounding.counts(value, images)]
        if not bad:
            which = "it" if len(values) == 1 else f"all {len(values)}"
            correct = rounding.counts(values[-1][1], images)
            example = f"{values[-1][1]} is {correct[0]:,} correct"
            why = f"{which} can occur with {images:,} images; {example}"
            yield finding("grim", where, True, why)
            continue
        why = (
            f"of {len(values)} accuracies {len(bad)} cannot occur with {images:,} images"
            f" (no k / {images:,} rounds to it, ties either way): {', '.join(bad)}"
        )
        holds: bool | None = False
        if kind != "single":
            holds, why = None, f"{why}; but these are means, which can"
        yield finding("grim", where, holds, why)
    yield from _one_number_for_all(paper)


def _one_number_for_all(paper: Paper) -> Iterator[Finding]:
    single = [curve for curve in paper.curves if curve.kind == "single"]
    values = [v["accuracy"] for curve in single for _, v in rows_of(curve) if "accuracy" in v]
    totals = [curve.images or paper.split.get("val") for curve in single]
    if len(values) < 3 or any(n is not None and n not in GRIM_TOTALS for n in totals):
        return
    strict = rounding.totals_for_all(values, GRIM_TOTALS, rounding.counts_half_even)
    if strict:
        why = f"{len(strict):,} numbers of images from 100 to 5,000 allow all {len(values)}"
        yield finding("grim", "all curves", True, why)
        return
    why = (
        f"no number of images from 100 to 5,000 allows all {len(values)} accuracies with ties "
        "rounded to even; means over batches need not"
    )
    ties = rounding.totals_for_all(values, GRIM_TOTALS, rounding.counts)
    if ties:
        why += f"; {', '.join(f'{n:,}' for n in ties[:3])} would, as exact ties rounded either way"
    yield finding("grim", "all curves", None if ties else False, why)


def metric_feasibility(paper: Paper) -> Iterator[Finding]:
    """Checks whether some confusion matrix gives accuracy, precision and recall together."""
    needed = {"accuracy", "precision", "recall"}
    budget: Iterator[object] = iter(range(_TRIES))
    for where, kind, part, images, rows in tables(paper):
        having = [(name, v) for name, v in rows if needed <= v.keys()]
        if not having:
            continue
        if images is None:
            yield _implied_accuracy(paper, where, kind, having[0][1])
            continue
        classes = published_datasets.class_counts(paper, part, images)
        if classes is not None and len(classes) == 2:
            positives = {name: range(n, n + 1) for name, n in classes.items()}
            sizes = f"{images:,} images ({', '.join(f'{n:,} {c}' for c, n in classes.items())})"
        else:
            positives = {"any class": range(1, images)}
            sizes = f"{images:,} images and any class frequencies"
        try:
            matrices = {
                name: _confusion(v, images, list(positives.values()), budget) for name, v in having
            }
        except rounding.TooMany:
            why = f"too many combinations to try with {sizes} and this number of digits"
            yield finding("metric_feasibility", where, None, why)
            continue
        bad = [name for name, matrix in matrices.items() if matrix is None]
        last = matrices[having[-1][0]]
        if not bad and last is not None:
            tp, fp, fn, tn = last
            why = f"with {sizes}, {having[-1][0]} can be TP {tp}, FP {fp}, FN {fn}, TN {tn}"
            yield finding("metric_feasibility", where, True, why)
            continue
        why = (
            f"in {len(bad)} of {len(having)} rows ({', '.join(bad)}) no whole numbers of true and "
            f"false positives give accuracy, precision and recall with {sizes}, any class positive"
        )
        if kind != "single":
            yield finding("metric_feasibility", where, None, f"{why}; {_MEANS}")
        else:
            yield finding("metric_feasibility", where, False, why)


def _confusion(
    v: dict[str, Decimal], images: int, positives: list[range], budget: Iterator[object]
) -> tuple[int, int, int, int] | None:
    """The first (tp, fp, fn, tn) that gives the printed values, or None."""
    three = (v["accuracy"], v["precision"], v["recall"])
    matrices = (next(rounding.confusions(images, p, *three, budget), None) for p in positives)
    return next((matrix for matrix in matrices if matrix is not None), None)


def _implied_accuracy(paper: Paper, where: str, kind: str, v: dict[str, Decimal]) -> Finding:
    """Compares the accuracy with that implied by precision, recall and class frequencies."""
    source = published_datasets.by_numbers(paper) or published_datasets.by_name(paper)
    if source is None:
        return finding(
            "metric_feasibility",
            where,
            None,
            "neither the number of images nor the class frequencies are known",
        )
    parts = [dict(part.classes) for part in source.parts if part.classes is not None]
    together = {name: sum(part[name] for part in parts) for name in parts[0]}
    texts, possible = [], False
    for name in parts[0]:
        shares = [Fraction(part[name], sum(part.values())) for part in (*parts, together)]
        implied = _accuracy(v["precision"], v["recall"], (min(shares), max(shares)))
        agrees = rounding.overlap(implied, rounding.before_rounding(v["accuracy"]))
        possible = possible or agrees
        texts.append(
            f"with {name} positive ({rounding.text(100 * min(shares), 1)} to "
            f"{rounding.text(100 * max(shares), 1)} % of the labelled images of {source.name}) "
            "they "
            f"imply {rounding.text(100 * implied[0], 2)} to {rounding.text(100 * implied[1], 2)} %"
            f"{'' if agrees else ', not ' + str(v['accuracy'].scaleb(2)) + ' %'}"
        )
    stated = paper.data.get("positive_class", "not stated")
    texts.append(
        f"the positive class is {stated}" if stated == "not stated" else f"positive: {stated}"
    )
    if kind != "single":
        texts.append("or the values are means over folds")
    holds = None if kind != "single" or possible else False
    return finding("metric_feasibility", where, holds, "; ".join(texts))


def _accuracy(precision: Decimal, recall: Decimal, shares: rounding.Range) -> rounding.Range:
    """Range of 1 - share ((1 - R) + R (1 - P) / P) within rounding and shares."""
    p, r = rounding.before_rounding(precision), rounding.before_rounding(recall)
    ends = [1 - s * ((1 - b) + b * (1 - a) / a) for a in p for b in r for s in shares if a > 0]
    return (min(ends), max(ends)) if ends else (Fraction(0), Fraction(1))


def below_majority(paper: Paper) -> Iterator[Finding]:
    """Finds accuracies below that of predicting the larger class for every image.

    A network may start there: a curve fails if more than half of its printed rows do, or its last
    one; a test row fails by itself.
    """
    for where, _, part, images, rows in tables(paper):
        classes = published_datasets.class_counts(paper, part, images)
        values = [(name, v["accuracy"]) for name, v in rows if "accuracy" in v]
        if not classes or not values or not any(classes.values()):
            continue
        larger = max(classes, key=lambda name: classes[name])
        floor = Fraction(classes[larger], sum(classes.values()))
        below = [name for name, value in values if rounding.before_rounding(value)[1] < floor]
        why = (
            f"predicting {larger} for every image gives {classes[larger]:,} / "
            f"{sum(classes.values()):,} = {rounding.text(floor)}; {len(below)} of {len(values)} "
            f"accuracies are below"
        )
        if below and len(values) > 1:
            why += ": " + ", ".join(below)
        fails = len(below) > len(values) / 2 or (bool(below) and below[-1] == values[-1][0])
        yield finding("below_majority", where, not fails, why)
