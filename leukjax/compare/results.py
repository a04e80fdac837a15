"""The numbers for machines: results.json, and the printed table as a paper for `leukjax.audit`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leukjax.compare import baseline, provenance, robustness_curves
from leukjax.compare.analysis import PRIMARY, PRIMARY_TEST, Pair, Scored, Study
from leukjax.compare.load_results import Entry
from leukjax.metrics.comparisons import INDEPENDENT
from leukjax.metrics.intervals import Interval

CURVE_EPOCHS = 10


def results_json(study: Study) -> str:
    """Every number of the report.

    ``models`` and ``comparisons`` are what other programs read; ``study`` says what was compared,
    and why a number is null.
    """
    content: dict[str, Any] = {
        "models": _models(study.scored, subject=False),
        "comparisons": _comparisons(study.pairs),
        "study": {
            "data": study.about.data,
            "part": study.shown[0].part,
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
                name: {score: i.reason for score, i in one.by_image.items() if i.reason}
                for name, one in study.scored.items()
            },
        },
        "by_subject": _models(study.scored, subject=True),
        "by_class": {name: one.plain.by_class for name, one in study.scored.items()},
        "seeds": {
            name: [seed.values for seed in one.seeds]
            for name, one in study.scored.items()
            if len(one.seeds) > 1
        },
        "calibration": {
            name: {
                "temperatures": found.temperatures,
                "before": found.scores_before.values,
                "after": found.scores_after and found.scores_after.values,
            }
            for name, found in study.calibration.items()
        },
    }
    if study.baseline is not None:
        content["baseline"] = _models({baseline.NAME: study.baseline}, subject=False)
    if study.out_of_fold:
        outside = study.out_of_fold_entries[0].predictions
        content["out_of_fold"] = {
            "models": _models(study.out_of_fold, subject=False),
            "comparisons": _comparisons(study.out_of_fold_pairs),
            "images": len(outside),
            "groups": len(set(outside.group.tolist())),
        }
        if study.out_of_fold_baseline is not None:
            found = {baseline.NAME: study.out_of_fold_baseline}
            content["out_of_fold"]["baseline"] = _models(found, subject=False)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _models(scored: Mapping[str, Scored], *, subject: bool) -> dict[str, Any]:
    return {
        name: {score: _interval(i) for score, i in found.items()}
        for name, one in scored.items()
        if (found := one.by_subject if subject else one.by_image) is not None
    }


def _interval(one: Interval) -> dict[str, Any]:
    method = None if one.method == "none" else one.method
    return {"value": one.value, "low": one.low, "high": one.high, "method": method,
            "groups": one.groups}  # fmt: skip


def role(pair: Pair) -> str:
    """primary, secondary, or contrast (a test that assumes independent images)."""
    if pair.found.test in INDEPENDENT:
        return "contrast"
    return "primary" if pair.primary else "secondary"


def _comparisons(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "a": pair.a,
            "b": pair.b,
            "score": pair.found.score,
            "difference": pair.found.difference,
            "low": pair.found.low,
            "high": pair.found.high,
            "test": pair.found.test,
            "statistic": pair.found.statistic,
            "p": pair.found.p,
            "p_holm": pair.p_holm,
            "role": role(pair),
        }
        for pair in pairs
    ]


def paper_toml(study: Study) -> str:
    """The tables as a paper would print them, in the form that `leukjax.audit` reads."""
    about = study.about
    lines = [
        "# The tables of this report, as a paper would print them.",
        "[paper]",
        f"title = {_text(f'Comparison of {len(study.shown)} models on {about.data}')}",
        "",
        "[data]",
        f"name = {_text(about.data)}",
    ]
    with_runs = [entry for entry in study.shown if entry.runs]
    if with_runs:
        counts = {s.part: s.images for s in provenance.flow(with_runs[0].runs[0]) if not s.of}
        used = [part for part in (*provenance.PARTS, provenance.HELD_OUT) if part in counts]
        if with_runs[0].folds:  # each image has another part in each fold
            lines.append(f"images = {sum(counts[part] for part in used)}")
        else:
            parts = ", ".join(f"{part} = {counts[part]}" for part in provenance.PARTS)
            lines += [
                f"images = {sum(counts[part] for part in provenance.PARTS)}",
                f"split_printed = {{{parts}}}",
            ]
    else:
        lines.append(f"images = {len(study.test)}")
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
    for entry in study.shown:
        found = study.scored[entry.name].by_image
        shown = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1"}
        values = ", ".join(
            f"{key} = {100 * value:.2f}"
            for key, score in shown.items()
            if (value := found[score].value) is not None
        )
        lines += ["", "[[test]]", f"model = {_text(entry.name)}", *kind]
        lines += [f"images = {len(study.test)}", f"percent = {{{values}}}"]
    return "\n".join(lines) + "\n"


def _training(entries: Sequence[Entry]) -> list[str]:
    """Each setting once where all models share it, else with the model's name before each value."""

    def values(field: Callable[[Entry], Any], *, number: bool = False) -> str:
        found = {entry.name: field(entry) for entry in entries}
        if len(set(found.values())) > 1:
            return _text("; ".join(f"{name}: {value}" for name, value in found.items()))
        shared = next(iter(found.values()))
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
    found = [one.by_image[PRIMARY] for one in study.scored.values()]
    methods = sorted({f"{one.method}, by group" for one in found if one.method != "none"})
    lines = ["[evaluation]", f"intervals = {_text('; '.join(methods) or 'not stated')}"]
    if any(robustness_curves.read(entry) for entry in study.shown):
        lines.append('distortion_experiment = "leukjax.robustness"')
    return lines


def _curve(entry: Entry, kind: Sequence[str]) -> list[str]:
    """Epoch, training loss, and of validation loss, accuracy, precision, recall and F1.

    Of the first run alone: means over runs satisfy none of the identities that an audit checks.
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
        before = train[line["step"]].get("loss")
        if before is None:
            continue
        rows.append(f"  [{int(epoch)}, {before:.3f}, {loss:.3f}, {printed}],")
    head = ["[[curve]]", f"model = {_text(entry.name)}", *kind, "rows = ["]
    return [*head, *rows, "]"] if rows else []


def _text(text: str) -> str:
    # A basic string of TOML is a string of JSON.
    return json.dumps(text, ensure_ascii=False)
