"""Checks of statements: counts, shares, data set, resizing, network, missing items."""

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from leukjax.audit import published_datasets, rounding
from leukjax.audit.paper import NOT_STATED, Finding, Paper, finding

_NUMBERED = r"(?:resnet|resnext|vgg|densenet|darknet|inception[-_ ]?resnet)[-_ ]?(\d{2,3})"


def counts_sum(paper: Paper) -> Iterator[Finding]:
    """Compares printed totals with the sums of the splits, and these with the class counts."""
    split = paper.split
    if split:
        sum_text = " + ".join(f"{n:,}" for n in split.values()) + f" = {sum(split.values()):,}"
        for key in ("images", "images_in_abstract", "images_in_methods"):
            if key in paper.data:
                total = paper.data[key]
                arithmetic = f"{sum_text}; printed {total:,}"
                yield finding("counts_sum", f"data.{key}", total == sum(split.values()), arithmetic)
    for part, classes in paper.data.get("classes_printed", {}).items():
        if part in split:
            total = sum(classes.values())
            sum_text = " + ".join(f"{n:,}" for n in classes.values()) + f" = {total:,}"
            holds, arithmetic = total == split[part], f"{sum_text}; printed {split[part]:,}"
            yield finding("counts_sum", f"data.classes_printed.{part}", holds, arithmetic)


def ratio_claim(paper: Paper) -> Iterator[Finding]:
    """Compares claimed shares of the splits with those of the printed counts, within rounding."""
    claimed, split = paper.data.get("split_claimed", {}), paper.split
    total = sum(split.values())
    if not total:
        return
    for part in (part for part in split if part in claimed):
        value = Decimal(claimed[part])
        low, high = rounding.before_rounding(value)
        printed_share = Fraction(split[part], total)
        yield finding(
            "ratio_claim",
            f"data.split_claimed.{part}",
            low <= printed_share <= high,
            f"{split[part]:,} / {total:,} = {rounding.text(100 * printed_share, 2)} %; claimed "
            f"{rounding.text(100 * Fraction(value), 0)} %",
        )


def dataset_fingerprint(paper: Paper) -> Iterator[Finding]:
    """Compares the data set that is named with the one whose published numbers are printed."""
    named, numbered = published_datasets.by_name(paper), published_datasets.by_numbers(paper)
    name = paper.data.get("name", "")
    if named is None and numbered is None:
        if name:
            yield finding(
                "dataset_fingerprint",
                "data.name",
                None,
                f"{name!r} is not a data set of published_datasets.py",
            )
        return
    if numbered is None:
        assert named is not None
        sizes = ", ".join(f"{n:,}" for n in named.images)
        printed_totals = [n for key, n in paper.data.items() if key.startswith("images")]
        total = printed_totals[0] if printed_totals else None
        holds = None if total is None else total <= max(named.images)
        why = f"{named.name} has {sizes} images; printed {total if total is not None else 'none'}"
        yield finding("dataset_fingerprint", "data.name", holds, why)
        return
    sizes = " or ".join(f"{n:,}" for n in numbered.images)
    subjects = "".join(f", {n} subjects" for n in numbered.subjects)
    if named is not None and named is not numbered:
        theirs = " or ".join(f"{n:,}" for n in named.images)
        why = (
            f"{name!r} is {named.name}, which has {theirs} images; the printed numbers are those "
            f"published for {numbered.name} ({sizes} images{subjects})"
        )
        yield finding("dataset_fingerprint", "data.name", False, why)
    else:
        why = f"the printed numbers are those published for {numbered.name} ({sizes}{subjects})"
        yield finding("dataset_fingerprint", "data.name", None if named is None else True, why)
    phases = {part.images: part.name for part in numbered.parts}
    if len(phases) > 1 and paper.split and set(paper.split.values()) <= set(phases):
        claimed = paper.data.get("split_claimed")
        listed = ", ".join(f"{part} {n:,} = {phases[n]}" for part, n in paper.split.items())
        why = f"the splits are the released phases: {listed}" + (
            "; a random split of the claimed shares would not give these" if claimed else ""
        )
        yield finding("dataset_fingerprint", "data.split_printed", not claimed, why)


def unlabeled_phase(paper: Paper) -> Iterator[Finding]:
    """Finds scores on images whose labels were never public."""
    numbered = published_datasets.by_numbers(paper)
    if numbered is None:
        return
    hidden = [part for part in numbered.parts if part.classes is None]
    labelled, subjects = numbered.labelled
    for part in hidden:
        used = [name for name, n in paper.split.items() if n == part.images]
        if any(test.images == part.images for test in paper.tests):
            used.append("test")
        for name in dict.fromkeys(used):
            why = (
                f"{name} has {part.images:,} images, like the {part.name} of {numbered.name}, "
                f"whose labels were never published; labels are public for {labelled:,}"
            )
            yield finding("unlabeled_phase", f"data.split_printed.{name}", False, why)
        total = max((n for key, n in paper.data.items() if key.startswith("images")), default=0)
        if used or total <= labelled:
            continue
        of_subjects = f" of {subjects} subjects" if subjects else ""
        labels = f"{labelled:,} images{of_subjects} have public labels"
        why = f"{total:,} images are printed; at most {labels}"
        for test in paper.tests:
            if "accuracy" in test.percent:
                errors = (1 - Fraction(rounding.share(test.percent["accuracy"]))) * part.images
                why += (
                    f"; {test.percent['accuracy']} % of the {part.images:,} without labels would "
                    f"be {rounding.text(errors, 1)} errors"
                )
        if numbered.name == "C-NMC 2019":
            why += " (the challenge's winner, weighted F1 0.910, made about 230)"
        yield finding("unlabeled_phase", "data", None, why)


def resize_direction(paper: Paper) -> Iterator[Finding]:
    """Finds upscaling between printed sizes that is downscaling."""
    sentences = [*paper.preprocessing.get("abstract", []), *paper.preprocessing.get("methods", [])]
    source, target = paper.preprocessing.get("source_size"), paper.preprocessing.get("target_size")
    for sentence in sentences:
        size = re.search(r"resize to ([0-9]{1,6})(?![0-9])", sentence)
        target = target or (int(size[1]) if size else None)
    if source and target and any("upscal" in sentence for sentence in sentences):
        why = (
            f"the text says upscaling; {source} to {target} px is a factor of {target / source:.3f}"
        )
        yield finding("resize_direction", "preprocessing", target > source, why)


def starred_values(paper: Paper) -> Iterator[Finding]:
    """Finds test results that are marked as not measured."""
    for test in paper.tests:
        estimate = re.search(r"estimat|extrapolat|expected", test.note, re.IGNORECASE)
        marked = test.starred or bool(estimate)
        why = f"marked: {test.note or 'a star without a note'}" if marked else "no mark"
        yield finding("starred_values", f"test {test.model}", not marked, why)


def arch_count(paper: Paper) -> Iterator[Finding]:
    """Compares claimed numbers of layers with the one in the network's name."""
    for curve in paper.curves:
        named = re.search(_NUMBERED, curve.model, re.IGNORECASE)
        if named and curve.layers_claimed:
            other = [n for n in curve.layers_claimed if n != int(named[1])]
            why = f"{curve.model} has {named[1]} layers with weights"
            why += f"; the paper says {', '.join(map(str, other))} as well" if other else ""
            yield finding("arch_count", f"curve {curve.model}", not other, why)


def missing_items(paper: Paper) -> Iterator[Finding]:
    """Finds items that a reader needs to repeat or judge the numbers.

    A missing distortion experiment is no failure: the paper may claim nothing about distortions.
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
    for where, value, is_required in needed:
        is_stated = value is not None and value not in ("", NOT_STATED)
        holds = True if is_stated else False if is_required else None
        text = f"stated: {value}" if is_stated else NOT_STATED
        yield finding("missing_items", where, holds, text)
