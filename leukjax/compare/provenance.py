"""Where the images of a run came from and went: flow, leakage, duplicates, cost, versions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from leukjax.compare.load_results import Entry, Run
from leukjax.rundir import RunDir

PARTS = ("train", "val", "test")
HELD_OUT = "held_out"  # of all folds of a study: what its ensembles are tested on


@dataclasses.dataclass(frozen=True)
class Step:
    """A line of the flow: part ("all", a part, "unused", "skipped"), class ("" = all), counts."""

    part: str
    of: str
    images: int
    subjects: int
    groups: int


@dataclasses.dataclass(frozen=True)
class Leakage:
    """What lies on more than one side of the split.

    Attributes:
        subjects, groups: that have images in more than one part.
        identical, near: pairs of identical and of nearly identical images.
        identical_across, near_across: those whose images lie in different parts.
    """

    subjects: int
    groups: int
    identical: int
    near: int
    identical_across: int
    near_across: int


def flow(run: Run) -> list[Step]:
    """Images, subjects and groups from the source to each part, in all and by class."""
    rows = [(subject, group, label, part) for subject, group, label, part in run.split.values()]
    steps = [_step("all", "", rows)]
    unused = [row for row in rows if not row[3]]
    if unused:
        steps.append(_step("unused", "", unused))
    for part in (*PARTS, HELD_OUT):
        mine = [row for row in rows if row[3] == part]
        if part == HELD_OUT and not mine:
            continue
        steps.append(_step(part, "", mine))
        for name in run.summary["classes"]:
            steps.append(_step(part, name, [row for row in mine if row[2] == name]))
    skipped = RunDir(run.folder).table("skipped.csv", ())
    if skipped:
        steps.append(Step("skipped", "", len(skipped), 0, 0))
    return steps


def _step(part: str, of: str, rows: list[tuple[str, str, str, str]]) -> Step:
    return Step(part, of, len(rows), len({row[0] for row in rows}), len({row[1] for row in rows}))


def leakage(run: Run) -> Leakage:
    """Counted from split.csv and duplicates.csv, whatever the run says of itself."""
    sides: tuple[dict[str, set[str]], dict[str, set[str]]] = ({}, {})
    for subject, group, _, part in run.split.values():
        if part:
            sides[0].setdefault(subject, set()).add(part)
            sides[1].setdefault(group, set()).add(part)
    pairs = RunDir(run.folder).table("duplicates.csv", ("kind", "id_a", "id_b"))
    counts = {"identical": 0, "near": 0, "identical_across": 0, "near_across": 0}
    for named, *ends in pairs:
        kind = "near" if named == "near" else "identical"
        counts[kind] += 1
        parts = {run.split.get(end, ("", "", "", ""))[3] for end in ends}
        counts[f"{kind}_across"] += len(parts - {""}) > 1
    torn = [sum(len(parts) > 1 for parts in each.values()) for each in sides]
    return Leakage(torn[0], torn[1], **counts)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model takes; means over its runs, None where it is not known.

    Attributes:
        parameters: their number.
        flops: of a forward pass of one image.
        images_per_second: in training; median over epochs after the first, which compiles.
        seconds: of training and validation, a run.
        runs: their number.
        device: of the first run.
    """

    model: str
    parameters: int | None
    flops: float | None
    images_per_second: float | None
    seconds: float | None
    runs: int
    device: str


def cost(entry: Entry) -> Cost:
    """The cost of a model, from its runs' logs."""
    if not entry.runs:
        return Cost("–", None, None, None, None, 0, "–")
    first = entry.runs[0].summary
    rates = [rate for run in entry.runs if (rate := _rate(run)) is not None]
    return Cost(
        first["model"],
        first["parameters"],
        float(first["flops_per_image"]),
        float(np.mean(rates)) if rates else None,
        float(np.mean([run.summary["seconds_trained"] for run in entry.runs])),
        len(entry.runs),
        first["device"],
    )


def _rate(run: Run) -> float | None:
    rates = [
        line["images_per_second"]
        for line in run.history
        if line["part"] == "train" and "images_per_second" in line
    ]
    return float(np.median(rates[1:] or rates)) if rates else None


def settings(entry: Entry) -> Mapping[str, Any]:
    """What of a model's config a reader of a comparison asks for."""
    if not entry.runs:
        return {}
    config = entry.runs[0].config
    optimizer, augment = config["optimizer"], config["augment"]
    used = [f"{name} {value:g}" if not isinstance(value, bool) else name
            for name, value in augment.items() if value]  # fmt: skip
    return {
        "initialisation": entry.runs[0].weights or "random",
        "image size": f"{config['data']['image_size']} px",
        "optimiser": f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g},"
        f" {optimizer['schedule']}, weight decay {optimizer['weight_decay']:g}",
        "epochs × batch": f"{config['train']['epochs']:g} × {config['train']['batch_size']}",
        "augmentation": ", ".join(used) or "none",
        "loss": config["loss"]["name"],
        "seeds": ", ".join(str(s) for s in sorted({run.config["seed"] for run in entry.runs})),
    }
