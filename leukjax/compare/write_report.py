"""Writes the folder of a report: pages, tables, figures, results.json and paper.toml.

results.json is for other programs; paper.toml has the tables as a paper would print them, in the
form that `leukjax.audit` reads.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leukjax import storage
from leukjax.compare import external, robustness, run_facts
from leukjax.compare.analysis import (
    BASELINE,
    PRIMARY,
    PRIMARY_TEST,
    ModelScores,
    Pair,
    Study,
    make_study,
)
from leukjax.compare.load_results import Entry, read_entries
from leukjax.compare.sections import make_document
from leukjax.errors import UserError
from leukjax.metrics.intervals import Interval
from leukjax.report import page
from leukjax.report.style import save
from leukjax.rundir import RunDir
from leukjax.storage import write_atomic

INDEX = ".files.json"  # lists tables and figures, so that the next report can remove them
CURVE_EPOCHS = 10  # distance of the epochs in paper.toml
_FILE = re.compile(r"[A-Za-z0-9_-]+\.(csv|tex|png|svg|md)")
_FOLDERS = ("tables", "figures", "model_cards")


def compare_runs(
    runs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report",
    *,
    positive: str = "",
) -> list[str]:
    """Compares trained models and writes a report that opens offline.

    Nothing is written before all inputs have been read and checked; report.html comes last.

    Args:
      runs: work directories of finished runs, folders of cross-validations, or CSV files of
        predictions; ``"NAME=PATH"`` names one, ``"NAME=RUN,RUN"`` takes several seeds as one model.
        Folders of external tests (`leukjax.evaluate --data`) get a table of their own.
      output: folder to write.
      positive: class of precision, recall, F1 and AUROC. Default: that of the runs.

    Returns:
      The verdict, in sentences.

    Raises:
      ValueError: the inputs cannot be compared, or the output folder cannot be written.
    """
    models, tests = external.split_arguments([os.fspath(run) for run in runs])
    study = make_study(read_entries(models), positive, tests)
    document = make_document(study)
    cards = external.model_cards(study.entries, study.external)
    report = Path(output)
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be created ({error.strerror})") from error
    folders = {name: RunDir(report).path(name) for name in _FOLDERS}
    previous = _read_index(report / INDEX)
    index = {
        "tables": [f"{table.name}{end}" for table in document.tables() for end in (".csv", ".tex")],
        "figures": [
            f"{picture.name}{end}" for picture in document.pictures() for end in (".png", ".svg")
        ],
        "model_cards": list(cards),
    }
    for table in document.tables():
        write_atomic(folders["tables"] / f"{table.name}.csv", table.csv())
        write_atomic(folders["tables"] / f"{table.name}.tex", table.latex())
    for picture in document.pictures():
        save(picture.figure, folders["figures"], picture.name)
    for name, card in cards.items():
        write_atomic(folders["model_cards"] / name, card)
    write_atomic(report / "results.json", results_json(study))
    write_atomic(report / "paper.toml", paper_toml(study))
    write_atomic(report / "report.md", page.markdown(document))
    write_atomic(report / "report.html", page.html(document, folders["figures"]))
    for folder, names in previous.items():
        for name in set(names) - set(index[folder]):
            (folders[folder] / name).unlink(missing_ok=True)
    write_atomic(report / INDEX, json.dumps(index, indent=1) + "\n")
    return list(document.summary)


def _read_index(path: Path) -> dict[str, list[str]]:
    """Returns the files of an earlier report in the folder; no other file is ever removed."""
    try:
        content = storage.read_json(path)
        return {
            folder: [name for name in content.get(folder, []) if _FILE.fullmatch(name)]
            for folder in _FOLDERS
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {folder: [] for folder in _FOLDERS}


def results_json(study: Study) -> str:
    """Returns every number of the report as JSON.

    ``study`` names what was compared, and the reason of each number that is null.
    """
    content: dict[str, Any] = {
        "models": _models(study.scores),
        "comparisons": _comparisons(study.pairs),
        "study": {
            "data": study.about.data,
            "part": study.ranked[0].part,
            "classes": list(study.about.classes),
            "positive": study.about.positive or None,
            "primary": PRIMARY,
            "primary_test": PRIMARY_TEST,
            "images": len(study.test),
            "subjects": len(set(study.test.subject.tolist())),
            "groups": len(set(study.test.group.tolist())),
            "synthetic": study.about.synthetic,
            "leaky": [entry.name for entry in study.entries if entry.leaky],
            "notes": study.notes,
            "reasons": {
                model: {name: i.reason for name, i in scores.by_image.items() if i.reason}
                for model, scores in study.scores.items()
            },
        },
        "by_subject": _models(study.scores, by_subject=True),
        "by_class": {model: scores.values.by_class for model, scores in study.scores.items()},
        "seeds": {
            model: [seed.values for seed in scores.seeds]
            for model, scores in study.scores.items()
            if len(scores.seeds) > 1
        },
        "calibration": {
            model: {
                "temperatures": result.temperatures,
                "before": result.scores_before.values,
                "after": result.scores_after and result.scores_after.values,
            }
            for model, result in study.calibration.items()
        },
    }
    if study.external:
        content["external_tests"] = external.as_json(study.external)
    if any(subgroups.rows for subgroups in study.subgroups.values()):
        content["subgroups"] = {
            model: [dataclasses.asdict(row) for row in subgroups.rows]
            for model, subgroups in study.subgroups.items()
        }
    if study.baseline is not None:
        content["baseline"] = _models({BASELINE: study.baseline})
    if study.out_of_fold:
        predictions = study.out_of_fold_entries[0].predictions
        content["out_of_fold"] = {
            "models": _models(study.out_of_fold),
            "comparisons": _comparisons(study.out_of_fold_pairs),
            "images": len(predictions),
            "groups": len(set(predictions.group.tolist())),
        }
        if study.out_of_fold_baseline is not None:
            baseline = {BASELINE: study.out_of_fold_baseline}
            content["out_of_fold"]["baseline"] = _models(baseline)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _models(models: Mapping[str, ModelScores], *, by_subject: bool = False) -> dict[str, Any]:
    return {
        model: {name: _interval(interval) for name, interval in by_name.items()}
        for model, scores in models.items()
        if (by_name := scores.by_subject if by_subject else scores.by_image) is not None
    }


def _interval(interval: Interval) -> dict[str, Any]:
    record = dataclasses.asdict(interval)
    del record["reason"]
    return record | {"method": None if interval.method == "none" else interval.method}


def _comparisons(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    fields = ("score", "difference", "low", "high", "test", "statistic", "p")
    return [
        {"a": pair.a, "b": pair.b}
        | {field: getattr(pair.result, field) for field in fields}
        | {"p_holm": pair.p_holm, "role": pair.role}
        for pair in pairs
    ]


def paper_toml(study: Study) -> str:
    """Returns the tables as a paper would print them, in the form that `leukjax.audit` reads."""
    about = study.about
    lines = [
        "# The tables of this report, as a paper would print them.",
        "[paper]",
        f"title = {_text(f'Comparison of {len(study.ranked)} models on {about.data}')}",
        "",
        "[data]",
        f"name = {_text(about.data)}",
    ]
    with_runs = [entry for entry in study.ranked if entry.runs]
    lines += _image_counts(with_runs[0]) if with_runs else [f"images = {len(study.test)}"]
    unit = "image" if about.leaky else "subject"
    lines += [
        f"unit_of_split = {_text(unit)}",
        f"positive_class = {_text(about.positive or 'mean over classes')}",
    ]
    if with_runs:
        lines += ["", *_training(with_runs)]
    lines += ["", *_evaluation(study)]
    # Above two classes every score is a mean over them, which satisfies no identity.
    kind = [] if about.positive else ['kind = "macro"']
    for entry in with_runs:
        lines += ["", *_curve(entry, kind)]
    for entry in study.ranked:
        scores = study.scores[entry.name].by_image
        values = ", ".join(
            f"{name} = {100 * value:.2f}"
            for name in ("accuracy", "precision", "recall", "f1")
            if (value := scores[name].value) is not None
        )
        lines += ["", "[[test]]", f"model = {_text(entry.name)}", *kind]
        lines += [f"images = {len(study.test)}", f"percent = {{{values}}}"]
    return "\n".join(lines) + "\n"


def _image_counts(entry: Entry) -> list[str]:
    steps = run_facts.flow(entry.runs[0])
    counts = {step.part: step.images for step in steps if not step.label}
    if entry.folds:  # the part of an image differs between folds
        used = [part for part in (*run_facts.PARTS, run_facts.HELD_OUT) if part in counts]
        return [f"images = {sum(counts[part] for part in used)}"]
    parts = ", ".join(f"{part} = {counts[part]}" for part in run_facts.PARTS)
    total = sum(counts[part] for part in run_facts.PARTS)
    return [f"images = {total}", f"split_printed = {{{parts}}}"]


def _training(entries: Sequence[Entry]) -> list[str]:
    """Returns each setting once if all models share it, otherwise with the name of each model."""

    def values(field: Callable[[Entry], Any], *, number: bool = False) -> str:
        by_model = {entry.name: field(entry) for entry in entries}
        if len(set(by_model.values())) > 1:
            return _text("; ".join(f"{name}: {value}" for name, value in by_model.items()))
        shared = next(iter(by_model.values()))
        return str(shared) if number else _text(str(shared))

    def config(entry: Entry) -> dict[str, Any]:
        return entry.runs[0].config

    def epochs(entry: Entry) -> str:
        return f"{config(entry)['train']['epochs']:g}"

    whole = all(float(epochs(entry)).is_integer() for entry in entries)
    return [
        "[training]",
        f"optimizer = {values(lambda e: config(e)['optimizer']['name'])}",
        f"loss = {values(lambda e: config(e)['loss']['name'].replace('_', ' '))}",
        f"batch_size = {values(lambda e: config(e)['train']['batch_size'], number=True)}",
        f"epochs = {values(epochs, number=whole)}",
        f"learning_rate = {values(lambda e: format(config(e)['optimizer']['learning_rate'], 'g'))}",
        f"seeds = {values(_seeds)}",
    ]


def _seeds(entry: Entry) -> str:
    return ", ".join(str(seed) for seed in sorted({run.config["seed"] for run in entry.runs}))


def _evaluation(study: Study) -> list[str]:
    used = {scores.by_image[PRIMARY].method for scores in study.scores.values()} - {"none"}
    methods = sorted(f"{method}, by group" for method in used)
    lines = ["[evaluation]", f"intervals = {_text('; '.join(methods) or 'not stated')}"]
    if any(robustness.read(entry) for entry in study.ranked):
        lines.append('distortion_experiment = "leukjax.robustness"')
    return lines


def _curve(entry: Entry, kind: Sequence[str]) -> list[str]:
    """Returns epoch, training loss, and validation loss, accuracy, precision, recall and F1.

    Only of the first run: means over runs do not satisfy the identities that an audit checks.
    """
    history = entry.runs[0].history
    train = {line["step"]: line for line in history if line["part"] == "train"}
    rows = []
    for line in history:
        names = ("loss", "accuracy", "precision", "recall", "f1")
        epoch = float(line["epoch"])
        if line["part"] != "val" or line["step"] not in train or epoch != int(epoch):
            continue
        if any(line.get(name) is None for name in names) or (epoch != 1 and epoch % CURVE_EPOCHS):
            continue
        loss, *scores = (line[name] for name in names)
        printed = ", ".join(f"{value:.4f}" for value in scores)
        train_loss = train[line["step"]].get("loss")
        if train_loss is None:
            continue
        rows.append(f"  [{int(epoch)}, {train_loss:.3f}, {loss:.3f}, {printed}],")
    head = ["[[curve]]", f"model = {_text(entry.name)}", *kind, "rows = ["]
    return [*head, *rows, "]"] if rows else []


def _text(text: str) -> str:
    # A JSON string is a basic string of TOML.
    return json.dumps(text, ensure_ascii=False)
