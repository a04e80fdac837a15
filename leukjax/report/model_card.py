"""``model_card.md``: what a run's model is, how it was tested, and what nobody should do with it.

The headings are those of Mitchell et al. 2019 (FAT* '19, doi 10.1145/3287560.3287596).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from leukjax.report.provenance import About


def model_card(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    about: About,
    parts: Mapping[str, tuple[int, int]],
    scores: str,
) -> str:
    """The card as Markdown.

    Args:
        summary: what summary.json holds.
        config: what config.json holds.
        about: what was scored.
        parts: for each part of the split its images and subjects.
        scores: the table of scores as Markdown, with its notes.
    """
    sections: list[tuple[str, Sequence[str]]] = [
        ("Model details", _details(summary, config)),
        (
            "Intended use",
            [
                "Research on the classification of single cells in stained blood smears.",
                "No medical device. Not for diagnosis, screening or the choice of a treatment.",
                "To be stated by whoever publishes it: users, setting, licence of the weights.",
            ],
        ),
        ("Factors", _factors(about)),
        ("Training data", _data(summary, config, parts, ("train", "val"))),
        ("Evaluation data", _data(summary, config, parts, ("test",))),
        (
            "Ethical considerations",
            [
                "Nothing in a run speaks of age, sex, ancestry or treatment of the subjects, so how"
                " the model does in any such group is not known.",
                "To be stated: approval, consent, and how identities were removed from the images.",
            ],
        ),
        ("Caveats", _caveats(summary, about)),
    ]
    parts_of_text = [f"# Model card: {summary['model']} on {summary['data']}"]
    for title, lines in sections:
        parts_of_text.append(f"## {title}")
        parts_of_text.append("\n".join(f"- {line}" for line in lines))
        if title == "Evaluation data":
            parts_of_text.append("## Metrics\n\n" + scores.replace("## ", "### ", 1).rstrip())
    return "\n\n".join(parts_of_text) + "\n"


def _details(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    optimizer, train = config["optimizer"], config["train"]
    return [
        f"{summary['model']}, {summary['parameters']:,} parameters,"
        f" {summary['flops_per_image'] / 1e9:.3g} GFLOPs an image of {config['data']['image_size']}"
        " px.",
        f"Classes: {', '.join(summary['classes'])}."
        + (f" Positive: {summary['positive']}." if summary["positive"] else ""),
        f"Trained for {train['epochs']:g} epochs of batch {train['batch_size']} with"
        f" {optimizer['name']}, learning rate {optimizer['learning_rate']:g}, seed"
        f" {summary['seed']}; {config['loss']['name'].replace('_', ' ')}.",
        f"Epoch {summary['epoch_chosen']:g} was chosen by {summary['chosen_by']}; an image is"
        " called the class with the largest probability.",
        f"leukjax {summary['versions']['leukjax']}, jax {summary['versions']['jax']}, on"
        f" {summary['device']}, {summary['processor']}. Every setting: config.json; all that"
        " prediction needs: preprocessing.json and checkpoints/.",
    ]


def _factors(about: About) -> list[str]:
    lines = ["Scores are given by image and, where subjects have one class, by subject."]
    if not about.subjects_known:
        lines.append("The subjects of the images are not known: each image counts as its own.")
    lines.append("Stain, microscope and camera are those of the data set; others were not tested.")
    return lines


def _data(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    parts: Mapping[str, tuple[int, int]],
    which: Sequence[str],
) -> list[str]:
    counts = ", ".join(
        f"{part} {parts[part][0]:,} images of {parts[part][1]:,} subjects" for part in which
    )
    lines = [f"{summary['data']}, split by the protocol {summary['protocol']}: {counts}."]
    if "train" in which:
        data = config["data"]
        lines.append(
            f"Images: crop {data['crop'] or 'none'}, denoise {data['denoise']}, resized to"
            f" {data['image_size']} px, standardised by the training part's mean and spread."
        )
    else:
        opened = summary["test_openings"]
        times = f"{opened} time{'s' * (opened != 1)}"
        lines.append(
            f"Test was opened {times} when this card was written; test_openings.jsonl counts on."
        )
    return lines


def over_shortcuts_line(over: Mapping[str, Any]) -> str:
    """A sentence on ``over_shortcuts`` of summary.json."""
    difference, low, high = over["difference"], over["low"], over["high"]
    if difference is None:
        return f"Balanced accuracy over the shortcuts alone: undefined; {over['reason']}."
    line = f"Balanced accuracy over the shortcuts alone: {difference:+.3f}"
    if low is None:
        return f"{line}; no interval, {over['reason']}."
    line += f" (95 % CI {low:+.3f} to {high:+.3f} over {over['groups']:,} groups)"
    if low > 0:
        return f"{line}."
    return f"{line}: this test does not show that the model uses more than these numbers."


def _caveats(summary: Mapping[str, Any], about: About) -> list[str]:
    groups = summary["test"]["groups"]
    return [
        *about.warnings(),
        over_shortcuts_line(summary["over_shortcuts"]),
        f"The test part holds {groups} groups; what is said of new subjects rests on so many, and"
        " the intervals say how little that may be.",
        "No data of another centre were tested.",
        "One run, one seed: `python -m leukjax.crossval` and `leukjax.compare` show how much"
        " another seed, another fold or another model changes.",
    ]
