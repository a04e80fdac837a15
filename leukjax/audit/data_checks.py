"""Checks of what a paper says of its data: sums, shares, which data set it is, what is labelled."""

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from leukjax.audit import published_datasets, rounding
from leukjax.audit.finding import Finding, answer
from leukjax.audit.paper import Paper


def counts_sum(paper: Paper) -> Iterator[Finding]:
    """Every printed total against the sum of the printed parts; class counts against theirs."""
    split = paper.split
    if split:
        sum_text = " + ".join(f"{n:,}" for n in split.values()) + f" = {sum(split.values()):,}"
        for key in ("images", "images_in_abstract", "images_in_methods"):
            if key in paper.data:
                total = paper.data[key]
                arithmetic = f"{sum_text}; printed {total:,}"
                yield answer("counts_sum", f"data.{key}", total == sum(split.values()), arithmetic)
    for part, classes in paper.data.get("classes_printed", {}).items():
        if part in split:
            found = " + ".join(f"{n:,}" for n in classes.values())
            holds = sum(classes.values()) == split[part]
            arithmetic = f"{found} = {sum(classes.values()):,}; printed {split[part]:,}"
            yield answer("counts_sum", f"data.classes_printed.{part}", holds, arithmetic)


def ratio_claim(paper: Paper) -> Iterator[Finding]:
    """Claimed shares of the parts against those of the printed counts, rounding allowed for."""
    claimed, split = paper.data.get("split_claimed", {}), paper.split
    total = sum(split.values())
    if not total:
        return
    for part in (part for part in split if part in claimed):
        value = Decimal(claimed[part])
        low, high = rounding.before_rounding(value)
        is_share = Fraction(split[part], total)
        yield answer(
            "ratio_claim",
            f"data.split_claimed.{part}",
            low <= is_share <= high,
            f"{split[part]:,} / {total:,} = {rounding.text(100 * is_share, 2)} %; claimed "
            f"{rounding.text(100 * Fraction(value), 0)} %",
        )


def dataset_fingerprint(paper: Paper) -> Iterator[Finding]:
    """The data set that is named against the one whose published numbers are printed."""
    named, numbered = published_datasets.by_name(paper), published_datasets.by_numbers(paper)
    name = paper.data.get("name", "")
    if named is None and numbered is None:
        if name:
            yield answer(
                "dataset_fingerprint", "data.name", None, f"{name!r}: no data set known here"
            )
        return
    if numbered is None:
        assert named is not None
        sizes = ", ".join(f"{n:,}" for n in named.images)
        printed_totals = [n for key, n in paper.data.items() if key.startswith("images")]
        total = printed_totals[0] if printed_totals else None
        holds = None if total is None else total <= max(named.images)
        why = f"{named.name} has {sizes} images; printed {total if total is not None else 'none'}"
        yield answer("dataset_fingerprint", "data.name", holds, why)
        return
    sizes = " or ".join(f"{n:,}" for n in numbered.images)
    subjects = "".join(f", {n} subjects" for n in numbered.subjects)
    if named is not None and named is not numbered:
        theirs = " or ".join(f"{n:,}" for n in named.images)
        why = (
            f"{name!r} is {named.name}, which has {theirs} images; the printed numbers are those "
            f"published of {numbered.name} ({sizes} images{subjects})"
        )
        yield answer("dataset_fingerprint", "data.name", False, why)
    else:
        why = f"the printed numbers are those published of {numbered.name} ({sizes}{subjects})"
        yield answer("dataset_fingerprint", "data.name", None if named is None else True, why)
    phases = {part.images: part.name for part in numbered.parts}
    if len(phases) > 1 and paper.split and set(paper.split.values()) <= set(phases):
        claimed = paper.data.get("split_claimed")
        listed = ", ".join(f"{part} {n:,} = {phases[n]}" for part, n in paper.split.items())
        why = f"the parts are the released phases: {listed}" + (
            "; a random split of the claimed shares would not give these" if claimed else ""
        )
        yield answer("dataset_fingerprint", "data.split_printed", not claimed, why)


def unlabeled_phase(paper: Paper) -> Iterator[Finding]:
    """Scores on images whose labels were never public."""
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
                f"{name} has {part.images:,} images, as the {part.name} of {numbered.name} has, "
                f"whose labels were never published; labels are public for {labelled:,}"
            )
            yield answer("unlabeled_phase", f"data.split_printed.{name}", False, why)
        total = max((n for key, n in paper.data.items() if key.startswith("images")), default=0)
        if used or total <= labelled:
            continue
        of = f" of {subjects} subjects" if subjects else ""
        why = f"{total:,} images are printed; at most {labelled:,} images{of} have public labels"
        for test in paper.tests:
            if "accuracy" in test.percent:
                errors = (1 - Fraction(rounding.share(test.percent["accuracy"]))) * part.images
                why += (
                    f"; {test.percent['accuracy']} % of the {part.images:,} without labels would "
                    f"be {rounding.text(errors, 1)} errors"
                )
        if numbered.name == "C-NMC 2019":
            why += " (the challenge's winner, weighted F1 0.910, made about 230)"
        yield answer("unlabeled_phase", "data", None, why)


def resize_direction(paper: Paper) -> Iterator[Finding]:
    """An enlargement that the printed sizes make a reduction."""
    said = [*paper.preprocessing.get("abstract", []), *paper.preprocessing.get("methods", [])]
    source, target = paper.preprocessing.get("source_size"), paper.preprocessing.get("target_size")
    for sentence in said:
        size = re.search(r"resize to ([0-9]{1,6})(?![0-9])", sentence)
        target = target or (int(size[1]) if size else None)
    if source and target and any("upscal" in sentence for sentence in said):
        why = f"upscaling is named; {source} to {target} px is a factor of {target / source:.3f}"
        yield answer("resize_direction", "preprocessing", target > source, why)
