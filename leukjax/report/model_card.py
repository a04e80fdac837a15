"""Writes ``model_card.md``: what a run's model is, how it was tested, and its limits.

The headings are those of Mitchell et al. 2019 (FAT* '19, doi 10.1145/3287560.3287596).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from leukjax.report.provenance import About

NO_EXTERNAL_TEST = "External validation: no data of another centre were tested."


def model_card(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    about: About,
    parts: Mapping[str, tuple[int, int]],
    scores: str,
) -> str:
    """Returns the card as Markdown.

    Args:
      summary: content of summary.json.
      config: content of config.json.
      about: what was evaluated.
      parts: for each part of the split its numbers of images and subjects.
      scores: the table of scores as Markdown, with its notes.
    """
    sections: list[tuple[str, Sequence[str]]] = [
        ("Model details", _details(summary, config)),
        (
            "Intended use",
            [
                "Research on the classification of single cells in stained blood smears.",
                "No medical device. Not for diagnosis, screening or the choice of a treatment.",
                "To be stated by the publisher: users, setting, licence of the weights.",
            ],
        ),
        ("Factors", _factors(about)),
        ("Training data", _data(summary, config, parts, ("train", "val"))),
        ("Evaluation data", _data(summary, config, parts, ("test",))),
        (
            "Ethical considerations",
            [
                "A run has no data on age, sex, ancestry or treatment of the subjects, so the"
                " performance in any such group is unknown.",
                "To be stated: approval, consent, and how identities were removed from the images.",
            ],
        ),
        ("Caveats", _caveats(summary, about)),
    ]
    blocks = [f"# Model card: {summary['model']} on {summary['data']}"]
    for title, lines in sections:
        blocks.append(f"## {title}")
        blocks.append("\n".join(f"- {line}" for line in lines))
        if title == "Evaluation data":
            blocks.append("## Metrics\n\n" + scores.replace("## ", "### ", 1).rstrip())
    return "\n\n".join(blocks) + "\n"


def with_external_tests(card: str, sentences: Sequence[str]) -> str:
    """Returns a model card that lists external tests where it says that there are none."""
    lines = "\n".join(f"- External validation. {sentence}" for sentence in sentences)
    line = f"- {NO_EXTERNAL_TEST}"
    if line in card:
        return card.replace(line, lines, 1)
    return f"{card.rstrip()}\n\n## External validation\n\n{lines}\n"


def _details(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    optimizer, train = config["optimizer"], config["train"]
    return [
        f"{summary['model']}, {summary['parameters']:,} parameters,"
        f" {summary['flops_per_image'] / 1e9:.3g} GFLOPs per image of"
        f" {config['data']['image_size']} px.",
        f"Classes: {', '.join(summary['classes'])}."
        + (f" Positive: {summary['positive']}." if summary["positive"] else ""),
        f"Trained for {train['epochs']:g} epochs of batch {train['batch_size']} with"
        f" {optimizer['name']}, learning rate {optimizer['learning_rate']:g}, seed"
        f" {summary['seed']}; {config['loss']['name'].replace('_', ' ')}.",
        f"Epoch {summary['epoch_chosen']:g} was chosen by {summary['chosen_by']}; the predicted"
        " class of an image is the one with the largest probability.",
        f"leukjax {summary['versions']['leukjax']}, jax {summary['versions']['jax']}, on"
        f" {summary['device']}, {summary['processor']}. All settings are in config.json, all that"
        " prediction needs in preprocessing.json and checkpoints/.",
    ]


def _factors(about: About) -> list[str]:
    lines = ["Scores are given by image and, where each subject has one class, by subject."]
    if not about.subjects_known:
        lines.append("The subjects of the images are unknown: each image counts as its own.")
    lines.append("Stain, microscope and camera are those of the data set; others were not tested.")
    return lines


def _data(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    parts: Mapping[str, tuple[int, int]],
    names: Sequence[str],
) -> list[str]:
    counts = ", ".join(
        f"{name} {parts[name][0]:,} images of {parts[name][1]:,} subjects" for name in names
    )
    lines = [f"{summary['data']}, split by the protocol {summary['protocol']}: {counts}."]
    if "train" in names:
        data = config["data"]
        lines.append(
            f"Images: crop {data['crop'] or 'none'}, denoise {data['denoise']}, resized to"
            f" {data['image_size']} px, stain normalisation {data['stain']}, standardised by mean"
            " and spread of the training images."
        )
    else:
        accesses = summary["test_openings"]
        times = f"{accesses} time{'s' * (accesses != 1)}"
        lines.append(
            f"The test images had been accessed {times} when this card was written;"
            " test_openings.jsonl records all accesses."
        )
    return lines


_NOT_SHOWN = "this test does not show that the model uses more than these numbers"


def over_shortcuts_line(over: Mapping[str, Any]) -> str:
    """Returns a sentence on ``over_shortcuts`` of summary.json."""
    difference, low, high = over["difference"], over["low"], over["high"]
    if difference is None:
        return f"Balanced accuracy over the shortcuts alone: undefined; {over['reason']}."
    line = f"Balanced accuracy over the shortcuts alone: {difference:+.3f}"
    if low is None:
        if difference > 0:
            return f"{line}; no interval, {over['reason']}."
        return f"{line}: {_NOT_SHOWN} (no interval, {over['reason']})."
    line += f" (95 % CI {low:+.3f} to {high:+.3f} over {over['groups']:,} groups)"
    if low > 0:
        return f"{line}."
    return f"{line}: {_NOT_SHOWN}."


def _caveats(summary: Mapping[str, Any], about: About) -> list[str]:
    groups = summary["test"]["groups"]
    return [
        *about.warnings(),
        over_shortcuts_line(summary["over_shortcuts"]),
        f"The test images are of {groups} groups; any conclusion on new subjects rests on this"
        " number, and the intervals show its uncertainty.",
        *(f"On the data: {text}." for text in summary["data_warnings"]),
        NO_EXTERNAL_TEST,
        "One run, one seed: `python -m leukjax.crossval` and `leukjax.compare` show how much"
        " another seed, another fold or another model changes.",
    ]
