"""What the models of a study share and where they differ, as a table."""

import io
from typing import Any

from leukjax import config as configs
from leukjax.crossval.plan import Study
from leukjax.models.registry import option_names
from leukjax.report.text_tables import render
from leukjax.rundir import RunDir
from leukjax.storage import csv_writer, write_atomic

# Fields of a config that make no difference to any number, or that name what a row names better.
_LEFT_OUT = ("seed", "split.", "model.name")  # besides the free fields
SHARED = "shared"


def rows(study: Study) -> list[tuple[str, bool, list[str]]]:
    """(aspect, whether it is shared, its value for each model), for every aspect there is.

    The data, the folds, the seeds and the budget of tuning come first, then the model and what
    training it started from, then each field of the configs.
    """
    summaries = [RunDir(study.path(study.runs(model)[0])).summary() for model in study.models]
    each = list(study.configs.values())
    swept = list(study.trials[0]) if study.trials else []
    budget = f"{len(study.trials)} a fold: {', '.join(swept)}" if swept else "none"
    data = RunDir(study.path(study.runs()[0])).data()
    told: dict[str, list[Any]] = {
        "data": [summary["data"] for summary in summaries],
        "images and groups": [f"{data['images']:,} and {data['groups']:,}"] * len(each),
        "folds": [study.folds] * len(each),
        "held out of all folds": [_held_out(study)] * len(each),
        "seed of the split": [config.split.seed for config in each],
        "seeds of training": [" ".join(map(str, study.seeds))] * len(each),
        "tuning": [budget] * len(each),
        "chosen by, on validation": [config.checkpoint.metric for config in each],
        "architecture": [summary["model"] for summary in summaries],
        "parameters": [f"{summary['parameters']:,}" for summary in summaries],
        "FLOPs an image": [f"{summary['flops_per_image']:,}" for summary in summaries],
    }
    flat = [configs.flatten(config) for config in each]
    free = configs.free_fields()
    for field in flat[0]:
        left_out = field in free or any(field.startswith(name) for name in _LEFT_OUT)
        if left_out or field == "checkpoint.metric":
            continue
        told[field] = [
            "swept" if field in swept else _value(field, of, study.configs[model].model.name)
            for of, model in zip(flat, study.models, strict=True)
        ]
    return [
        (aspect, len(set(map(str, values))) == 1, list(map(str, values)))
        for aspect, values in told.items()
    ]


def _held_out(study: Study) -> str:
    protocol = next(iter(study.configs.values())).split.held_out
    return "nothing" if study.pool else f"test part of the protocol {protocol}"


def _value(field: str, flat: dict[str, Any], family: str) -> Any:
    section, name = field.split(".")[0], field.split(".")[-1]
    if section == "model" and name not in (*option_names(family), "fused"):
        return "–"  # this architecture has no such field
    empty = {"init.weights": "random", "data.positive": "the data set's"}
    value = flat[field]
    return empty.get(field, "none") if value == "" else value


def write(study: Study) -> None:
    """Write ``fairness.csv`` (every aspect) and ``fairness.md`` (what differs as a table)."""
    found = rows(study)
    text = io.StringIO()
    out = csv_writer(text)
    out.writerow(["aspect", SHARED, *study.models])
    out.writerows([aspect, "yes" if shared else "no", *of] for aspect, shared, of in found)
    write_atomic(study.folder / "fairness.csv", text.getvalue())
    write_atomic(study.folder / "fairness.md", _markdown(study, found))


def _markdown(study: Study, found: list[tuple[str, bool, list[str]]]) -> str:
    differing = [[aspect, *values] for aspect, shared, values in found if not shared]
    shared_by_all = [[aspect, values[0]] for aspect, shared, values in found if shared]
    parts = []
    if differing:
        left = range(len(study.models) + 1)
        table = render(["", *study.models], differing, markdown=True, left=left)
        parts += ["## What differs between the models\n", table + "\n"]
    table = render(["", "all models"], shared_by_all, markdown=True, left=(0, 1))
    parts += ["## What all models share\n", table + "\n"]
    return "\n".join(parts)
